"""Colour, cutting and progress only where a person watches."""

from __future__ import annotations

import io

import pytest

from agent.cli.render import Screen
from agent.cli.terminal import Progress, screen_for


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "colour"),
    [
        ({"TERM": "xterm-256color"}, True),
        ({"TERM": "xterm", "NO_COLOR": ""}, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
        ({"TERM": ""}, False),
        ({}, False),
    ],
)
def test_the_environment_decides_on_colour(environment: dict[str, str], colour: bool) -> None:
    assert screen_for(True, "utf-8", environment, 80) == Screen(80, colour, True)


def test_a_pipe_gets_neither_colour_nor_cutting() -> None:
    assert screen_for(False, "utf-8", {"TERM": "xterm"}, 80) == Screen(None, False, True)


def test_full_output_is_not_cut_but_coloured() -> None:
    assert screen_for(True, "UTF-8", {"TERM": "xterm"}, 80, full=True) == Screen(None, True, True)


def test_other_encodings_are_noticed() -> None:
    assert not screen_for(True, "ascii", {"TERM": "xterm"}, 80).unicode


def test_progress_waits_a_second_and_cleans_up() -> None:
    stream = Terminal()
    progress = Progress(100.0, stream)
    progress.update("early", 100.9)
    assert stream.getvalue() == ""
    progress.update("1,500 records", 101.0)
    progress.update("1,501 records", 101.1)
    assert stream.getvalue() == "\r1,500 records\x1b[K"
    progress.finish()
    progress.update("late", 200.0)
    progress.finish()
    assert stream.getvalue().endswith("records\x1b[K\r\x1b[K")


def test_nobody_watching_means_no_progress() -> None:
    stream = io.StringIO()
    progress = Progress(100.0, stream)
    progress.update("text", 200.0)
    progress.finish()
    assert stream.getvalue() == ""

"""Where a command's results go. One rule: standard output holds results only, whole lines, flushed per batch.

Everything said about a result (progress, shortfalls, errors) goes to standard error.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TextIO

from agent.cli.escape import escape
from agent.cli.formats import csv_text, json_lines, json_text
from agent.cli.render import Screen
from agent.cli.terminal import is_terminal


class Output:
    """Writes results in the format asked for (one of formats.FORMATS)."""

    def __init__(self, stream: TextIO, kind: str, screen: Screen) -> None:
        self.kind = kind
        self.screen = screen
        self.writing = False
        """Inside a write, which may block for as long as the reader likes: a signal has to break it."""
        self.stream = stream
        self._has_header = False

    @property
    def terminal(self) -> bool:
        """Whether a person may be watching."""
        return is_terminal(self.stream)

    def lines(self, lines: Iterable[str]) -> None:
        """Lines for a person, already escaped (agent.cli.render does it)."""
        self.text("".join(line + "\n" for line in lines))

    def document(self, document: Mapping[str, object]) -> None:
        """The one JSON document of this run; indented where a person watches."""
        self.text(json_text(document, indent=self.terminal))

    def documents(self, documents: Iterable[Mapping[str, object]]) -> None:
        """A batch of JSON lines."""
        self.text(json_lines(documents))

    def rows(self, header: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
        """A batch of CSV rows, with the header before the first."""
        self.text(csv_text(header, rows, with_header=not self._has_header))
        self._has_header = True

    def text(self, text: str) -> None:
        """Text as it stands. Raises: OSError, BrokenPipeError when nobody reads any more."""
        self.writing = True
        try:
            self.stream.write(text)
            self.stream.flush()
        finally:
            self.writing = False


def complain(message: str) -> None:
    """One line on standard error, escaped: what it quotes may come from a watched process."""
    sys.stderr.write(f"daemoneye: {escape(message)}\n")
    sys.stderr.flush()


def discard_output() -> None:
    """Send what is still buffered for standard output nowhere: its reader is gone, or must not be waited for.

    Python flushes at exit; without this that flush would fail with a message, or block.
    """
    descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(descriptor, sys.stdout.fileno())
    os.close(descriptor)

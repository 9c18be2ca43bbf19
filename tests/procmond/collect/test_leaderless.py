"""procmond.collect.leaderless: a thread that lives is found, however many that do not stand before it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from procmond.collect.leaderless import living_thread

STAT = Path("/proc/self/stat").read_text().partition(") ")[2].partition(" ")[2]


def threads(folder: Path, states: str) -> bytes:
    """A /proc in `folder` with process 1, whose threads have these states."""
    for number, state in enumerate(states, 1):
        task = folder / "1" / "task" / str(number)
        task.mkdir(parents=True)
        (task / "stat").write_text(f"{number} (name) {state} {STAT}")
    return os.fsencode(folder)


@pytest.mark.parametrize("dead", [0, 3, 200])
def test_a_living_thread_is_found_behind_any_kept_by_a_tracer(tmp_path: Path, dead: int) -> None:
    found = living_thread(threads(tmp_path, "Z" * (1 + dead) + "S"), 1)
    assert found is not None
    assert found.number == dead + 2


def test_where_none_lives_none_is_found(tmp_path: Path) -> None:
    assert living_thread(threads(tmp_path, "ZZX"), 1) is None


def test_where_there_is_no_process_none_is_found(tmp_path: Path) -> None:
    assert living_thread(os.fsencode(tmp_path), 1) is None

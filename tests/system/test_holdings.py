"""What each child of procmond holds: what it was given, what its event loop made, and nothing else."""

from __future__ import annotations

import os

import pytest

from common.messages import CollectionOptions, new_enumerate_task
from tests.support.daemons import Procmond
from tests.support.forked import Forked
from tests.support.privilege import needs_root

pytestmark = needs_root

STANDARD = {"0", "1", "2"}


def held(pid: int) -> set[str]:
    """What a process has open but for the standard descriptors."""
    folder = f"/proc/{pid}/fd"
    return {os.readlink(f"{folder}/{name}") for name in os.listdir(folder) if name not in STANDARD}


@pytest.mark.parametrize(
    ("child", "kinds"),
    [
        ("front", ("socket:", "pipe:", "anon_inode:[event")),
        ("collector", ("socket:", "pipe:", "anon_inode:", "/proc/", "/dev/null")),
    ],
)
def test_a_child_holds_no_file_to_write_to(child: str, kinds: tuple[str, ...]) -> None:
    with Procmond() as procmond, procmond.connect() as client:
        assert client.ask(new_enumerate_task("e", stream=True, options=CollectionOptions()))[-1].success
        for target in held(procmond.children()[child]):
            assert target.startswith(kinds), target


@pytest.mark.parametrize("child", ["front", "collector"])
def test_what_procmond_was_started_with_is_not_passed_on(child: str) -> None:
    stray = os.open("/etc/passwd", os.O_RDONLY)
    try:
        with Forked(lambda: None) as procmond:
            assert "/etc/passwd" in held(procmond.pid)
            assert "/etc/passwd" not in held(procmond.children()[child])
    finally:
        os.close(stray)

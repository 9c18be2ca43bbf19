"""One event on its way to subscribers. One rule: encoded once, whoever gets it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from common.messages import ProcessEventKind
from procmond.collect.hash_cache import HashOutcome

Key = tuple[int, int]
"""(pid, start_ticks): a process, within one boot. start_ticks 0: the source could not tell."""

Losses = Mapping[ProcessEventKind, int]
"""Events that were lost, by kind; UNSPECIFIED: of any."""

REPORTED: Final = (
    ProcessEventKind.UNSPECIFIED,
    ProcessEventKind.FORK,
    ProcessEventKind.EXEC,
    ProcessEventKind.EXIT,
    ProcessEventKind.CREDENTIALS,
)
"""The kinds a source reports, and UNSPECIFIED for losses of any kind, in the order of counters."""


class Event(msgspec.Struct, gc=False):
    """What one process did, ready to be sent."""

    kind: ProcessEventKind
    boot_ns: int
    """CLOCK_BOOTTIME."""
    key: Key
    parent: Key | None
    """FORK: who forked; else the process's parent now, where known."""
    name: str
    path: str | None
    """Of the image that runs, where known."""
    body: bytes
    """A ProcessEvent without its sequence; that is appended, for concatenated messages merge."""
    outcome: HashOutcome | None = None
    """EXEC: the digests of the image; sha256 is in the body already."""
    environment: bytes = b""
    """EXEC: the part of the ProcessRecord for those who asked for the environment."""

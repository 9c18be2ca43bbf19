"""Events from two looks at all processes. One rule: it says only what the two looks show, and that this is
not all.

Pure: the looking is done by `found`. What begins and ends between two looks leaves no trace in either.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from common.messages import ProcessEventKind
from procmond.collect.sighting import FileIdentity
from procmond.events.event import Key

INTERVAL_S: Final = 2.0
"""Seconds from the end of one look to the next."""
MAX_SHARE: Final = 0.05
"""Of one core that looking may take: on a host with many processes the interval grows instead."""

BLIND_SPOTS: Final = (
    f"polling every {INTERVAL_S:g} s or more does not see processes that start and end between two looks, "
    "the run of an image by a process that runs it already, changes of credentials, exit codes, who forked"
)


class Seen(NamedTuple):
    """One process in one look."""

    parent: Key | None
    name: str
    path: str | None
    image: FileIdentity | None


class Change(NamedTuple):
    """What must have happened between two looks."""

    kind: ProcessEventKind
    key: Key


def differ(before: Mapping[Key, Seen], now: Mapping[Key, Seen]) -> list[Change]:
    """What happened between two looks: ends first, for numbers are used again; then forks, older processes
    first, each followed by the run of an image its parent does not run."""
    changes = [Change(ProcessEventKind.EXIT, key) for key in before if key not in now]
    for key, seen in sorted(now.items(), key=lambda entry: (entry[0][1], entry[0][0])):
        earlier = before.get(key)
        if earlier is None:
            changes.append(Change(ProcessEventKind.FORK, key))
            earlier = None if seen.parent is None else now.get(seen.parent)
            if seen.image is not None and (earlier is None or earlier.image != seen.image):
                changes.append(Change(ProcessEventKind.EXEC, key))
        elif seen.image is not None and _place(earlier) != _place(seen):
            changes.append(Change(ProcessEventKind.EXEC, key))
    return changes


def _place(seen: Seen) -> tuple[object, ...]:
    """Which file runs. Not its state: a running image may be renamed or linked, which moves its ctime."""
    return (seen.image.device, seen.image.inode) if seen.image is not None else ()

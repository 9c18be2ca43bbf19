"""What runs, as one sweep saw it, and how two sweeps differ. One rule: a pid is not an identity. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from agent.answer import Answer
from common.messages import ProcessKey, ProcessRecord


class WeakKey(NamedTuple):
    """What has to do where the server gives no boot_id and start_ticks: a pid re-used within one second, or
    a clock that is set, goes unnoticed."""

    pid: int
    start_time: int | None


class Inventory(msgspec.Struct, frozen=True, kw_only=True):
    """The processes of one sweep by identity. `weak`: the identities are WeakKeys."""

    records: Mapping[ProcessKey | WeakKey, ProcessRecord]
    weak: bool = False


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """One sweep in numbers. None: a server that knows only the specification does not say."""

    processes: int
    new: int
    gone: int
    executables: int
    """Distinct running images, by device and inode where those are known, else by path."""
    hashed: int
    pending: int | None = None
    refused: int | None = None
    """Executables without a hash, for the reason in each record's hash_state."""
    vanished: int | None = None
    inaccessible: int


class SweepReport(msgspec.Struct, frozen=True, kw_only=True):
    """A completed sweep, for whoever listens."""

    inventory: Inventory
    answer: Answer
    counts: Counts
    duration_s: float
    began_ns: int = 0
    """CLOCK_BOOTTIME just before it was asked for: it tells nothing older."""


def take_inventory(answer: Answer) -> Inventory:
    """The processes of a whole answer; the last record wins where two have the same identity."""
    records: dict[ProcessKey | WeakKey, ProcessRecord] = {}
    for record in answer.processes:
        if answer.boot_id:
            records[ProcessKey(answer.boot_id, record.pid, record.start_ticks)] = record
        else:
            records[WeakKey(record.pid, record.start_time)] = record
    return Inventory(records=records, weak=not answer.boot_id)


def count(answer: Answer, current: Inventory, previous: Inventory | None) -> Counts:
    """A sweep in numbers, compared with the one before; without one, all that runs is new."""
    before = previous.records.keys() if previous is not None else frozenset()
    now = current.records.keys()
    summary = answer.summary
    records = current.records.values()
    changes = {"new": len(now - before), "gone": len(before - now)}
    images = _images(records)
    if summary is None:
        return Counts(
            processes=len(now),
            executables=len(images),
            hashed=len(_images(record for record in records if record.executable_hash)),
            inaccessible=sum(not record.accessible for record in records),
            **changes,
        )
    return Counts(
        processes=len(now),
        executables=len(images),
        hashed=summary.executables_hashed,
        pending=summary.executables_pending,
        refused=summary.executables_unhashed,
        vanished=summary.processes_vanished,
        inaccessible=summary.processes_inaccessible,
        **changes,
    )


def _images(records: Iterable[ProcessRecord]) -> set[tuple[int, int] | str]:
    images: set[tuple[int, int] | str] = set()
    for record in records:
        if record.executable_inode:
            images.add((record.executable_device, record.executable_inode))
        elif record.executable_path:
            images.add(record.executable_path)
    return images

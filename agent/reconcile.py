"""Events against what really runs. One rule: the table is put right, and everything put right is told.

Pure. A list of all processes (a sweep, a snapshot) is not one instant and races with the events: what an
event spoke of after the list was begun is the event's to say, everything else is the list's. Whoever calls
has given events that were under way the time to arrive.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final

import msgspec

from agent.table import Entry, Identity, ProcessTable, parent_of
from common.messages import ProcessRecord, ProcessStatus

NANOSECONDS_PER_TICK: Final = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
"""start_ticks count these from the boot on, suspended time included (proc(5), field 22 of stat)."""


class Change(msgspec.Struct, frozen=True):
    """A process that is no longer what its last event said."""

    before: ProcessRecord
    after: ProcessRecord
    what: tuple[str, ...]
    """Of `image` and `credentials`, in this order."""


class Repairs(msgspec.Struct, frozen=True):
    """What no event had told."""

    started: tuple[ProcessRecord, ...] = ()
    ended: tuple[ProcessRecord, ...] = ()
    changed: tuple[Change, ...] = ()
    superseded: int = 0
    """Processes that ended untold since the last comparison: another one got their pid."""

    @property
    def number(self) -> int:
        """Processes put right."""
        return len(self.started) + len(self.ended) + len(self.changed) + self.superseded

    @property
    def credentials_only(self) -> bool:
        """Whether nothing but changes of credentials was missed."""
        return self.number == len(self.changed) and all(one.what == ("credentials",) for one in self.changed)


class Comparison:
    """A table against one list of all processes, begun at `began_ns` (CLOCK_BOOTTIME), a record at a time.

    `told`: the list is a snapshot, part of the stream itself, and so later than every event before it. A list
    from elsewhere leaves to the events what started since it was begun.
    """

    def __init__(self, table: ProcessTable, began_ns: int, *, told: bool = False) -> None:
        self._table = table
        self.began_ns = began_ns
        self._told = told
        self._started: list[ProcessRecord] = []
        self._changed: list[Change] = []
        self._listed: set[Identity] = set()

    def add(self, record: ProcessRecord, looked_ns: int) -> None:
        """A process of the list, as it was at `looked_ns`."""
        identity = (record.pid, record.start_ticks)
        entry = self._table.get(identity)
        if _has_ended(record):
            # Its entry is taken out by `finish`, like that of any process which no longer runs.
            if entry is None and self._is_news(identity):
                self._table.remember(Entry(record, parent_of(record), looked_ns))
                self._started.append(record)
            return
        self._listed.add(identity)
        if entry is None:
            if self._is_news(identity) and self._start(record, looked_ns):
                self._started.append(record)
        elif self._told or entry.changed_ns < self.began_ns:
            change = _adopt(self._table, entry, record, looked_ns if self._told else entry.changed_ns)
            if change is not None:
                self._changed.append(change)

    def finish(self) -> Repairs:
        """The list is complete; what the table had and the list has not is taken out."""
        ended: list[ProcessRecord] = []
        for identity in self._table:
            entry = self._table.get(identity)
            if entry is None or identity in self._listed or entry.changed_ns >= self.began_ns:
                continue
            self._table.end(identity, self.began_ns)
            if not _has_ended(entry.record):
                ended.append(entry.record)
        started, changed = tuple(self._started), tuple(self._changed)
        return Repairs(started, tuple(ended), changed, self._table.take_superseded())

    def _is_news(self, identity: Identity) -> bool:
        """Whether a process that is not in the table started untold, as far as can be known.

        It may also have ended since it was listed; if its end may be forgotten, the next list decides.
        """
        if self._table.ended(identity) is not None:
            return False
        started_ns = identity[1] * NANOSECONDS_PER_TICK
        return self._told or max(self._table.forgotten_ns, started_ns) < self.began_ns

    def _start(self, record: ProcessRecord, looked_ns: int) -> bool:
        """Put a listed process in; whether no event had told of it."""
        holder = self._table.holder(record.pid)
        if holder is not None and holder.changed_ns >= self.began_ns and not self._told:
            return False  # the pid has been another's since
        entry = self._table.start(record, parent_of(record), looked_ns)
        # One whose start_ticks no event could tell is identified now; without room the table counts it.
        identified = holder is not None and not holder.record.start_ticks
        return not identified and self._table.get(entry.identity) is not None


def reconcile(table: ProcessTable, records: Iterable[ProcessRecord], *, began_ns: int) -> Repairs:
    """Put `table` right by a sweep: `records` are all processes of a list begun at `began_ns`."""
    comparison = Comparison(table, began_ns)
    for record in records:
        comparison.add(record, began_ns)
    return comparison.finish()


def _has_ended(record: ProcessRecord) -> bool:
    """A zombie, waiting for its parent to ask; one with threads left is a leader that ended before them."""
    return record.status in (ProcessStatus.ZOMBIE, ProcessStatus.DEAD) and record.threads <= 1


def _adopt(table: ProcessTable, entry: Entry, record: ProcessRecord, looked_ns: int) -> Change | None:
    """Make `record` what is known of the process; the change, if an event should have told of it."""
    before = entry.record
    entry.changed_ns = looked_ns
    if _facts(before) == _facts(record):
        return None
    what = []
    if _image_changed(before, record):
        what.append("image")
    if _credentials_changed(before, record):
        what.append("credentials")
    table.start(record, entry.parent, looked_ns)
    return Change(before, record, tuple(what)) if what else None


def _facts(record: ProcessRecord) -> tuple[object, ...]:
    return (
        record.name,
        record.executable_path,
        record.executable_inode,
        record.executable_hash,
        record.status in (ProcessStatus.ZOMBIE, ProcessStatus.DEAD),
        *_credentials(record),
    )


def _image_changed(before: ProcessRecord, after: ProcessRecord) -> bool:
    """Whether another image runs: a renamed or deleted file is still the same one.

    Inodes that differ alone prove nothing: a kernel event may name another than stat does (overlayfs).
    """
    if before.executable_path is None or after.executable_path is None:
        return False
    if before.executable_inode and before.executable_inode == after.executable_inode:
        return False
    if before.executable_path != after.executable_path:
        return True
    return bool(
        before.executable_hash and after.executable_hash and before.executable_hash != after.executable_hash
    )


def _credentials_changed(before: ProcessRecord, after: ProcessRecord) -> bool:
    # Without user_id nothing was known: the entry of a fork whose parent nobody knew.
    return before.user_id is not None and _credentials(before) != _credentials(after)


def _credentials(record: ProcessRecord) -> tuple[int, ...]:
    return record.real_uid, record.effective_uid, record.real_gid, record.effective_gid

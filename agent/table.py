"""The processes that run, as events tell. One rule: bounded, keyed by identity, and never behind its events.

Pure. Of a process that ended the entry is remembered for a while: its children still name it, and a sweep may
still have met it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from common.limits import TABLE_ENDED, TABLE_PROCESSES
from common.messages import ProcessEvent, ProcessEventKind, ProcessRecord

Identity = tuple[int, int]
"""pid and start_ticks: a table belongs to one boot. start_ticks 0: the source could not tell."""

_CREDENTIALS = ("user_id", "real_uid", "effective_uid", "real_gid", "effective_gid", "user_name")


class Entry(msgspec.Struct):
    """One process, as far as it is known."""

    record: ProcessRecord
    parent: Identity | None = None
    """Who forked it, before any reparenting."""
    changed_ns: int = 0
    """CLOCK_BOOTTIME of the last event that spoke of it."""

    @property
    def identity(self) -> Identity:
        """Of its record."""
        return self.record.pid, self.record.start_ticks


class ProcessTable:
    """At most `limit` processes and the last `remembered` that ended.

    `keep` makes of each record what is worth its memory; ids, names, paths, hashes and credentials must stay.
    """

    def __init__(
        self,
        keep: Callable[[ProcessRecord], ProcessRecord] = lambda record: record,
        *,
        limit: int = TABLE_PROCESSES,
        remembered: int = TABLE_ENDED,
    ) -> None:
        self.refused = 0
        """Processes there was no room for."""
        self.forgotten_ns = -1
        """When the latest of those ended that are no longer remembered."""
        self._keep = keep
        self._limit = limit
        self._remembered = remembered
        self._entries: dict[Identity, Entry] = {}
        self._by_pid: dict[int, Identity] = {}
        self._ended: dict[Identity, Entry] = {}
        self._superseded = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Identity]:
        """Identities of all that run; the table may change meanwhile."""
        return iter(tuple(self._entries))

    def get(self, identity: Identity) -> Entry | None:
        """The process, if it runs."""
        return self._entries.get(identity)

    def ended(self, identity: Identity) -> Entry | None:
        """The process, if it ended and is remembered; it is then remembered for longer."""
        entry = self._ended.pop(identity, None)
        if entry is not None:
            self._ended[identity] = entry
        return entry

    def known(self, identity: Identity | None) -> ProcessRecord | None:
        """What is known of a process that runs or ended a while ago."""
        entry = None if identity is None else self._entries.get(identity) or self._ended.get(identity)
        return None if entry is None else entry.record

    def holder(self, pid: int) -> Entry | None:
        """The process that has this pid now."""
        identity = self._by_pid.get(pid)
        return None if identity is None else self._entries.get(identity)

    def take_superseded(self) -> int:
        """How many processes, since this was last asked, ended untold before another got their pid."""
        number, self._superseded = self._superseded, 0
        return number

    def parent_of(self, entry: Entry) -> ProcessRecord | None:
        """What is known of who forked it."""
        return self.known(entry.parent)

    def apply(self, event: ProcessEvent) -> Entry | None:
        """Take a SNAPSHOT, FORK, EXEC, CREDENTIALS or EXIT event; the process as it is after it.

        None when the event speaks of no process, or of one that nothing is known of.
        """
        identity = self._identity_of(event)
        match event.kind:
            case ProcessEventKind.SNAPSHOT | ProcessEventKind.EXEC:
                return self._take_record(identity, event)
            case ProcessEventKind.FORK:
                return self._fork(identity, event)
            case ProcessEventKind.CREDENTIALS:
                return self._change_credentials(identity, event)
            case ProcessEventKind.EXIT:
                return self.end(identity, event.boot_time_ns)
            case _:
                return None

    def start(self, record: ProcessRecord, parent: Identity | None, changed_ns: int) -> Entry:
        """Put in a process, or what is now known of one. Without room the entry is returned, but not kept."""
        entry = Entry(self._keep(record), parent, changed_ns)
        identity = entry.identity
        holder = self.holder(record.pid)
        if holder is not None and holder.identity != identity:
            if holder.record.start_ticks and holder.changed_ns > changed_ns:
                # A snapshot showed who got the pid since; the end of this one follows.
                self.remember(entry)
                return entry
            # One pid, one process: who had it must have ended. One without start_ticks is now identified.
            self._superseded += bool(holder.record.start_ticks)
            self.end(holder.identity, changed_ns)
        if identity not in self._entries and len(self._entries) >= self._limit:
            self.refused += 1
            return entry
        self._entries[identity] = entry
        self._by_pid[record.pid] = identity
        return entry

    def end(self, identity: Identity, at_ns: int) -> Entry | None:
        """Take out a process that ended, and remember it."""
        entry = self._entries.pop(identity, None)
        if entry is None:
            return None
        if self._by_pid.get(identity[0]) == identity:
            del self._by_pid[identity[0]]
        entry.changed_ns = at_ns
        self.remember(entry)
        return entry

    def remember(self, entry: Entry) -> None:
        """Remember a process that has ended; beyond the bound the oldest is forgotten."""
        self._ended[entry.identity] = entry
        if len(self._ended) > self._remembered:
            forgotten = self._ended.pop(next(iter(self._ended)))
            self.forgotten_ns = max(self.forgotten_ns, forgotten.changed_ns)

    def clear(self) -> None:
        """Forget everything: another boot."""
        self._entries.clear()
        self._by_pid.clear()
        self._ended.clear()
        self._superseded = 0

    def _identity_of(self, event: ProcessEvent) -> Identity:
        if event.start_ticks:
            return event.pid, event.start_ticks
        # Events are in order, so a pid without start_ticks is that of its present holder.
        return self._by_pid.get(event.pid, (event.pid, 0))

    def _take_record(self, identity: Identity, event: ProcessEvent) -> Entry | None:
        record = event.process
        before = self._entries.get(identity)
        if record is None:
            if before is not None:
                before.changed_ns = event.boot_time_ns
            return before
        if (record.pid, record.start_ticks) != identity:
            record = msgspec.structs.replace(record, pid=identity[0], start_ticks=identity[1])
        return self.start(record, before.parent if before else parent_of(record), event.boot_time_ns)

    def _fork(self, identity: Identity, event: ProcessEvent) -> Entry:
        pid = event.parent_pid
        parent = None
        if pid is not None:
            ticks = event.parent_start_ticks
            parent = (pid, ticks) if ticks else self._by_pid.get(pid, (pid, 0))
        base = self._known_at(parent, event.boot_time_ns) or ProcessRecord()
        record = msgspec.structs.replace(
            _overlay(base, event.process) if event.process is not None else base,
            pid=identity[0],
            start_ticks=identity[1],
            ppid=pid,
            parent_start_ticks=event.parent_start_ticks,
        )
        return self.start(record, parent, event.boot_time_ns)

    def _known_at(self, identity: Identity | None, moment_ns: int) -> ProcessRecord | None:
        """What was known of a process then; None where something has changed it since.

        A snapshot shows who forked as it is when its turn comes, and the fork is told after it.
        """
        entry = None if identity is None else self._entries.get(identity) or self._ended.get(identity)
        if entry is None or (identity in self._entries and entry.changed_ns > moment_ns):
            return None
        return entry.record

    def _change_credentials(self, identity: Identity, event: ProcessEvent) -> Entry | None:
        entry = self._entries.get(identity)
        if entry is None:
            return None
        entry.changed_ns = event.boot_time_ns
        if event.process is not None and event.process.user_id is not None:
            # Not laid over like the rest: 0, which reads as "not said" elsewhere, is root here.
            changes = {name: getattr(event.process, name) for name in _CREDENTIALS}
            entry.record = msgspec.structs.replace(entry.record, **changes)
        return entry


def parent_of(record: ProcessRecord) -> Identity | None:
    """The parent a record names; of a process that was reparented the new one."""
    if record.ppid is None or record.parent_start_ticks is None:
        return None
    return record.ppid, record.parent_start_ticks


def slim(record: ProcessRecord) -> ProcessRecord:
    """A record without what only a person reads: for tables that outlive the answer it came in."""
    return msgspec.structs.replace(
        record,
        command_line=(),
        environment=(),
        digests=(),
        exceptions=(),
        cwd="",
        cgroup="",
        tty="",
        invoked_path="",
        script_path="",
        hash_algorithm=None,
    )


_UNSET = ProcessRecord()


def _overlay(base: ProcessRecord, change: ProcessRecord) -> ProcessRecord:
    """`base` with every field that `change` says something of."""
    said = {
        name: value
        for name in ProcessRecord.__struct_fields__
        if (value := getattr(change, name)) != getattr(_UNSET, name)
    }
    return msgspec.structs.replace(base, **said)

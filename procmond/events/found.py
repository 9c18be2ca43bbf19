"""Events whose facts are read from /proc afterwards. One rule: what was gone by then is named as missing.

For the process connector, which tells only pids, and for polling. The facts are those of the moment of the
look; a process that ran another image meanwhile shows that one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

from common import codec
from common.messages import HashState, ProcessEventKind, ProcessRecord, ProcessStatus, Provenance
from procmond.collect.build import NS_PER_TICK
from procmond.collect.handles import read_file
from procmond.collect.hash_cache import HashOutcome
from procmond.collect.procfs_parse import MalformedProc, Stat, parse_stat
from procmond.collect.records import (
    Facts,
    encode_event,
    encode_exception,
    encode_record,
    lacks_arguments,
)
from procmond.collect.sighting import Collector, Sighting, Wanted
from procmond.collect.users import Users
from procmond.events import connector_wire as wire
from procmond.events.enrich import Step
from procmond.events.event import Event, Key
from procmond.events.hashed import HashWish, finish, put_when_hashed
from procmond.events.lanes import Lanes
from procmond.events.polling import Change, Seen
from procmond.events.proof import Prover
from procmond.events.table import Process, ProcessTable
from procmond.events.threads import Found

_GONE: Final = b"".join(
    encode_exception(field, Provenance.MISSING, "exited")
    for field in ("name", "executable_path", "command_line")
)
_NO_ARGUMENTS: Final = encode_exception("command_line", Provenance.MISSING, "exited")
_FROM_PARENT: Final = encode_exception("executable_path", Provenance.PARENT)
_TOLD: Final = {
    of_groups: b"".join(encode_exception(field, Provenance.KERNEL) for field in fields)
    for of_groups, fields in ((False, ("real_uid", "effective_uid")), (True, ("real_gid", "effective_gid")))
}
_OTHER_IDS_MISSING: Final = {
    False: encode_exception("real_gid", Provenance.MISSING, "exited"),
    True: encode_exception("real_uid", Provenance.MISSING, "exited"),
}
_INHERITED: Final = (
    "user_id",
    "user_name",
    "real_uid",
    "effective_uid",
    "real_gid",
    "effective_gid",
    "login_uid",
    "session",
    "tty",
    "cwd",
    "cgroup",
    "container_id",
    "pid_namespace",
    "mount_namespace",
)
"""Facts that an exec seldom changes: taken from what was known of the process or its parent."""


def read_stat(pid: int) -> Stat | None:
    """What /proc/PID/stat says now; None when there is nobody."""
    try:
        return parse_stat(read_file(b"/proc/%d/stat" % pid))
    except (OSError, MalformedProc):
        return None


def look_at(pid: int) -> Found | None:
    """For the connector's reader: what is left of a process."""
    stat = read_stat(pid)
    return None if stat is None else Found(stat.threads, stat.status is ProcessStatus.ZOMBIE)


class FoundEnricher:
    """Takes the connector's messages, and what polling found."""

    def __init__(
        self,
        *,
        table: ProcessTable,
        prover: Prover,
        deliver: Callable[[Event], None],
        looker: Collector,
        users: Users,
    ) -> None:
        """`looker` looks at one process at a time and is nobody else's."""
        self._table = table
        self._prover = prover
        self._looker = looker
        self._users = users
        self.lanes = Lanes(deliver)
        self.wish = HashWish()
        self.wants_environment = False
        self._boot_offset_ns = 0
        self._wall_offset_ns = 0

    def prepare(self, events: Sequence[object], wall_offset_ns: int) -> list[Step]:
        """What is to be done for each message, in order; the looks are taken now."""
        self._set_clocks(wall_offset_ns)
        steps: list[Step] = []
        for event in events:
            if isinstance(event, wire.Forked):
                steps.append(partial(self._fork, event, read_stat(event.pid)))
            elif isinstance(event, wire.Execed):
                steps.append(partial(self._exec, event, self._look(event.pid)))
            elif isinstance(event, wire.ChangedIds):
                steps.append(self.changed(event))
            elif isinstance(event, wire.Exited):
                steps.append(partial(self._exit, event))
        return steps

    def beside(self, event: wire.ChangedIds, wall_offset_ns: int) -> Step:
        """What is to be done for a message that came beside eBPF's events; the look is taken now."""
        self._set_clocks(wall_offset_ns)
        return self.changed(event)

    def changed(self, event: wire.ChangedIds) -> Step:
        """The same, as part of `prepare`."""
        return partial(self._credentials, event, self._look(event.pid))

    def _set_clocks(self, wall_offset_ns: int) -> None:
        self._users.refresh()
        self._wall_offset_ns = wall_offset_ns
        self._boot_offset_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()

    def changes(
        self,
        changes: Sequence[Change],
        seen: Mapping[Key, tuple[Seen, bytes]],
        now_ns: int,
        wall_offset_ns: int,
    ) -> None:
        """Events for what polling found; `seen` has the records of this look, `now_ns` is its boot time."""
        self._wall_offset_ns = wall_offset_ns
        for kind, key in changes:
            look = seen.get(key)
            if kind is ProcessEventKind.EXIT:
                process = self._table.exited(key, now_ns)
                name, path = ("", None) if process is None else (process.name, process.path)
                parent = None if process is None else process.parent
                self._send(kind, now_ns, key, parent, name, path, self._brief(key, process))
            elif look is not None and kind is ProcessEventKind.FORK:
                start_ns = key[1] * NS_PER_TICK
                self._table.found(key, look[0].parent, look[0].name, look[0].path, look[1], start_ns)
                brief = encode_record({"pid": key[0], "start_ticks": key[1], "name": look[0].name})
                self._send(kind, start_ns, key, look[0].parent, look[0].name, look[0].path, brief)
            elif look is not None:
                self._ran(now_ns, key, look[0], look[1])

    # ------------------------------------------------------------------------------------- the connector's

    def _look(self, pid: int) -> Sighting | None:
        wanted = Wanted(full=True, environment=self.wants_environment)
        return next(iter(self._looker.sweep(wanted, (pid,))), None)

    def _boot_ns(self, event: wire.Message) -> int:
        return event.monotonic_ns + self._boot_offset_ns

    def _key(self, pid: int, start_ticks: int, boot_ns: int) -> Key:
        """The identity of who had this number at `boot_ns`; `start_ticks` is of who has it now, 0: nobody."""
        holder = self._table.holder(pid)
        alike = 0 < start_ticks * NS_PER_TICK <= boot_ns
        if holder is not None:
            if not holder.key[1] and alike:
                self._table.identify(holder, start_ticks)
            return holder.key
        return (pid, start_ticks if alike else 0)

    def _fork(self, event: wire.Forked, stat: Stat | None) -> None:
        boot_ns = self._boot_ns(event)
        start_ticks = 0
        # Whoever has the number now got it by this fork or by a later one, which then is a later start.
        if stat is not None and stat.start_ticks * NS_PER_TICK <= boot_ns:
            start_ticks = stat.start_ticks
        key = (event.pid, start_ticks)
        origin = read_stat(event.parent) if self._table.holder(event.parent) is None else None
        parent = self._key(event.parent, 0 if origin is None else origin.start_ticks, boot_ns)
        above = self._table.get(parent)
        process = self._table.forked(key, parent, "" if above is None else above.name, boot_ns)
        record = self._brief(key, process)
        self._send(
            ProcessEventKind.FORK,
            boot_ns,
            key,
            parent,
            process.name,
            process.path,
            record,
        )

    def _exec(self, event: wire.Execed, sighting: Sighting | None) -> None:
        boot_ns = self._boot_ns(event)
        key = self._key(event.pid, 0 if sighting is None else sighting.start_ticks, boot_ns)
        # Who began after the message has the number only since, even if its own beginning was not told.
        if sighting is None or sighting.start_ticks != key[1] or sighting.image is None:
            self._vanished(boot_ns, key)
            return
        parent = None if self._table.get(key) is None else self._table.ancestry(key)[0].parent
        seen = Seen(parent, sighting.name, sighting.executable_path, sighting.image)
        payload = sighting.payload
        if lacks_arguments(payload):  # every exec has some: it ended between two reads of the look
            payload += _NO_ARGUMENTS
        self._ran(boot_ns, key, seen, payload)

    def _vanished(self, boot_ns: int, key: Key) -> None:
        """It ran something, and was gone when it was looked at."""
        process = self._table.get(key) or self._table.holder(key[0])
        record = (
            encode_record(_inherited(process)) + encode_record({"pid": key[0], "start_ticks": key[1]}) + _GONE
        )
        parent = None if process is None else process.parent
        self._table.ran(key, parent, "", None, record, boot_ns)
        body = self._body(ProcessEventKind.EXEC, boot_ns, key, record)
        event = Event(ProcessEventKind.EXEC, boot_ns, key, parent, "", None, body)
        finish(event, HashOutcome(HashState.GONE), Provenance.MISSING)
        self.lanes.put(event)

    def _credentials(self, event: wire.ChangedIds, sighting: Sighting | None) -> None:
        boot_ns = self._boot_ns(event)
        key = self._key(event.pid, 0 if sighting is None else sighting.start_ticks, boot_ns)
        process = self._table.get(key)
        if sighting is None or sighting.start_ticks != key[1]:
            name, path = ("", None) if process is None else (process.name, process.path)
            record = self._brief(key, process) + _OTHER_IDS_MISSING[event.of_groups]
        else:
            name, path, record = sighting.name, sighting.executable_path, sighting.payload
        record += self._ids(event)
        parent = None if process is None else process.parent
        self._send(ProcessEventKind.CREDENTIALS, boot_ns, key, parent, name, path, record)

    def _ids(self, event: wire.ChangedIds) -> bytes:
        """What the message says, which counts more than a later look."""
        if event.of_groups:
            return encode_record({"real_gid": event.real, "effective_gid": event.effective}) + _TOLD[True]
        facts: Facts = {
            "user_id": str(event.real),
            "user_name": self._users.name(event.real),
            "real_uid": event.real,
            "effective_uid": event.effective,
        }
        return encode_record(facts) + _TOLD[False]

    def _exit(self, event: wire.Exited) -> None:
        boot_ns = self._boot_ns(event)
        holder = self._table.holder(event.pid)
        key = (event.pid, 0) if holder is None else holder.key
        process = self._table.exited(key, boot_ns)
        signal = event.status & 0x7F
        name, path = ("", None) if process is None else (process.name, process.path)
        body = encode_event(
            ProcessEventKind.EXIT,
            boot_ns,
            (boot_ns + self._wall_offset_ns) // 1_000_000,
            key,
            self._brief(key, process),
            exit_code=None if signal else os.WEXITSTATUS(event.status),
            exit_signal=signal or None,
        )
        parent = None if process is None else process.parent
        self.lanes.put(Event(ProcessEventKind.EXIT, boot_ns, key, parent, name, path, body))

    # ------------------------------------------------------------------------------------------------ both

    def _ran(self, boot_ns: int, key: Key, seen: Seen, payload: bytes) -> None:
        process = self._table.ran(key, seen.parent, seen.name, seen.path, payload, boot_ns)
        body = self._body(ProcessEventKind.EXEC, boot_ns, key, payload)
        event = Event(ProcessEventKind.EXEC, boot_ns, key, process.parent, seen.name, seen.path, body)
        assert seen.image is not None  # noqa: S101 - without one nothing ran
        answer = self._prover.ask_alive(key[0], seen.image, self.wish.algorithms, read=self.wish.read)
        put_when_hashed(self.lanes, event, answer)

    def _brief(self, key: Key, process: Process | None) -> bytes:
        facts: Facts = {"pid": key[0], "start_ticks": key[1], "accessible": True}
        facts["provenance"] = Provenance.KERNEL
        if process is None:
            return encode_record(facts)
        facts["name"] = process.name
        facts["executable_path"] = process.path
        return encode_record(facts) + (_FROM_PARENT if process.path is not None else b"")

    def _send(
        self,
        kind: ProcessEventKind,
        boot_ns: int,
        key: Key,
        parent: Key | None,
        name: str,
        path: str | None,
        record: bytes,
    ) -> None:
        body = self._body(kind, boot_ns, key, record, parent if kind is ProcessEventKind.FORK else None)
        self.lanes.put(Event(kind, boot_ns, key, parent, name, path, body))

    def _body(
        self, kind: ProcessEventKind, boot_ns: int, key: Key, record: bytes, forker: Key | None = None
    ) -> bytes:
        wall_ms = (boot_ns + self._wall_offset_ns) // 1_000_000
        if forker is None:
            return encode_event(kind, boot_ns, wall_ms, key, record)
        start_ticks = forker[1] or None
        return encode_event(
            kind, boot_ns, wall_ms, key, record, parent_pid=forker[0], parent_start_ticks=start_ticks
        )


def _inherited(process: Process | None) -> Facts:
    """What was known of the process, or of who forked it, as far as it outlives an exec."""
    if process is None or not process.record:
        return {"provenance": Provenance.MISSING}
    known = codec.decode(ProcessRecord, process.record)
    facts: Facts = {"provenance": Provenance.PARENT}
    for field in _INHERITED:
        facts[field] = getattr(known, field)
    return facts

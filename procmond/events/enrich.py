"""From kernel events to what subscribers get. One rule: the table learns of every event before anybody waits.

Enriching happens behind the reader. Only the hash of an image that is not known yet may take time; then that
event waits in its lane (see `lanes`), for `hashed.HASH_WAIT_S` at most.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Unpack, cast

from common.messages import ProcessEventKind, Provenance
from procmond.collect.hash_cache import HashOutcome
from procmond.collect.records import (
    EventFacts,
    Facts,
    encode_event,
    encode_exception,
    encode_record,
)
from procmond.collect.sighting import Redact
from procmond.collect.text import text
from procmond.collect.users import Users
from procmond.collect.vetting import Descriptor
from procmond.events.event import Event, Key
from procmond.events.exec_facts import ExecFacts, identity_facts
from procmond.events.facts import (
    HAS_IMAGE,
    PATH_CUT,
    CredentialsEvent,
    ExecEvent,
    ExitEvent,
    ForkEvent,
    KernelEvent,
)
from procmond.events.hashed import HashWish, finish, put_when_hashed
from procmond.events.lanes import Lanes
from procmond.events.proof import NO_IMAGE, PENDING, SETTLED_NS, KernelImage, Prover, Ran
from procmond.events.table import Process, ProcessTable
from procmond.events.wire import KIND_OF

_FROM_PARENT: Final = encode_exception("executable_path", Provenance.PARENT)
Step = Callable[[], None]


class KernelEnricher:
    """Takes eBPF events."""

    def __init__(
        self,
        *,
        table: ProcessTable,
        prover: Prover,
        deliver: Callable[[Event], None],
        boot_time: int,
        users: Users,
        redact: Redact | None,
        environment: Callable[[ExecEvent], bytes],
    ) -> None:
        """`environment` gives the encoded part of a record for the environment of who ran something."""
        self._table = table
        self._prover = prover
        self._users = users
        self._facts = ExecFacts(boot_time, users, redact)
        self._environment = environment
        self.lanes = Lanes(deliver)
        self.wish = HashWish()
        self.wants_environment = False
        self._wall_offset_ns = 0

    def kind_of(self, event: object) -> ProcessEventKind:
        """Of one of the events this takes."""
        return KIND_OF[type(event)]  # type: ignore[index]  # what it takes are KernelEvents

    def prepare(self, events: Sequence[object], wall_offset_ns: int) -> list[Step]:
        """What is to be done for each of these, in order. What may be gone soon is taken hold of now.

        `wall_offset_ns` is Unix time minus boot time.
        """
        self._wall_offset_ns = wall_offset_ns
        self._users.refresh()
        return [
            self._prepare_exec(event)
            if type(event) is ExecEvent
            else partial(_STEPS[type(event)], self, event)
            for event in cast(Sequence[KernelEvent], events)
        ]

    # ---------------------------------------------------------------------------------------------- exec

    def _prepare_exec(self, event: ExecEvent) -> Step:
        environment = self._environment(event) if self.wants_environment else b""
        ran = None
        held: Descriptor | None = None
        known: HashOutcome | None = NO_IMAGE
        if event.flags & HAS_IMAGE:
            ran = self._ran(event)
            known = self._prover.known(ran, self.wish.algorithms)
            if known is None and self.wish.read:
                held = self._prover.seize(ran)
        return partial(self._exec, event, ran, held, known, environment)

    def _ran(self, event: ExecEvent) -> Ran:
        image = KernelImage(event.device, event.inode, event.size, event.mtime_ns, event.ctime_ns)
        path = None
        if not event.flags & PATH_CUT:
            path = event.path.decode("utf-8", "surrogateescape")  # a path with these leads nowhere
        settled = event.boot_ns + self._wall_offset_ns - event.ctime_ns >= SETTLED_NS
        return Ran(event.pid, image, path, settled)

    def _exec(
        self,
        raw: ExecEvent,
        ran: Ran | None,
        held: Descriptor | None,
        known: HashOutcome | None,
        environment: bytes,
    ) -> None:
        key = (raw.pid, raw.start_ticks)
        parent = _parent_of(raw)
        wall_ms = (raw.boot_ns + self._wall_offset_ns) // 1_000_000
        path, record = self._facts.encode(raw, wall_ms, reparented=_reparented(self._table.get(key), parent))
        name = text(raw.name)
        process = self._table.ran(key, parent, name, path, record, raw.boot_ns)
        body = encode_event(ProcessEventKind.EXEC, raw.boot_ns, wall_ms, key, record)
        event = Event(
            ProcessEventKind.EXEC, raw.boot_ns, key, process.parent, name, path, body, None, environment
        )
        if known is not None or ran is None:
            finish(event, known or NO_IMAGE, Provenance.FILE)
            self.lanes.put(event)
        elif not self.wish.read:
            finish(event, PENDING, Provenance.MISSING)
            self.lanes.put(event)
        else:
            put_when_hashed(self.lanes, event, self._prover.ask(ran, held, self.wish.algorithms))

    # -------------------------------------------------------------------------------------------- others

    def _fork(self, raw: ForkEvent) -> None:
        key = (raw.pid, raw.start_ticks)
        forker = (raw.forker_pid, raw.forker_start_ticks) if raw.forker_pid else None
        process = self._table.forked(key, forker, text(raw.name), raw.boot_ns)
        facts = self._brief(raw, process)
        facts.update(identity_facts(raw, self._users))
        self._send(
            ProcessEventKind.FORK,
            raw,
            forker,
            process,
            facts,
            parent_pid=raw.forker_pid or None,
            parent_start_ticks=raw.forker_start_ticks or None,
        )

    def _exit(self, raw: ExitEvent) -> None:
        key = (raw.pid, raw.start_ticks)
        process = self._table.exited(key, raw.boot_ns)
        signal = raw.status & 0x7F
        facts = self._brief(raw, process)
        self._send(
            ProcessEventKind.EXIT,
            raw,
            None if process is None else process.parent,
            process,
            facts,
            exit_code=None if signal else os.WEXITSTATUS(raw.status),
            exit_signal=signal or None,
            run_time_ns=raw.run_ns,
        )

    def _credentials(self, raw: CredentialsEvent) -> None:
        process = self._table.get((raw.pid, raw.start_ticks))
        facts = self._brief(raw, process)
        facts.update(identity_facts(raw, self._users))
        self._send(ProcessEventKind.CREDENTIALS, raw, _parent_of(raw), process, facts)

    def _brief(self, raw: KernelEvent, process: Process | None) -> Facts:
        """What every event but an exec says of its process."""
        return {
            "pid": raw.pid,
            "ppid": raw.ppid,
            "name": text(raw.name),
            "executable_path": None if process is None else process.path,
            "start_ticks": raw.start_ticks,
            "parent_start_ticks": raw.parent_start_ticks if raw.ppid else None,
            "accessible": True,
            "provenance": Provenance.KERNEL,
            "reparented": _reparented(process, _parent_of(raw)),
        }

    def _send(
        self,
        kind: ProcessEventKind,
        raw: KernelEvent,
        parent: Key | None,
        process: Process | None,
        facts: Facts,
        **more: Unpack[EventFacts],
    ) -> None:
        key = (raw.pid, raw.start_ticks)
        wall_ms = (raw.boot_ns + self._wall_offset_ns) // 1_000_000
        path = None if process is None else process.path
        record = encode_record(facts)
        if path is not None:
            record += _FROM_PARENT
        body = encode_event(kind, raw.boot_ns, wall_ms, key, record, **more)
        self.lanes.put(Event(kind, raw.boot_ns, key, parent, text(raw.name), path, body))


_STEPS: Final[dict[type[KernelEvent], Callable[[KernelEnricher, KernelEvent], None]]] = {
    ForkEvent: KernelEnricher._fork,  # type: ignore[dict-item]  # looked up by the very type it takes
    ExitEvent: KernelEnricher._exit,  # type: ignore[dict-item]
    CredentialsEvent: KernelEnricher._credentials,  # type: ignore[dict-item]
}


def _parent_of(raw: KernelEvent) -> Key | None:
    """The process's parent now, in procmond's pid namespace."""
    return (raw.ppid, raw.parent_start_ticks) if raw.ppid else None


def _reparented(process: Process | None, parent: Key | None) -> bool | None:
    """Whether who forked it is gone; None when that is not known."""
    if process is None or not process.forked or process.parent is None:
        return None
    return process.parent != parent

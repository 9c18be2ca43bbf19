"""From kernel events to what subscribers get. One rule: the table learns of every event before anybody waits.

Enriching happens behind the reader. Only the hash of an image that is not known yet may take time; then that
event waits in its lane (see `lanes`), for `hashed.HASH_WAIT_S` at most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, cast

from common.messages import ProcessEventKind, Provenance
from procmond.collect.hash_cache import HashOutcome
from procmond.collect.records import (
    Facts,
    embed_record,
    encode_event,
    encode_exception,
    encode_life,
    encode_record,
)
from procmond.collect.sighting import Redact
from procmond.collect.users import Users
from procmond.collect.vetting import Descriptor
from procmond.events.connector_wire import ChangedIds
from procmond.events.event import Event, Key
from procmond.events.exec_facts import MAX_KEPT, ExecFacts, identity_facts, name_of
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

_FORK: Final = ProcessEventKind.FORK
_EXIT: Final = ProcessEventKind.EXIT
_EXEC: Final = ProcessEventKind.EXEC
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
        beside: Callable[[ChangedIds, int], Step],
    ) -> None:
        """`environment` gives the encoded part of a record for the environment of who ran something, `beside`
        what is to be done for a message of the process connector.
        """
        self._table = table
        self._prover = prover
        self._users = users
        self._facts = ExecFacts(boot_time, users, redact)
        self._environment = environment
        self._beside = beside
        self.lanes = Lanes(deliver)
        self.wish = HashWish()
        self.wants_environment = False
        self._wall_offset_ns = 0
        self._images: dict[tuple[object, ...], tuple[KernelImage, str | None]] = {}
        self._briefs: dict[tuple[object, ...], bytes] = {}

    def prepare(self, events: Sequence[object], wall_offset_ns: int) -> list[Step]:
        """What is to be done for each of these, in order. What may be gone soon is taken hold of now.

        `wall_offset_ns` is Unix time minus boot time.
        """
        self._wall_offset_ns = wall_offset_ns
        self._users.refresh()
        return [self._prepare(event) for event in cast(Sequence[KernelEvent | ChangedIds], events)]

    def _prepare(self, event: KernelEvent | ChangedIds) -> Step:
        if type(event) is ExecEvent:
            return self._prepare_exec(event)
        if isinstance(event, ChangedIds):
            return self._beside(event, self._wall_offset_ns)
        return partial(_STEPS[type(event)], self, event)

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
        key = (
            event.encoded_device,
            event.inode,
            event.size,
            event.mtime_s,
            event.mtime_rest,
            event.ctime_s,
            event.ctime_rest,
            event.upward_path,
            event.flags & PATH_CUT,
        )
        kept = self._images.get(key)
        if kept is None:
            if len(self._images) >= MAX_KEPT:
                self._images.clear()
            image = KernelImage(event.device, event.inode, event.size, event.mtime_ns, event.ctime_ns)
            # A path that is not UTF-8 gets surrogates, and leads nowhere.
            path = None if event.flags & PATH_CUT else event.path.decode("utf-8", "surrogateescape")
            kept = self._images[key] = (image, path)
        image, path = kept
        settled = event.boot_ns + self._wall_offset_ns - image.ctime_ns >= SETTLED_NS
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
        name = name_of(raw.comm)
        process = self._table.ran(key, parent, name, path, record, raw.boot_ns)
        body = encode_event(_EXEC, raw.boot_ns, wall_ms, key, record)
        event = Event(_EXEC, raw.boot_ns, key, process.parent, name, path, body, None, environment)
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
        forker = (raw.forker_pid, raw.forker_start_ticks) if raw.forker_pid else None
        key = (raw.pid, raw.start_ticks)
        name = name_of(raw.comm)
        process = self._table.forked(key, forker, name, raw.boot_ns)
        parent = _parent_of(raw)
        body = encode_life(
            _FORK,
            raw.boot_ns,
            (raw.boot_ns + self._wall_offset_ns) // 1_000_000,
            key,
            parent,
            reparented=_reparented(process, parent),
            forker=forker,
        ) + self._brief(raw, process, identified=True)
        self.lanes.put(Event(_FORK, raw.boot_ns, key, forker, name, process.path, body))

    def _exit(self, raw: ExitEvent) -> None:
        key = (raw.pid, raw.start_ticks)
        process = self._table.exited(key, raw.boot_ns)
        parent = _parent_of(raw)
        body = encode_life(
            _EXIT,
            raw.boot_ns,
            (raw.boot_ns + self._wall_offset_ns) // 1_000_000,
            key,
            parent,
            reparented=_reparented(process, parent),
            ended=(raw.status, raw.run_ns),
        ) + self._brief(raw, process, identified=False)
        path, parent = (None, None) if process is None else (process.path, process.parent)
        self.lanes.put(Event(_EXIT, raw.boot_ns, key, parent, name_of(raw.comm), path, body))

    def _credentials(self, raw: CredentialsEvent) -> None:
        key = (raw.pid, raw.start_ticks)
        process = self._table.get(key)
        kind, parent = ProcessEventKind.CREDENTIALS, _parent_of(raw)
        wall_ms = (raw.boot_ns + self._wall_offset_ns) // 1_000_000
        reparented = _reparented(process, parent)
        body = encode_life(kind, raw.boot_ns, wall_ms, key, parent, reparented=reparented)
        body += self._brief(raw, process, identified=True)
        path = None if process is None else process.path
        self.lanes.put(Event(kind, raw.boot_ns, key, parent, name_of(raw.comm), path, body))

    def _brief(self, raw: KernelEvent, process: Process | None, *, identified: bool) -> bytes:
        """What seldom changes from process to process, in every event but an exec, as it stands in an event;
        `identified` with who it runs as."""
        path = None if process is None else process.path
        same: tuple[object, ...] = (raw.comm, path)
        if identified:
            same += (raw.real_uid, raw.effective_uid, raw.real_gid, raw.effective_gid)
            same += (raw.login_uid, raw.session, self._users.version)
        kept = self._briefs.get(same)
        if kept is None:
            if len(self._briefs) >= MAX_KEPT:
                self._briefs.clear()
            kept = embed_record(self._encode_brief(raw, path, identified=identified))
            self._briefs[same] = kept
        return kept

    def _encode_brief(self, raw: KernelEvent, path: str | None, *, identified: bool) -> bytes:
        facts: Facts = {
            "name": name_of(raw.comm),
            "executable_path": path,
            "accessible": True,
            "provenance": Provenance.KERNEL,
        }
        if identified:
            facts.update(identity_facts(raw, self._users))
        return encode_record(facts) + (b"" if path is None else _FROM_PARENT)


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

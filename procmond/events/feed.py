"""Live events as a service of the collector. One rule: drain first, enrich after, and never for longer than a
slice at a time.

Owns the source in force and the order of fall-back, the table, the enrichers and the hub. Belongs to one
event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import msgspec

from common.logs import get_logger
from common.messages import EventSource, ProcessEventKind
from procmond.collect.build import environment_missing
from procmond.collect.environment import MAX_ENVIRONMENT_BYTES, select_environment
from procmond.collect.guard import Guard
from procmond.collect.handles import read_file
from procmond.collect.hash_cache import canonical
from procmond.collect.lanes import HashLanes
from procmond.collect.procfs_parse import parse_environment
from procmond.collect.records import encode_record
from procmond.collect.sighting import Collector, Redact, Wanted
from procmond.collect.slices import Slicer
from procmond.collect.users import Users
from procmond.events import connector, polling
from procmond.events.choice import NAMES, Opened
from procmond.events.ebpf_source import EbpfReader
from procmond.events.enrich import KernelEnricher, Step
from procmond.events.event import Key
from procmond.events.facts import ExecEvent
from procmond.events.found import FoundEnricher, look_at
from procmond.events.hashed import HashWish
from procmond.events.hub import Hub, Resume
from procmond.events.lanes import Lanes
from procmond.events.proof import Prover
from procmond.events.source import KernelSource, Losses, SourceFailed, Totals
from procmond.events.subscriber import Subscriber
from procmond.events.table import ProcessTable
from procmond.link import SourceReport
from procmond.pulse import Stage

DRAIN_INTERVAL_S: Final = 0.025
"""Seconds between two drains while events keep coming: few enough frames to be cheap, and no event older than
that when it is enriched. After a pause the first event is taken at once."""
DRAIN_RECORDS: Final = 1024
"""Taken at a time; the rest waits in the kernel's buffer, which is the queue that counts what it drops."""
IDLE_INTERVAL_S: Final = 0.25
"""Seconds between two drains while nobody listens: a quarter of what the ring holds at 1,000 processes a
second."""
START_GRACE_S: Final = 1.0
"""Seconds a new collector leaves what its predecessor had not taken to subscribers that come back."""
ACCOUNT_INTERVAL_S: Final = 0.25
"""Seconds between two looks at the kernel's counters while events come; the precision of a gap's interval."""
REPORT_INTERVAL_S: Final = 1.0
"""Seconds between two reports to the front, at least."""


class Enricher(Protocol):
    """Makes events for subscribers from what a source gives."""

    lanes: Lanes
    wish: HashWish
    wants_environment: bool

    def kind_of(self, event: object) -> ProcessEventKind: ...
    def prepare(self, events: Sequence[object], wall_offset_ns: int) -> list[Step]: ...


class Equipment(msgspec.Struct, frozen=True):
    """What watching takes from the collector."""

    opened: Opened
    engine: HashLanes
    max_file_bytes: int
    memory_device: int
    """st_dev of memfds."""
    looker: Collector
    """Looks at single processes; nobody else's."""
    sweeper: Collector
    """Looks at all of them."""
    guard: Guard
    boot_time: int
    redact: Redact | None
    environment_names: frozenset[str]


def boot_ns() -> int:
    """CLOCK_BOOTTIME, nanoseconds."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Feed:
    """Feeds the hub from the best source there is, then from the next."""

    def __init__(self, equipment: Equipment, report: Callable[[SourceReport], None]) -> None:
        """`report` is told, now and then, where events come from and what became of them."""
        self._equipment = equipment
        self._report = report
        self._prover = Prover(equipment.engine, equipment.max_file_bytes, equipment.memory_device)
        self._users = Users()
        self.table = ProcessTable()
        self.hub = Hub()
        self._enricher: Enricher | None = None
        self._reason = equipment.opened.reason
        self._lost: Losses = {}
        self._accounted_ns = boot_ns()
        self._wanted = asyncio.Event()
        """Set while somebody listens."""
        self._last_report = SourceReport()
        self._report_due: asyncio.TimerHandle | None = None
        self._source = equipment.opened.chain[0]
        self._log = get_logger("procmond.events")

    # -------------------------------------------------------------------------------------- subscriptions

    def subscribe(self, subscriber: Subscriber, resume: Resume | None) -> None:
        """Somebody listens from now on."""
        self.hub.add(subscriber, resume, boot_ns())
        self._choose_wish()
        self._wanted.set()

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Somebody listens no more."""
        self.hub.remove(subscriber)
        if not self.hub.subscribers:
            self._wanted.clear()
            if self._enricher is not None:
                self._enricher.lanes.flush()
            self.table.clear()
        self._choose_wish()
        self._tell()

    def _choose_wish(self) -> None:
        if self._enricher is None:
            return
        wishes = [subscriber.wish for subscriber in self.hub.subscribers]
        algorithms = canonical(name for wish in wishes for name in wish.algorithms)
        self._enricher.wish = HashWish(algorithms, not all(wish.cached_hashes for wish in wishes))
        self._enricher.wants_environment = any(wish.environment for wish in wishes)

    # ------------------------------------------------------------------------------------------- sources

    @property
    def now(self) -> SourceReport:
        """Where events come from, and what became of them."""
        reason = self._reason
        if self._source is EventSource.POLLING:
            reason = "; ".join(part for part in (reason, polling.BLIND_SPOTS) if part)
        losses = sorted(self.hub.lost.items())
        return SourceReport(
            source=self._source,
            reason=reason,
            delivered=self.hub.delivered,
            losses=tuple((why, int(kind), count) for (why, kind), count in losses),
        )

    async def run(self) -> None:
        """Until cancelled."""
        failed_ns = 0
        for source in self._equipment.opened.chain:
            self._source = source
            try:
                if source is EventSource.POLLING:
                    await self._poll(failed_ns)
                else:
                    await self._pump(source, failed_ns)
            except SourceFailed as error:
                failed_ns = self._accounted_ns
                self._reason = "; ".join(part for part in (self._reason, f"lost {error}") if part)
                self._log.error("event_source_failed", source=NAMES[source], error=str(error))
            if self._enricher is not None:
                self._enricher.lanes.flush()
        raise AssertionError("polling does not fail")

    def _take_over(self, totals: Totals | None, enricher: Enricher, failed_ns: int) -> None:
        self._enricher = enricher
        self._lost = {} if totals is None else dict(totals.lost)
        self.hub.start(self._source, totals)
        self._choose_wish()
        self._accounted_ns = boot_ns()
        if failed_ns:
            self._log.warning("event_source_taken", source=NAMES[self._source], reason=self._reason)
            self.hub.interrupt("source_failed", Counter(), failed_ns, boot_ns())
        self._tell()

    def _open(self, source: EventSource) -> tuple[KernelSource, Enricher]:
        """Raises: SourceFailed."""
        opened = self._equipment.opened
        if source is EventSource.EBPF and opened.programs is not None:
            enricher = KernelEnricher(
                table=self.table,
                prover=self._prover,
                deliver=self.hub.publish,
                boot_time=self._equipment.boot_time,
                users=self._users,
                redact=self._equipment.redact,
                environment=self._environment,
            )
            return EbpfReader(opened.programs), enricher
        assert opened.connection is not None  # noqa: S101 - it is in the chain because it was opened
        try:
            connection = connector.join(opened.connection)
        except OSError as error:
            raise SourceFailed(f"process connector: {error.strerror}") from None
        return connector.ConnectorReader(connection, look_at), self._found_enricher()

    def _found_enricher(self) -> FoundEnricher:
        return FoundEnricher(
            table=self.table,
            prover=self._prover,
            deliver=self.hub.publish,
            looker=self._equipment.looker,
        )

    # ---------------------------------------------------------------------------------------------- kernel

    async def _pump(self, source: EventSource, failed_ns: int) -> None:
        """Raises: SourceFailed."""
        reader, enricher = self._open(source)
        try:
            self._take_over(reader.totals(), enricher, failed_ns)
            await self._somebody(START_GRACE_S)
            # The connector's facts are read from processes that may end any moment; eBPF's come with it.
            pause = DRAIN_INTERVAL_S if source is EventSource.EBPF else 0.0
            while True:
                await _readable(reader.fileno())
                if not self._wanted.is_set():
                    await self._somebody(IDLE_INTERVAL_S)
                while batch := reader.drain(DRAIN_RECORDS):
                    await self._enrich(enricher, batch)
                    self._account(reader)
                    if len(batch) < DRAIN_RECORDS:
                        await asyncio.sleep(pause)
                self._account(reader, now=True)
        finally:
            reader.close()

    async def _enrich(self, enricher: Enricher, batch: Sequence[object]) -> None:
        if not self._wanted.is_set():
            for event in batch:
                self.hub.discard(enricher.kind_of(event))
            return
        slicer = Slicer()
        for step in enricher.prepare(batch, time.time_ns() - boot_ns()):
            step()
            await slicer.breathe()

    def _account(self, reader: KernelSource, *, now: bool = False) -> None:
        """Compare with the kernel's counters, now and then. Raises: SourceFailed."""
        moment = boot_ns()
        if not now and moment - self._accounted_ns < ACCOUNT_INTERVAL_S * 1e9:
            return
        lost = reader.totals().lost
        more = {key: count - self._lost.get(key, 0) for key, count in lost.items()}
        more = {key: count for key, count in more.items() if count > 0}
        self._lost = dict(lost)
        if more:
            self._lose(more, self._accounted_ns, moment)
        self._accounted_ns = moment
        self.table.forget(moment)
        self._tell()

    def _lose(self, losses: Mapping[tuple[str, ProcessEventKind], int], since_ns: int, now_ns: int) -> None:
        if not self._wanted.is_set():
            for (_, kind), count in losses.items():
                self.hub.discard(kind, count)
            return
        named = {f"{reason}:{kind.name.lower()}": count for (reason, kind), count in losses.items()}
        self._log.warning("events_lost", source=NAMES[self._source], losses=named)
        self.hub.lose(losses, since_ns, now_ns)

    async def _somebody(self, timeout_s: float) -> None:
        """Until somebody listens, so long at most."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._wanted.wait()
        except TimeoutError:
            pass

    def _environment(self, event: ExecEvent) -> bytes:
        """The part of a record for the environment of who just ran something."""
        guard, names = self._equipment.guard, self._equipment.environment_names
        start_ticks = event.start_ticks
        face = (event.name, event.inode)
        if guard.withholds(Stage.ARGUMENTS, event.pid, start_ticks, face=face, uid=event.real_uid):
            return environment_missing("blocked")
        guard.enter(Stage.ARGUMENTS, event.pid, start_ticks)
        try:
            raw = read_file(b"/proc/%d/environ" % event.pid, MAX_ENVIRONMENT_BYTES)
        except OSError:
            return environment_missing("exited")
        finally:
            guard.leave()
        found = parse_environment(raw, names)
        return encode_record({}, environment=select_environment(found, self._equipment.redact))

    # --------------------------------------------------------------------------------------------- polling

    async def _poll(self, failed_ns: int) -> None:
        enricher = self._found_enricher()
        self._take_over(None, enricher, failed_ns)
        before: dict[Key, polling.Seen] = {}
        while True:
            if not self._wanted.is_set():
                before = {}
                await self._wanted.wait()
            began = time.thread_time()
            look = await self._look()
            now = {key: seen for key, (seen, _) in look.items()}
            if before:
                enricher.changes(polling.differ(before, now), look, boot_ns(), time.time_ns() - boot_ns())
            before = now
            self._accounted_ns = boot_ns()
            self.table.forget(self._accounted_ns)
            self._tell()
            spent = time.thread_time() - began
            await asyncio.sleep(max(polling.INTERVAL_S, spent / polling.MAX_SHARE))

    async def _look(self) -> dict[Key, tuple[polling.Seen, bytes]]:
        environment = self._enricher is not None and self._enricher.wants_environment
        wanted = Wanted(full=True, environment=environment)
        sightings = []
        slicer = Slicer()
        for sighting in self._equipment.sweeper.sweep(wanted, None):
            if sighting is not None:
                sightings.append(sighting)
            await slicer.breathe()
        keys = {sighting.pid: (sighting.pid, sighting.start_ticks) for sighting in sightings}
        return {
            keys[one.pid]: (
                polling.Seen(keys.get(one.ppid), one.name, one.executable_path, one.image),
                one.payload,
            )
            for one in sightings
        }

    # ---------------------------------------------------------------------------------------------- report

    def _tell(self) -> None:
        """Report, unless one was made just now: then a little later."""
        if self._report_due is None:
            loop = asyncio.get_running_loop()
            self._report_due = loop.call_later(REPORT_INTERVAL_S, self._report_later)
            self._report_now()

    def _report_later(self) -> None:
        self._report_due = None
        if self.now != self._last_report:
            self._tell()

    def _report_now(self) -> None:
        report = self.now
        if report != self._last_report:
            self._last_report = report
            self._report(report)


async def _readable(descriptor: int) -> None:
    """Until there is something to read."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(descriptor, _arrived, ready)
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)


def _arrived(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)

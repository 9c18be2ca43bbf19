"""Live events as a service of the collector. One rule: there always is a source, and everybody knows which.

Owns the source in force and the order of fall-back, the table, the enrichers and the hub. Belongs to one
event loop.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Final

import msgspec

from common.logs import get_logger
from common.messages import EventSource
from procmond.collect.arguments import environment_missing
from procmond.collect.environment import MAX_ENVIRONMENT_BYTES, select_environment
from procmond.collect.guard import Guard
from procmond.collect.handles import read_file
from procmond.collect.hash_cache import canonical
from procmond.collect.lanes import HashLanes
from procmond.collect.procfs_parse import parse_environment
from procmond.collect.records import encode_record
from procmond.collect.sighting import Collector, Redact
from procmond.collect.users import Users
from procmond.events import connector, polling
from procmond.events.choice import NAMES, Opened
from procmond.events.credentials import CredentialsBeside
from procmond.events.ebpf_source import EbpfReader
from procmond.events.enrich import KernelEnricher
from procmond.events.facts import ExecEvent
from procmond.events.found import FoundEnricher, look_at
from procmond.events.hashed import HashWish
from procmond.events.hub import Hub, Resume
from procmond.events.poller import Poller
from procmond.events.proof import Prover
from procmond.events.pump import Enricher, Pump, boot_ns
from procmond.events.source import KernelSource, SourceFailed, Totals
from procmond.events.subscriber import Subscriber
from procmond.events.table import ProcessTable
from procmond.link import SourceReport
from procmond.pulse import Stage

REPORT_INTERVAL_S: Final = 1.0
"""Seconds between two reports to the front, at least."""

_log = get_logger("procmond.events")


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


class Feed:
    """Feeds the hub from the best source there is, then from the next."""

    def __init__(self, equipment: Equipment, report: Callable[[SourceReport], None]) -> None:
        """`report` is told, now and then, where events come from and what became of them."""
        self._equipment = equipment
        self._report = report
        self._prover = Prover(
            equipment.engine, equipment.max_file_bytes, equipment.memory_device, equipment.guard
        )
        self._users = Users()
        self.table = ProcessTable()
        self.hub = Hub()
        self._enricher: Enricher | None = None
        self._reason = equipment.opened.reason
        self._complete_ns = boot_ns()
        self._failed = False
        """A source was lost, and what happened until the next one took over."""
        self.started = asyncio.Event()
        """Set once a source is in force."""
        self._wanted = asyncio.Event()
        """Set while somebody listens."""
        self._last_report = SourceReport()
        self._report_due: asyncio.TimerHandle | None = None
        self._source = equipment.opened.chain[0]

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
        for source in self._equipment.opened.chain:
            self._source = source
            try:
                if source is EventSource.POLLING:
                    await self._poll()
                else:
                    await self._pump(source)
            except SourceFailed as error:
                self._failed = True
                self._reason = "; ".join(part for part in (self._reason, f"lost {error}") if part)
                _log.error("event_source_failed", source=NAMES[source], error=str(error))
            if self._enricher is not None:
                self._enricher.lanes.flush()
        raise AssertionError("polling does not fail")

    async def _pump(self, source: EventSource) -> None:
        """Raises: SourceFailed."""
        reader, enricher = self._open(source)
        try:
            totals = reader.totals()
            self._take_over(totals, enricher)
            await Pump(reader, totals.lost, enricher, self.hub, self._wanted, self._settle).run()
        finally:
            reader.close()

    async def _poll(self) -> None:
        enricher = self._found_enricher()
        self._take_over(None, enricher)
        await Poller(self._equipment.sweeper, enricher, self._wanted, self._settle).run()

    def _take_over(self, totals: Totals | None, enricher: Enricher) -> None:
        self._enricher = enricher
        self.hub.start(self._source, totals)
        self._choose_wish()
        now_ns = boot_ns()
        if self._failed:
            _log.warning("event_source_taken", source=NAMES[self._source], reason=self._reason)
            self.hub.interrupt("source_failed", Counter(), self._complete_ns, now_ns)
        self.started.set()
        self._settle(now_ns)

    def _settle(self, now_ns: int) -> None:
        """What happened up to now is told, or known to be lost."""
        self._complete_ns = now_ns
        self.table.forget(now_ns)
        self._tell()

    def _open(self, source: EventSource) -> tuple[KernelSource, Enricher]:
        """Raises: SourceFailed."""
        opened = self._equipment.opened
        if source is EventSource.EBPF and opened.programs is not None:
            found = self._found_enricher()
            enricher = KernelEnricher(
                table=self.table,
                prover=self._prover,
                deliver=self.hub.publish,
                boot_time=self._equipment.boot_time,
                users=self._users,
                redact=self._equipment.redact,
                environment=self._environment,
                beside=found.beside,
            )
            found.lanes = enricher.lanes  # events of one process stay in order, whoever made them
            reader = EbpfReader(opened.programs)
            if opened.connection is not None and opened.connection.narrowed:
                return CredentialsBeside(reader, opened.connection), enricher
            return reader, enricher
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
            users=self._users,
        )

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

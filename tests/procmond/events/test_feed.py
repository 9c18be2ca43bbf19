"""The feed inside one process: sources that fail, and what subscribers and the front are told of it."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import Callable, Iterator, Sequence
from typing import Self

import pytest

from common.messages import EventSource, ProcessEvent, ProcessEventKind
from procmond.events import ebpf_source, polling
from procmond.events.choice import Opened
from procmond.events.connector import Connection, open_connector
from procmond.events.ebpf import Programs
from procmond.events.facts import KernelEvent
from procmond.events.feed import Feed
from procmond.events.pump import boot_ns
from procmond.events.source import SourceFailed
from procmond.events.subscriber import Subscriber, Wish
from procmond.link import SourceReport
from tests.support.events import EXEC, EXIT, decoded
from tests.support.feeds import make_engine, make_feed
from tests.support.privilege import needs_root

pytestmark = needs_root

ALL = 1 << 30
PATIENCE_S = 30.0
EBPF, CONNECTOR, POLLING = EventSource.EBPF, EventSource.PROCESS_CONNECTOR, EventSource.POLLING


@pytest.fixture
def connection() -> Iterator[Connection]:
    opened = open_connector(standby=True)
    if not isinstance(opened, Connection):
        pytest.skip(f"no process connector here: {opened}")
    yield opened
    opened.close()


class Stage:
    """A feed that runs, somebody who listens, and what the front was told."""

    def __init__(self, opened: Opened) -> None:
        self.reports: list[SourceReport] = []
        self.taken: list[ProcessEvent] = []
        self._opened = opened
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        engine = make_engine()
        self._stack.push_async_callback(engine.close)
        self.feed: Feed = make_feed(engine, self._opened, self.reports.append)
        self.subscriber = Subscriber(Wish(), began_ns=boot_ns())
        self.subscriber.begin_snapshot()
        self.subscriber.end_snapshot()
        self.feed.subscribe(self.subscriber, None)
        running = asyncio.create_task(self.feed.run())

        async def stop() -> None:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running  # what it failed with, if it did

        self._stack.push_async_callback(stop)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def until(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not done():
                if self.subscriber.snapshot_due:
                    self.subscriber.begin_snapshot()
                    self.subscriber.end_snapshot()
                self.taken += decoded(self.subscriber.take(ALL))
                await asyncio.sleep(0.01)

    async def source(self, source: EventSource) -> None:
        """Returns when the front knows that this source is in force."""
        await self.until(lambda: bool(self.reports) and self.reports[-1].source == source)

    async def ran(self) -> ProcessEvent:
        """Run something until its exec is told."""
        child = await asyncio.create_subprocess_exec("/bin/sleep", "20")
        try:
            await self.until(lambda: bool(self.of(child.pid)))
            return self.of(child.pid)[0]
        finally:
            child.kill()
            await child.wait()

    def of(self, pid: int) -> list[ProcessEvent]:
        """The execs of a process so far."""
        return [one for one in self.taken if one.pid == pid and one.kind is EXEC]

    def gaps(self) -> list[str]:
        return [one.gap.reason for one in self.taken if one.gap is not None]


async def test_each_source_tells_what_runs(programs: Programs, connection: Connection) -> None:
    async with Stage(Opened((EBPF,), programs=programs)) as stage:
        assert (await stage.ran()).process is not None
    async with Stage(Opened((CONNECTOR,), connection=connection)) as stage:
        await stage.source(CONNECTOR)
        assert (await stage.ran()).process is not None
        assert not stage.gaps()


async def test_polling_tells_what_two_looks_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polling, "INTERVAL_S", 0.05)
    monkeypatch.setattr(polling, "MAX_SHARE", 1.0)
    async with Stage(Opened((POLLING,))) as stage:
        await stage.source(POLLING)
        told = await stage.ran()
        assert told.process is not None
        assert told.process.command_line == ("/bin/sleep", "20")
        await stage.until(lambda: any(one.pid == told.pid and one.kind is EXIT for one in stage.taken))
        assert polling.BLIND_SPOTS in stage.reports[-1].reason


async def test_a_source_that_fails_is_followed_by_the_next_with_a_gap_between(
    programs: Programs, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Opened((EBPF, CONNECTOR, POLLING), programs=programs, connection=connection)
    async with Stage(opened) as stage:
        await stage.ran()

        def fail(_self: object, _limit: int) -> Sequence[KernelEvent]:
            raise SourceFailed("eBPF: 3 records are not of this version's layout")

        monkeypatch.setattr(ebpf_source.EbpfReader, "drain", fail)
        subprocess.run(["/bin/true"], check=True)
        await stage.source(CONNECTOR)
        told = await stage.ran()
        assert told.process is not None
        assert stage.gaps() == ["source_failed"]
        (gap,) = [one for one in stage.taken if one.gap is not None]
        assert gap.gap is not None
        assert gap.gap.count == 0, "nobody knows"
        assert 0 < gap.gap.from_boot_time_ns <= gap.gap.to_boot_time_ns <= told.boot_time_ns
        assert "3 records are not of this version's layout" in stage.reports[-1].reason


async def test_a_source_that_cannot_be_taken_over_is_passed_by(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_self: object, _programs: Programs) -> None:
        raise SourceFailed("eBPF: the ring cannot be mapped: Cannot allocate memory")

    monkeypatch.setattr(ebpf_source.EbpfReader, "__init__", refuse)
    async with Stage(Opened((EBPF, POLLING), programs=programs)) as stage:
        await stage.source(POLLING)
        assert "the ring cannot be mapped" in stage.reports[-1].reason


async def test_losses_of_the_kernel_are_a_gap_a_report_and_a_snapshot(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Stage(Opened((EBPF,), programs=programs)) as stage:
        await stage.ran()
        totals = ebpf_source.EbpfReader.totals

        def more(self: ebpf_source.EbpfReader) -> object:
            found = totals(self)
            key = ("kernel_ring_full", ProcessEventKind.EXEC)
            return type(found)(found.taken, {**found.lost, key: found.lost[key] + 7})

        monkeypatch.setattr(ebpf_source.EbpfReader, "totals", more)
        await stage.ran()
        await stage.until(lambda: bool(stage.gaps()))
        (gap,) = [one.gap for one in stage.taken if one.gap is not None]
        assert (gap.reason, gap.count) == ("kernel_ring_full", 7)
        assert stage.subscriber.lost["kernel_ring_full", EXEC] == 7
        await stage.until(lambda: ("kernel_ring_full", int(EXEC), 7) in stage.reports[-1].losses)


async def test_while_nobody_listens_events_are_counted_and_cost_nothing_more(programs: Programs) -> None:
    async with Stage(Opened((EBPF,), programs=programs)) as stage:
        await stage.ran()
        stage.feed.unsubscribe(stage.subscriber)
        before = stage.feed.hub.settled.total()
        subprocess.run(["/bin/true"], check=True)
        async with asyncio.timeout(PATIENCE_S):
            while stage.feed.hub.settled.total() < before + 3:
                await asyncio.sleep(0.01)
        assert len(stage.feed.table) == 0
        stage.feed.subscribe(stage.subscriber, None)

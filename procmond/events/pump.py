"""Moves records from the kernel to the hub. One rule: drain first, enrich after, and never for longer than a
slice at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from common.logs import get_logger
from common.messages import EventSource
from procmond.collect.slices import Slicer
from procmond.events.choice import NAMES
from procmond.events.enrich import Step
from procmond.events.hashed import HashWish
from procmond.events.hub import Hub
from procmond.events.lanes import Lanes
from procmond.events.source import KernelSource, Losses

FIRST_PAUSE_S: Final = 0.0125
"""Seconds from the first event after a pause, which is taken at once, to the next drain: a fork is followed
by its exec within a millisecond. From drain to drain the pause doubles."""
DRAIN_INTERVAL_S: Final = 0.05
"""Seconds between two drains while events keep coming: few enough frames to be cheap, since each drain finds
the processor's caches cold; and no event is older than that when it is enriched."""
DRAIN_RECORDS: Final = 1024
"""Taken at a time; the rest waits in the kernel's buffer, which is the queue that counts what it drops."""
DRAIN_MESSAGES: Final = 96
"""The same of the process connector, where each of a third of them costs a look of some 150 us: a slice."""
IDLE_INTERVAL_S: Final = 0.25
"""Seconds between two drains while nobody listens: a quarter of what the ring holds at 1,000 processes a
second."""
START_GRACE_S: Final = 1.0
"""Seconds a new collector leaves what its predecessor had not taken to subscribers that come back."""
ACCOUNT_INTERVAL_S: Final = 0.25
"""Seconds between two looks at the kernel's counters while events come; the precision of a gap's interval."""

STEPS: Final = 32
"""Events enriched between two looks at the clock: some 10 us each."""

_log = get_logger("procmond.events")


class Enricher(Protocol):
    """Makes events for subscribers from what a source gives."""

    lanes: Lanes
    wish: HashWish
    wants_environment: bool

    def prepare(self, events: Sequence[object], wall_offset_ns: int) -> list[Step]: ...


def boot_ns() -> int:
    """CLOCK_BOOTTIME, nanoseconds."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Pump:
    """Drains one source for as long as it works."""

    def __init__(
        self,
        reader: KernelSource,
        lost: Losses,
        enricher: Enricher,
        hub: Hub,
        wanted: asyncio.Event,
        accounted: Callable[[int], None],
    ) -> None:
        """`lost` is what was lost before. `wanted` is set while somebody listens. `accounted` is called, with
        the boot time, whenever the account is settled.
        """
        self._reader = reader
        self._enricher = enricher
        self._hub = hub
        self._wanted = wanted
        self._accounted = accounted
        self._accounted_ns = boot_ns()
        self._lost = lost

    async def run(self) -> None:
        """Until cancelled. Raises: SourceFailed."""
        reader = self._reader
        await self._somebody(START_GRACE_S)
        # The connector's facts are read from processes that may end any moment; eBPF's come with it.
        complete = reader.kind is EventSource.EBPF
        limit, first_s, longest_s = DRAIN_MESSAGES, 0.0, 0.0
        if complete:
            limit, first_s, longest_s = DRAIN_RECORDS, FIRST_PAUSE_S, DRAIN_INTERVAL_S
        while True:
            await _readable(reader.fileno())
            if not self._wanted.is_set():
                await self._somebody(IDLE_INTERVAL_S)
            pause_s = first_s
            while (taken := await self._take(limit)) or reader.holds:
                if boot_ns() - self._accounted_ns >= ACCOUNT_INTERVAL_S * 1e9:
                    self._account()
                if taken >= limit:
                    await asyncio.sleep(0)
                elif self._wanted.is_set():
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, longest_s)
                else:
                    await self._somebody(IDLE_INTERVAL_S)
            self._account()

    async def _take(self, limit: int) -> int:
        """Move what is there now, at most `limit` records or about that; how many there were."""
        if not self._wanted.is_set():
            counts = self._reader.skip(limit)
            for kind, count in counts.items():
                self._hub.discard(kind, count)
            return sum(counts.values())
        batch = self._reader.drain(limit)
        slicer = Slicer()
        for number, step in enumerate(self._enricher.prepare(batch, time.time_ns() - boot_ns()), 1):
            step()
            if number % STEPS == 0:
                await slicer.breathe()
        return len(batch)

    def _account(self) -> None:
        """Compare with the kernel's counters. Raises: SourceFailed."""
        now_ns = boot_ns()
        lost = self._reader.totals().lost
        more = {key: count - self._lost.get(key, 0) for key, count in lost.items()}
        self._lost = lost
        self._lose({key: count for key, count in more.items() if count > 0}, now_ns)
        self._accounted_ns = now_ns
        self._accounted(now_ns)

    def _lose(self, losses: Losses, now_ns: int) -> None:
        if not losses:
            return
        if not self._wanted.is_set():
            for (_, kind), count in losses.items():
                self._hub.discard(kind, count)
            return
        named = {f"{reason}:{kind.name.lower()}": count for (reason, kind), count in losses.items()}
        _log.warning("events_lost", source=NAMES[self._reader.kind], losses=named)
        self._hub.lose(losses, self._accounted_ns, now_ns)

    async def _somebody(self, timeout_s: float) -> None:
        """Until somebody listens, so long at most."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._wanted.wait()
        except TimeoutError:
            pass


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

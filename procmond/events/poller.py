"""Looks at all processes again and again. One rule: only while somebody listens, and for a small share of the
time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from procmond.collect.sighting import Collector, Wanted
from procmond.collect.slices import Slicer
from procmond.events import polling
from procmond.events.event import Key
from procmond.events.found import FoundEnricher
from procmond.events.pump import boot_ns


class Poller:
    """Tells the differences."""

    def __init__(
        self,
        sweeper: Collector,
        enricher: FoundEnricher,
        wanted: asyncio.Event,
        accounted: Callable[[int], None],
    ) -> None:
        """`wanted` and `accounted` as for `Pump`."""
        self._sweeper = sweeper
        self._enricher = enricher
        self._wanted = wanted
        self._accounted = accounted

    async def run(self) -> None:
        """Until cancelled."""
        before: dict[Key, polling.Seen] | None = None
        while True:
            if not self._wanted.is_set():
                before = None
                await self._wanted.wait()
            began = time.thread_time()
            look = await self._look()
            now = {key: seen for key, (seen, _) in look.items()}
            if before is not None:
                changes = polling.differ(before, now)
                self._enricher.changes(changes, look, boot_ns(), time.time_ns() - boot_ns())
            before = now
            self._accounted(boot_ns())
            spent = time.thread_time() - began
            await asyncio.sleep(max(polling.INTERVAL_S, spent / polling.MAX_SHARE))

    async def _look(self) -> dict[Key, tuple[polling.Seen, bytes]]:
        wanted = Wanted(full=True, environment=self._enricher.wants_environment)
        slicer = Slicer()
        sightings = []
        for sighting in self._sweeper.sweep(wanted, None):
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

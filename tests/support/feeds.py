"""A feed of live events without a collector process around it."""

from __future__ import annotations

from collections.abc import Callable

from common.limits import HASH_MAX_FILE_BYTES
from procmond.collect.guard import Guard
from procmond.collect.lanes import HashLanes, make_lanes
from procmond.collect.mounts import find_memory_device
from procmond.collect.procfs import ProcfsCollector
from procmond.collect.sighting import Collector
from procmond.events.choice import Opened
from procmond.events.feed import Equipment, Feed
from procmond.link import SourceReport


def make_engine() -> HashLanes:
    """A hash engine as the collector has it."""
    return make_lanes(
        workers=2,
        max_file_bytes=HASH_MAX_FILE_BYTES,
        file_deadline_s=20.0,
        cache_entries=1024,
        memory_device=find_memory_device(),
    )


def make_feed(
    engine: HashLanes,
    opened: Opened | None = None,
    report: Callable[[SourceReport], None] = lambda _: None,
    sweeper: Collector | None = None,
) -> Feed:
    """From the sources in `opened`, by default from polling; it is `run` by the caller."""
    looker = ProcfsCollector(held_descriptors=0)
    equipment = Equipment(
        opened=opened or Opened(),
        engine=engine,
        max_file_bytes=HASH_MAX_FILE_BYTES,
        memory_device=find_memory_device(),
        looker=looker,
        sweeper=sweeper or ProcfsCollector(held_descriptors=0),
        guard=Guard(),
        boot_time=looker.boot_time(),
        redact=None,
        environment_names=frozenset({"LD_PRELOAD"}),
    )
    return Feed(equipment, report)

"""A feed of live events without a collector process around it."""

from __future__ import annotations

from collections.abc import Callable

from common.limits import HASH_MAX_FILE_BYTES
from procmond.collect.guard import Guard
from procmond.collect.hashing import HashEngine
from procmond.collect.procfs import ProcfsCollector
from procmond.collect.sighting import Collector
from procmond.events.choice import Opened
from procmond.events.feed import Equipment, Feed
from procmond.link import SourceReport


def make_feed(
    engine: HashEngine,
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
        looker=looker,
        sweeper=sweeper or ProcfsCollector(held_descriptors=0),
        guard=Guard(),
        boot_time=looker.boot_time(),
        redact=None,
        environment_names=frozenset({"LD_PRELOAD"}),
    )
    return Feed(equipment, report)

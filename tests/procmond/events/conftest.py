"""A reader of what the programs in the kernel tell."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from procmond.events import ebpf
from procmond.events.ring import EventRing
from tests.procmond.events.workload import Recorder


@pytest.fixture
def recorder(programs: ebpf.Programs) -> Iterator[Recorder]:
    """A reader of the ring that starts with an empty ring."""
    ring = EventRing(programs)
    ring.drain(limit=1 << 30)
    yield Recorder(ring)
    ring.close()

"""Programs in the kernel for the tests that need them; elsewhere these are skipped with the reason."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from procmond.events import ebpf
from procmond.events.ring import EventRing
from tests.procmond.events.workload import Recorder


@pytest.fixture(scope="session")
def programs() -> Iterator[ebpf.Programs]:
    """The programs, loaded once; the test is skipped where this machine allows none."""
    if os.geteuid() != 0:
        pytest.skip("needs root: loading eBPF programs takes CAP_BPF and CAP_PERFMON")
    loaded = ebpf.load()
    if isinstance(loaded, ebpf.Unavailable):
        pytest.skip(f"no eBPF here: {loaded.reason}: {loaded.detail}")
    yield loaded
    loaded.close()


@pytest.fixture
def recorder(programs: ebpf.Programs) -> Iterator[Recorder]:
    """A reader of the ring that starts with an empty ring."""
    ring = EventRing(programs)
    ring.drain(limit=1 << 30)
    yield Recorder(ring)
    ring.close()

"""Every collector there is, each in every way it may work."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from procmond.collect.processes import PsutilCollector
from procmond.collect.procfs import ProcfsCollector
from procmond.collect.sighting import Collector

COLLECTORS: dict[str, Callable[[], Collector]] = {
    "psutil": PsutilCollector,
    "procfs": ProcfsCollector,
    "procfs-holds-nothing": lambda: ProcfsCollector(held_descriptors=0),
    "procfs-without-pidfd": lambda: ProcfsCollector(pidfd=False),
}


@pytest.fixture(params=COLLECTORS)
def collector(request: pytest.FixtureRequest) -> Iterator[Collector]:
    """One collector after the other."""
    made = COLLECTORS[request.param]()
    yield made
    if isinstance(made, ProcfsCollector):
        made.close()


@pytest.fixture(params=[name for name in COLLECTORS if name != "psutil"])
def procfs(request: pytest.FixtureRequest) -> Iterator[ProcfsCollector]:
    """The Linux collector in each of its ways."""
    made = COLLECTORS[request.param]()
    assert isinstance(made, ProcfsCollector)
    yield made
    made.close()

"""Every collector there is, each in every way it may work."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from procmond.collect.processes import PsutilCollector
from procmond.collect.procfs import ProcfsCollector
from procmond.collect.sighting import Collector
from procmond.collect.tasks import BpfCollector
from procmond.events.ebpf import Programs

COLLECTORS: dict[str, Callable[[], PsutilCollector | ProcfsCollector]] = {
    "psutil": PsutilCollector,
    "procfs": ProcfsCollector,
    "procfs-holds-nothing": lambda: ProcfsCollector(held_descriptors=0),
    "procfs-without-pidfd": lambda: ProcfsCollector(pidfd=False),
}
BPF: dict[str, Callable[[Programs], BpfCollector]] = {
    "bpf": lambda programs: BpfCollector(programs=programs),
    "bpf-holds-nothing": lambda programs: BpfCollector(programs=programs, held_descriptors=0),
}


def _make(request: pytest.FixtureRequest) -> PsutilCollector | ProcfsCollector | BpfCollector:
    if request.param in COLLECTORS:
        return COLLECTORS[request.param]()
    programs = request.getfixturevalue("programs")
    if programs.tasks is None:
        pytest.skip(f"no task iterator here: {programs.missing['tasks'].detail}")
    return BPF[request.param](programs)


@pytest.fixture(params=[*COLLECTORS, *BPF])
def collector(request: pytest.FixtureRequest) -> Iterator[Collector]:
    """One collector after the other."""
    made = _make(request)
    yield made
    if not isinstance(made, PsutilCollector):
        made.close()


@pytest.fixture(params=COLLECTORS)
def one_by_one(request: pytest.FixtureRequest) -> Iterator[Collector]:
    """Every collector that reads a process when it is asked for it: bpf reads some hundred before."""
    made = _make(request)
    yield made
    if not isinstance(made, PsutilCollector):
        made.close()


@pytest.fixture(params=[name for name in COLLECTORS if name != "psutil"])
def procfs(request: pytest.FixtureRequest) -> Iterator[ProcfsCollector]:
    """The Linux collector in each of its ways."""
    made = COLLECTORS[request.param]()
    assert isinstance(made, ProcfsCollector)
    yield made
    made.close()


@pytest.fixture(params=BPF)
def bpf(request: pytest.FixtureRequest) -> Iterator[BpfCollector]:
    """The eBPF collector in each of its ways."""
    made = _make(request)
    assert isinstance(made, BpfCollector)
    yield made
    made.close()


@pytest.fixture(params=[name for name in (*COLLECTORS, *BPF) if name != "psutil"])
def remembering(request: pytest.FixtureRequest) -> Iterator[ProcfsCollector | BpfCollector]:
    """Every collector that keeps something from sweep to sweep."""
    made = _make(request)
    assert isinstance(made, ProcfsCollector | BpfCollector)
    yield made
    made.close()

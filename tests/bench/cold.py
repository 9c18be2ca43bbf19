"""The first answer after a start: everything unknown, every image unhashed."""

from __future__ import annotations

import statistics
import time

from common.messages import new_enumerate_task
from tests.bench.measure import Figure, Report
from tests.bench.population import population
from tests.support.daemons import Procmond

FEW, MANY = 1_000, 10_000
_STARTS = 3


def _first_answer(processes: int) -> tuple[float, int, int]:
    """Seconds, processes, and images not hashed within the budget; the median of some starts."""
    found = []
    with population(processes):
        for _ in range(_STARTS):
            with Procmond() as procmond, procmond.connect() as client:
                began = time.perf_counter()
                frames = client.ask(new_enumerate_task("first", stream=True))
                took = time.perf_counter() - began
                summary = frames[-1].summary
                assert summary is not None
                found.append((took, summary.processes_returned, summary.executables_pending))
    return (
        statistics.median(took for took, _, _ in found),
        found[0][1],
        max(pending for _, _, pending in found),
    )


def measure(_processes: int, _rounds: int) -> list[Report]:
    """10,000 extra processes against 1,000."""
    few_s, few, _ = _first_answer(FEW)
    many_s, many, pending = _first_answer(MANY)
    return [
        Report(
            f"first answer after a start, {MANY} extra processes, hashes cold",
            (
                Figure("time", many_s, "s", 5),
                Figure("images pending", pending, "", 0),
                Figure(f"cost per process, {MANY} / {FEW}", many_s / many / (few_s / few), "ratio", 1.3),
                Figure(f"time at {FEW}", few_s * 1e3, "ms"),
            ),
        )
    ]

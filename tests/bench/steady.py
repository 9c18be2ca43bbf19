"""What procmond costs while nothing happens: memory over many sweeps, processor time per sweep."""

from __future__ import annotations

import os
import time
from typing import Final

from common.messages import CollectionOptions, new_enumerate_task
from tests.bench.measure import Figure, Report
from tests.bench.population import population
from tests.support.daemons import Client, Procmond

FIRST_SWEEPS: Final = 10
FURTHER_SWEEPS: Final = 100
_IDLE_S: Final = 5.0
SCAN_INTERVAL_S: Final = 30.0
_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")


def _sweep(client: Client) -> None:
    client.ask(new_enumerate_task("sweep", stream=True, options=CollectionOptions()))


def _cpu_s(procmond: Procmond) -> float:
    """User and system time of all its processes so far."""
    total = 0
    for pid in (procmond.pid, *procmond.children().values()):
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total * _TICK_S


def measure_memory(processes: int, _rounds: int) -> list[Report]:
    """Proportional share of procmond's processes after ten sweeps, and after a hundred more."""
    with population(processes), Procmond() as procmond, procmond.connect() as client:
        before = procmond.memory_kib()
        for _ in range(FIRST_SWEEPS):
            _sweep(client)
        early = procmond.memory_kib()
        for _ in range(FURTHER_SWEEPS):
            _sweep(client)
        late = procmond.memory_kib()
    return [
        Report(
            f"memory of procmond's processes, proportional share, {processes} extra processes",
            (
                Figure("before", before / 1024, "MiB"),
                Figure(f"after {FIRST_SWEEPS} sweeps", early / 1024, "MiB", 60),
                Figure(f"growth over {FURTHER_SWEEPS} more", (late - early) / 1024, "MiB", 1),
            ),
        )
    ]


def measure_share(processes: int, rounds: int) -> list[Report]:
    """Share of one core with a sweep every 30 s: processor time of a warm sweep, and of idling."""
    with population(processes), Procmond() as procmond, procmond.connect() as client:
        _sweep(client)
        _sweep(client)
        began = _cpu_s(procmond)
        for _ in range(rounds):
            _sweep(client)
        per_sweep = (_cpu_s(procmond) - began) / rounds
        began = _cpu_s(procmond)
        time.sleep(_IDLE_S)
        idle = (_cpu_s(procmond) - began) / _IDLE_S
    return [
        Report(
            f"steady state, {processes} extra processes",
            (
                Figure(
                    f"share of one core, a sweep of all facts every {SCAN_INTERVAL_S:g} s",
                    (per_sweep / SCAN_INTERVAL_S + idle) * 100,
                    "%",
                    2,
                ),
                Figure("processor time of a sweep", per_sweep * 1e3, "ms"),
                Figure("share while idle", idle * 100, "%"),
            ),
        )
    ]

"""A whole inventory, end to end over the socket, against `ps` and plain psutil."""

from __future__ import annotations

import subprocess
from typing import Final

import psutil

from common.messages import CollectionOptions, new_enumerate_task
from tests.bench.measure import Figure, Report, alternate
from tests.bench.population import population
from tests.support.daemons import Procmond

PS: Final = ["ps", "-eo", "pid,ppid,uid,lstart,pcpu,rss,comm,exe,args"]
_PSUTIL_FACTS: Final = [
    "pid",
    "ppid",
    "name",
    "exe",
    "cmdline",
    "create_time",
    "cpu_times",
    "memory_info",
    "uids",
]


def _ps() -> None:
    subprocess.run(PS, stdout=subprocess.PIPE, check=True)


def _psutil() -> None:
    for process in psutil.process_iter(_PSUTIL_FACTS):
        assert process.info["pid"]


def measure(processes: int, rounds: int) -> list[Report]:
    """Ratios of medians, and procmond's memory before, during and after."""
    with population(processes), Procmond() as procmond, procmond.connect() as client:
        before = procmond.memory_kib()
        during: list[int] = []

        def ours() -> None:
            frames = client.ask(new_enumerate_task("bench", stream=True))
            assert sum(len(frame.processes) for frame in frames) >= processes

        def ours_full() -> None:
            frames = client.ask(new_enumerate_task("bench", stream=True, options=CollectionOptions()))
            assert sum(len(frame.processes) for frame in frames) >= processes
            during.append(procmond.memory_kib())

        series = alternate(
            {"procmond": ours, "procmond, all facts": ours_full, "ps": _ps, "psutil": _psutil}, rounds
        )
        after = procmond.memory_kib()
    ps, plain = series["ps"].median, series["psutil"].median
    mine, full = series["procmond"].median, series["procmond, all facts"].median
    return [
        Report(
            f"enumeration, {processes} extra processes, {rounds} rounds",
            (
                Figure("procmond / ps", mine / ps, "ratio"),
                Figure("procmond / psutil", mine / plain, "ratio"),
                Figure("procmond with all facts / ps", full / ps, "ratio", note="ps asked for nine facts"),
                Figure("procmond", mine * 1e3, "ms"),
                Figure("procmond, all facts", full * 1e3, "ms"),
                Figure("ps", ps * 1e3, "ms"),
                Figure("psutil", plain * 1e3, "ms"),
            ),
        ),
        Report(
            "memory of procmond's processes, proportional share",
            (
                Figure("before", before / 1024, "MiB"),
                Figure("during, highest", max(during) / 1024, "MiB"),
                Figure("after", after / 1024, "MiB"),
            ),
        ),
    ]

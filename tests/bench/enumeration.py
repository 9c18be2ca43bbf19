"""A whole inventory, end to end over the socket, against `ps`, plain psutil and the bare reads in C."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psutil

from common.messages import CollectionOptions, new_enumerate_task
from tests.bench.measure import Figure, Report, alternate
from tests.bench.population import population
from tests.support.daemons import Procmond

PS: Final = ["ps", "-eo", "pid,ppid,uid,lstart,pcpu,rss,comm,exe,args"]
PS_ALL: Final = [
    "ps",
    "-eo",
    ",".join(
        (
            "pid,ppid,uid,lstart,pcpu,rss,comm,exe,args",
            "s,nlwp,cputimes,ruid,euid,rgid,egid,luid,ruser,sess,tname,cgroup,pidns,mntns",
        )
    ),
]
"""Every field of the schema that ps has a name for."""
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


def _run(command: list[str]) -> None:
    subprocess.run(command, stdout=subprocess.PIPE, check=True)


def _psutil() -> None:
    for process in psutil.process_iter(_PSUTIL_FACTS):
        assert process.info["pid"]


@contextlib.contextmanager
def _floor() -> Iterator[list[str]]:
    """The compiled tests/bench/floor.c."""
    with tempfile.TemporaryDirectory() as folder:
        program = f"{folder}/floor"
        subprocess.run(["cc", "-O2", "-o", program, str(Path(__file__).with_name("floor.c"))], check=True)
        yield [program]


def measure(processes: int, rounds: int) -> list[Report]:
    """Ratios of medians."""
    with population(processes), _floor() as floor, Procmond() as procmond, procmond.connect() as client:

        def enumerate_all(options: CollectionOptions | None) -> None:
            frames = client.ask(new_enumerate_task("bench", stream=True, options=options))
            assert sum(len(frame.processes) for frame in frames) >= processes

        series = alternate(
            {
                "procmond": lambda: enumerate_all(None),
                "procmond, all facts": lambda: enumerate_all(CollectionOptions()),
                "ps": lambda: _run(PS),
                "ps, all facts": lambda: _run(PS_ALL),
                "psutil": _psutil,
                "reads in C": lambda: _run(floor),
            },
            rounds,
        )
    half = {name: one.median for name, one in series.items()}
    mine, full = half["procmond"], half["procmond, all facts"]
    return [
        Report(
            f"enumeration, {processes} extra processes, {rounds} rounds",
            (
                Figure("procmond / ps", mine / half["ps"], "ratio", 0.70),
                Figure("procmond / psutil", mine / half["psutil"], "ratio", 0.30),
                Figure("all facts: procmond / ps", full / half["ps, all facts"], "ratio", 0.40),
                Figure("procmond / reads in C", mine / half["reads in C"], "ratio", note="the floor"),
                *(Figure(name, value * 1e3, "ms") for name, value in half.items()),
            ),
        )
    ]

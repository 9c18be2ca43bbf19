"""What the system call filters cost: one procmond with them and one without, asked the same in turn."""

from __future__ import annotations

import os
from typing import Final

from common.messages import CollectionOptions, HashCheck, new_enumerate_task, new_hash_check_task
from procmond.confine import seccomp
from tests.bench.measure import Figure, Report, alternate
from tests.bench.population import population
from tests.support.daemons import Client
from tests.support.forked import Forked

_BATCH: Final = 200
"""Round trips of one contender before the other's turn."""
_CHECK: Final = new_hash_check_task("check", HashCheck(executable_path=os.path.realpath("/bin/true")))


def _as_it_is() -> None:
    """Nothing is changed before it starts."""


def _without_filters() -> None:
    """In the forked child only: all else is given up as always."""
    seccomp.install = lambda program, machine: None


def _enumerate(client: Client, processes: int, options: CollectionOptions | None) -> None:
    frames = client.ask(new_enumerate_task("bench", stream=True, options=options))
    assert sum(len(frame.processes) for frame in frames) >= processes, frames[-1].error_message


def _check(client: Client) -> None:
    for _ in range(_BATCH):
        assert client.ask(_CHECK)[0].success


def _filters(procmond: Forked) -> set[str]:
    """The Seccomp lines of all three processes: 2 where a filter is in force."""
    modes = set()
    for pid in (procmond.pid, *procmond.children().values()):
        with open(f"/proc/{pid}/status") as status:
            modes |= {line.split()[1] for line in status if line.startswith("Seccomp:")}
    return modes


def measure(processes: int, rounds: int) -> list[Report]:
    """Ratios of medians, with filters to without."""
    with (
        population(processes),
        Forked(_as_it_is) as confined,
        Forked(_without_filters, "--allow-unconfined") as free,
        confined.connect() as its,
        free.connect() as other,
    ):
        assert _filters(confined) == {"2"}
        assert _filters(free) == {"0"}
        whole = CollectionOptions()
        series = alternate(
            {
                "enumeration, confined": lambda: _enumerate(its, processes, None),
                "enumeration, free": lambda: _enumerate(other, processes, None),
                "all facts, confined": lambda: _enumerate(its, processes, whole),
                "all facts, free": lambda: _enumerate(other, processes, whole),
                "round trip, confined": lambda: _check(its),
                "round trip, free": lambda: _check(other),
            },
            rounds,
        )
    half = {name: one.median for name, one in series.items()}
    ratios = (
        Figure(f"{what}: confined / free", half[f"{what}, confined"] / half[f"{what}, free"], "ratio")
        for what in ("enumeration", "all facts", "round trip")
    )
    times = (
        Figure(name, value * 1e6 / _BATCH, "us")
        if name.startswith("round")
        else Figure(name, value * 1e3, "ms")
        for name, value in half.items()
    )
    return [Report(f"system call filters, {processes} extra processes, {rounds} rounds", (*ratios, *times))]

"""What live events cost and how soon they come, beside what else can be used to hear of every exec.

Each contender runs alone, in turns, under the same load: one program started, evenly, so many times a second.
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from common.messages import EventSource
from tests.bench import watchers
from tests.bench.measure import Figure, Report, percentile
from tests.bench.watchers import CannotRun, Watcher, processor_s
from tests.support.daemons import Procmond
from tests.support.live import EXEC, EXIT, Live, response
from tests.support.tracepoints import Tracepoints, tracepoints

RATES: Final = (100, 333, 1000)
"""Programs a second."""
MOST_ROUNDS: Final = 3
"""A round takes more than a minute; what the rates cost differs far more than what rounds do."""
LOAD_S: Final = 4
IDLE_S: Final = 10.0
SETTLE_S: Final = 1.0
"""After a start, and after a load until all is worked off."""
RARELY: Final = 100
"""Execs of which the latency on an idle machine is taken, one at a time."""
MOST_OF_AUDITD: Final = 0.5
"""The promise, at the highest rate."""
MOST_TRIES: Final = 4
"""Of a load during which others start little: what they start costs too."""
FEW, FEW_SHARE = 5, 0.05
"""Programs a second that others may start, and so much of the load's own rate."""
PROGRAM: Final = "/bin/true"

_RARELY: Final = f"i=0; while [ $i -lt {RARELY} ]; do sleep 0.05; {PROGRAM}; i=$((i+1)); done"
"""Longer apart than what is told in one go."""

CONTENDERS: Final[dict[str, Watcher]] = {
    "procmond": watchers.procmond_alone,
    "procmond, one subscriber": watchers.procmond_subscribed,
    "forkstat": watchers.forkstat,
    "auditd and kauditd": watchers.auditd,
}


@contextlib.contextmanager
def _pace() -> Iterator[str]:
    """The compiled tests/bench/pace.c."""
    with tempfile.TemporaryDirectory() as folder:
        program = f"{folder}/pace"
        subprocess.run(["cc", "-O2", "-o", program, str(Path(__file__).with_name("pace.c"))], check=True)
        yield program


def _load(pace: str, rate: int, seconds: int = LOAD_S) -> list[str]:
    return [pace, str(rate), str(seconds), PROGRAM]


class _Share(NamedTuple):
    """What one contender took while one load ran."""

    others: float
    """Programs a second that something else started meanwhile; 0 where they cannot be counted."""
    percent: float
    """Of one core."""


def _share(pids: list[int], pace: str, rate: int, counters: Tracepoints | None) -> _Share:
    """While so many programs a second are started; 0: while nothing runs."""
    runs = Counter() if counters is None else counters.read()
    before, began = processor_s(pids), time.monotonic()
    if rate:
        subprocess.run(_load(pace, rate), stdout=subprocess.DEVNULL, check=True)
    else:
        time.sleep(IDLE_S)
    took = time.monotonic() - began
    time.sleep(SETTLE_S if rate else 0)
    percent = (processor_s(pids) - before) / took * 100
    if counters is None:
        return _Share(0, percent)
    return _Share(max(0, (counters.read() - runs)[EXEC] / took - rate), percent)


def _shares(watcher: Watcher, pace: str, counters: Tracepoints | None) -> dict[int, _Share]:
    """At each rate, of some tries that during which others started least. Raises: CannotRun."""
    found: dict[int, _Share] = {}
    with watcher() as processes:
        time.sleep(SETTLE_S)
        pids = processes()
        for rate in (0, *RATES):
            for _ in range(MOST_TRIES):
                share = _share(pids, pace, rate, counters)
                found[rate] = min(share, found.get(rate, share))
                if found[rate].others <= FEW + rate * FEW_SHARE:
                    break
    return found


@contextlib.contextmanager
def _counters() -> Iterator[Tracepoints | None]:
    """The kernel's count of execs, or None, and it is said why."""
    with contextlib.ExitStack() as stack:
        found = None
        try:
            found = stack.enter_context(tracepoints())
        except pytest.skip.Exception as why:
            print(f"events: what others start meanwhile is not known: {why}", flush=True)
        yield found


def _all_shares(
    pace: str, rounds: int, counters: Tracepoints | None
) -> tuple[dict[str, dict[int, _Share]], dict[str, str]]:
    """Medians by contender and rate, and why some could not run."""
    taken: dict[str, list[dict[int, _Share]]] = {name: [] for name in CONTENDERS}
    absent: dict[str, str] = {}
    for number in range(rounds):
        turn = number % len(CONTENDERS)
        for name in [*CONTENDERS][turn:] + [*CONTENDERS][:turn]:
            if name in absent:
                continue
            try:
                taken[name].append(_shares(CONTENDERS[name], pace, counters))
            except CannotRun as error:
                absent[name] = str(error)
                print(f"events: without {name}: {error}", flush=True)
    return {
        name: {
            rate: _Share(
                statistics.median(one[rate].others for one in rows),
                statistics.median(one[rate].percent for one in rows),
            )
            for rate in (0, *RATES)
        }
        for name, rows in taken.items()
        if name not in absent
    }, absent


def measure_share(_processes: int, rounds: int) -> list[Report]:
    """Share of one core, of all processes of each contender, and procmond's ratio to the others'."""
    rounds = min(rounds, MOST_ROUNDS)
    with _pace() as pace, _counters() as counters:
        shares, absent = _all_shares(pace, rounds, counters)
    ours = "procmond, one subscriber"
    figures = []
    for rate in RATES:
        for other, target in (
            ("auditd and kauditd", 0.5 if rate == max(RATES) else None),
            ("forkstat", None),
        ):
            if other in shares:
                ratio = shares[ours][rate].percent / shares[other][rate].percent
                figures.append(Figure(f"{rate}/s: {ours} / {other}", ratio, "ratio", target))
    for name, of_it in shares.items():
        target = 0.2 if name == ours else None
        figures += [
            Figure(
                f"{rate}/s: {name}" if rate else f"idle: {name}",
                of_it[rate].percent,
                "% of a core",
                None if rate else target,
                note=f"others started {of_it[rate].others:.0f}/s",
            )
            for rate in (0, *RATES)
        ]
    figures += [Figure(f"{name}: not run, {why}", 0, "") for name, why in absent.items()]
    return [Report(f"processor time of live events, {LOAD_S} s a rate, {rounds} rounds", tuple(figures))]


def _delays(source: str, pace: str, rate: int) -> tuple[list[float], float]:
    """Seconds from each exec to its arrival, decoded, and the share that came with arguments."""
    with Procmond("--event-source", source) as procmond, Live(procmond) as live:
        known = response(procmond).event_source
        assert known is not EventSource.POLLING
        if rate:
            with subprocess.Popen(_load(pace, rate), stdout=subprocess.DEVNULL) as load:
                live.until(lambda: len(live.of(EXEC)) >= rate * LOAD_S)
                assert load.wait() == 0
        else:
            with subprocess.Popen(["/bin/sh", "-c", _RARELY]) as load:
                live.until(lambda: len(live.of(EXIT, load.pid)) > 0)
        found, whole, number = [], 0, 0
        for one, arrived in zip(live.events, live.arrived, strict=True):
            if one.kind is EXEC and one.process is not None:
                found.append(arrived - one.boot_time_ns / 1e9)
                whole += bool(one.process.command_line)
                number += 1
        return found, whole / number


def measure_latency(_processes: int, _rounds: int) -> list[Report]:
    """Milliseconds from an exec to a subscriber that has decoded it."""
    figures = []
    with _pace() as pace:
        for rate, name in ((0, "one now and then"), (333, "333/s")):
            delays, _ = _delays("ebpf", pace, rate)
            figures.append(Figure(f"eBPF, {name}: p50", percentile(delays, 50) * 1e3, "ms"))
            figures.append(Figure(f"eBPF, {name}: p99", percentile(delays, 99) * 1e3, "ms", 60))
        for rate in RATES:
            delays, whole = _delays("connector", pace, rate)
            figures.append(Figure(f"connector, {rate}/s: p99", percentile(delays, 99) * 1e3, "ms"))
            figures.append(Figure(f"connector, {rate}/s: with arguments", whole * 100, "%"))
    return [Report("from exec to a subscriber", tuple(figures))]

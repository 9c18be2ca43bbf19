"""Bursts, readers that stop, a collector killed in the middle: what it costs, and that it adds up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Final

import pytest

from tests.support.daemons import Procmond, eventually
from tests.support.live import EXEC, EXIT, FORK, GAP, SNAPSHOT, SNAPSHOT_END, Live
from tests.support.privilege import needs_root
from tests.support.proofs import TRUE, Stretch, record, started
from tests.support.tracepoints import Tracepoints

pytestmark = needs_root

MEMORY_KIB: Final = 16 * 1024
"""More than before: the promise."""
BURST: Final = 20_000
STALL_S: Final = 5.0
UNDER_KILL: Final = 4000
BOMB: Final = 2000
"""Processes at a time, the first one included."""

_BOMB: Final = """
import os, sys
left = int(sys.argv[1]) - 1  # in this one's subtree, itself not counted
children = []
while left > 0:
    share = (left + 1) // 2 if not children else left
    pid = os.fork()
    if pid == 0:
        left, children = share - 1, []
        continue
    children.append(pid)
    left -= share
os.read(0, 1)
for pid in children:
    os.waitpid(pid, 0)
"""
"""Each forks two, who fork two, until there are so many; all live until standard input ends."""


@pytest.fixture
def ebpf() -> Iterator[Procmond]:
    """One of the test's own: its memory before is that of one that has done nothing yet."""
    with started("--event-source", "ebpf") as procmond:
        yield procmond


def load(number: int) -> subprocess.Popen[bytes]:
    script = f"i=0; while [ $i -lt {number} ]; do {TRUE} burst$i; i=$((i+1)); done"
    return subprocess.Popen(["/bin/sh", "-c", script])


def execs(live: Live) -> int:
    return len(live.of(EXEC))


def kill_collector(procmond: Procmond) -> None:
    os.kill(procmond.children()["collector"], signal.SIGKILL)


class Family:
    """The processes of a bomb, as far as they were told or shown."""

    def __init__(self, live: Live, tag: str, first: int) -> None:
        self._live = live
        self._tag = tag
        self._seen = 0
        self._pids = {first}

    def size(self) -> int:
        for one in self._live.events[self._seen :]:
            born = one.kind is FORK and one.parent_pid in self._pids
            shown = one.kind is SNAPSHOT and self._tag in record(one).command_line
            if born or shown:
                self._pids.add(one.pid)
        self._seen = len(self._live.events)
        return len(self._pids)


def test_a_burst_of_20000_execs_and_a_reader_that_stops_for_5_seconds_in_the_middle(
    ebpf: Procmond, counters: Tracepoints
) -> None:
    with Live(ebpf) as reading, Live(ebpf) as stopping:
        before = ebpf.memory_kib()
        stretch = Stretch(ebpf, counters)
        shell = load(BURST)

        def stop_in_the_middle() -> None:
            stopping.until(lambda: execs(stopping) >= BURST // 3, 120)
            time.sleep(STALL_S)  # what is tried, not what is waited for
            stopping.until(lambda: bool(stopping.of(EXIT, shell.pid)), 120)

        other = threading.Thread(target=stop_in_the_middle)
        other.start()
        reading.until(lambda: bool(reading.of(EXIT, shell.pid)), 120)
        other.join()
        shell.wait()
        after = ebpf.memory_kib()
        stretch.finish(reading)
        lost = stretch.prove(reading)
        told = reading.tagged("burst")
        assert max(told.values()) == 1
        assert BURST - len(told) <= lost[EXEC]
        stopped = stretch.prove(stopping)
        print(f"memory {before} to {after} KiB; lost {lost}, while it stopped {stopped}")
        assert BURST - len(stopping.tagged("burst")) <= stopped[EXEC]
        assert after - before < MEMORY_KIB


def test_a_collector_killed_in_the_middle_of_a_burst_is_a_gap_of_exactly_what_is_missing(
    ebpf: Procmond, counters: Tracepoints
) -> None:
    with Live(ebpf) as live:
        before = ebpf.memory_kib()
        stretch = Stretch(ebpf, counters)
        shell = load(UNDER_KILL)
        live.until(lambda: execs(live) >= UNDER_KILL // 3)
        time.sleep(1)  # so that there is something to be lost: nobody reads meanwhile
        kill_collector(ebpf)
        live.until(lambda: bool(live.of(EXIT, shell.pid)), 60)
        shell.wait()
        eventually(lambda: "collector" in ebpf.children())
        after = ebpf.memory_kib()
        stretch.finish(live)
        lost = stretch.prove(live)
        (gap,) = [one for one in live.of(GAP) if one.gap and one.gap.reason == "collector_lost"]
        assert gap.gap is not None
        assert 0 < gap.gap.from_boot_time_ns < gap.gap.to_boot_time_ns
        assert abs(gap.wall_time_ms - time.time() * 1000) < 60_000
        assert gap.gap.count == sum(loss.count for loss in gap.gap.losses)
        following = live.events[live.events.index(gap) + 1 :]
        assert following[0].kind is SNAPSHOT
        assert SNAPSHOT_END in {one.kind for one in following}
        told = live.tagged("burst")
        assert max(told.values()) == 1
        assert UNDER_KILL - len(told) <= lost[EXEC]
        print(f"memory {before} to {after} KiB; lost {lost}")
        assert after - before < MEMORY_KIB


def test_a_fork_bomb_held_to_2000_processes_and_the_collector_killed_in_the_middle(
    ebpf: Procmond, counters: Tracepoints
) -> None:
    with Live(ebpf) as live:
        before = ebpf.memory_kib()
        stretch = Stretch(ebpf, counters)
        for tag, killed in (("first", False), ("second", True)):
            arguments = [sys.executable, "-I", "-S", "-c", _BOMB, str(BOMB), tag]
            with subprocess.Popen(arguments, stdin=subprocess.PIPE) as bomb:
                assert bomb.stdin is not None
                family = Family(live, tag, bomb.pid)
                live.until(lambda: family.size() >= BOMB // 2, 60)  # noqa: B023 - called in this round only
                if killed:
                    kill_collector(ebpf)
                live.until(lambda: family.size() == BOMB, 60)  # noqa: B023
            live.until(lambda: bool(live.of(EXIT, bomb.pid)), 60)
        after = ebpf.memory_kib()
        stretch.finish(live)
        lost = stretch.prove(live)
        reasons = [one.gap.reason for one in live.of(GAP) if one.gap]
        print(f"memory {before} to {after} KiB; lost {lost}, {reasons}")
        assert "collector_lost" in reasons
        assert after - before < MEMORY_KIB

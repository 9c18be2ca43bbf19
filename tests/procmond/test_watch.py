"""When a collector may read, and when one that may not is to be replaced by one that may."""

from __future__ import annotations

import os
import subprocess

from procmond.collect.procfs_parse import parse_stat
from procmond.pulse import STALL_S, Stage
from procmond.quarantine import Withheld
from procmond.watch import MAX_ABANDONED, Watch


def test_nothing_is_read_while_too_many_hang_and_all_again_when_one_has_ended() -> None:
    watch = Watch()
    for _ in range(MAX_ABANDONED):
        assert watch.withheld(0.0) == Withheld()
        watch.abandoned()
    assert watch.withheld(0.0) == Withheld(everyone=True)
    assert watch.freed(), "the one that reads nothing is to be replaced"
    assert watch.withheld(0.0) == Withheld()


def test_a_collector_that_reads_is_left_alone_when_another_ends() -> None:
    watch = Watch()
    for _ in range(MAX_ABANDONED - 1):
        watch.abandoned()
    assert watch.withheld(0.0) == Withheld()
    assert not watch.freed()


def test_a_culprit_of_which_only_the_pid_is_told_is_known_by_its_start_all_the_same() -> None:
    watch = Watch()
    pulse = watch.begin()
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) as collector:
        while b") S " not in (stat := _stat(collector.pid)):
            pass
        pulse.enter(Stage.IMAGE, collector.pid, 0)
        assert not watch.stalled(collector.pid, 0.0)
        assert watch.stalled(collector.pid, STALL_S)
    (culprit,) = watch.withheld(STALL_S).culprits
    assert (culprit.pid, culprit.start_ticks) == (collector.pid, parse_stat(stat).start_ticks)
    assert culprit.uid == os.getuid()


def _stat(pid: int) -> bytes:
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read()

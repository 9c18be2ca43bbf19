"""When a collector may read, and when one that may not is to be replaced by one that may."""

from __future__ import annotations

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

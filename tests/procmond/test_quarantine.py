"""Who is not read again, for how long, and when a whole user is held back."""

from __future__ import annotations

import pytest

from procmond.pulse import Stage
from procmond.quarantine import (
    BASE_DELAY_S,
    FORGET_AFTER,
    MAX_DELAY_S,
    MAX_ENTRIES,
    STALLS_OF_USER,
    Culprit,
    Quarantine,
)


def test_a_culprit_is_withheld_until_its_delay_ends() -> None:
    quarantine = Quarantine()
    culprit = quarantine.stalled(7, 70, 1000, Stage.ARGUMENTS, now=0.0)
    assert culprit == Culprit(7, 70, 1000, Stage.ARGUMENTS, BASE_DELAY_S)
    assert quarantine.withheld(BASE_DELAY_S - 1).culprits == (culprit,)
    assert quarantine.withheld(BASE_DELAY_S).culprits == ()


def test_each_stall_doubles_the_delay_up_to_a_bound() -> None:
    quarantine = Quarantine()
    now, delays = 0.0, []
    for _ in range(12):
        until = quarantine.stalled(7, 70, 1000, Stage.ARGUMENTS, now).until
        delays.append(until - now)
        now = until
    assert delays[:3] == [BASE_DELAY_S, 2 * BASE_DELAY_S, 4 * BASE_DELAY_S]
    assert delays[-1] == MAX_DELAY_S


def test_a_culprit_that_behaved_for_long_is_forgotten() -> None:
    quarantine = Quarantine()
    quarantine.stalled(7, 70, 1000, Stage.ARGUMENTS, now=0.0)
    later = BASE_DELAY_S * (1 + FORGET_AFTER) + 1
    assert quarantine.stalled(7, 70, 1000, Stage.ARGUMENTS, later).until == later + BASE_DELAY_S


def test_the_same_number_started_later_is_another_process() -> None:
    quarantine = Quarantine()
    quarantine.stalled(7, 70, 1000, Stage.ARGUMENTS, now=0.0)
    assert quarantine.stalled(7, 71, 1000, Stage.ARGUMENTS, now=1.0).until == 1.0 + BASE_DELAY_S


def test_a_user_with_several_culprits_is_withheld_as_a_whole() -> None:
    quarantine = Quarantine()
    for number in range(STALLS_OF_USER):
        assert quarantine.withheld(0.0).users == ()
        quarantine.stalled(number, 1, 1000, Stage.ARGUMENTS, now=0.0)
    assert quarantine.withheld(0.0).users == ((1000, BASE_DELAY_S),)
    assert quarantine.withheld(BASE_DELAY_S).users == ()


def test_one_process_that_stalls_before_its_time_is_up_costs_its_user_as_several_would() -> None:
    quarantine = Quarantine()
    for number in range(STALLS_OF_USER):
        assert quarantine.withheld(0.0).users == ()
        last = quarantine.stalled(7, 70, 1000, Stage.ARGUMENTS, now=float(number))
        assert last.repeated == (number > 0)
    assert quarantine.withheld(0.0).users == ((1000, last.until),)


def test_one_that_was_left_alone_until_its_time_was_up_does_not() -> None:
    quarantine = Quarantine()
    now = 0.0
    for _ in range(3 * STALLS_OF_USER):
        now = quarantine.stalled(7, 70, 1000, Stage.IMAGE, now).until
        assert quarantine.withheld(now).users == ()


@pytest.mark.parametrize("uid", [0, None])
def test_root_and_the_unknown_are_never_withheld_as_a_whole(uid: int | None) -> None:
    quarantine = Quarantine()
    for number in range(4 * STALLS_OF_USER):
        quarantine.stalled(number, 1, uid, Stage.ARGUMENTS, now=0.0)
    assert quarantine.withheld(0.0).users == ()


def test_it_remembers_a_bounded_number() -> None:
    quarantine = Quarantine()
    for number in range(MAX_ENTRIES + 10):
        quarantine.stalled(number, 1, 0, Stage.IMAGE, now=number / MAX_ENTRIES)
    culprits = quarantine.withheld(1.0).culprits
    assert len(culprits) == MAX_ENTRIES
    assert min(culprit.pid for culprit in culprits) == 10


def test_who_stalls_without_end_is_withheld_for_the_longest_delay_each_time() -> None:
    quarantine, now = Quarantine(), 0.0
    for _ in range(2000):
        now = quarantine.stalled(7, 1, 1000, Stage.IMAGE, now).until
    assert quarantine.stalled(7, 1, 1000, Stage.IMAGE, now).until - now == MAX_DELAY_S

"""agent.sequence: holes are counted unless a gap covers them, and a step back is an error."""

from __future__ import annotations

import pytest

from agent.sequence import SequenceCheck
from common.errors import EventOrderError
from common.messages import ProcessEvent
from tests.support.stories import lost


def event(sequence: int) -> ProcessEvent:
    return ProcessEvent(sequence=sequence)


def missing(*events: ProcessEvent) -> list[int]:
    check = SequenceCheck()
    return [check.check(one) for one in events]


@pytest.mark.parametrize("first", [0, 1, 100])
def test_numbers_that_follow_each_other_are_whole(first: int) -> None:
    assert missing(event(first), event(first + 1), event(first + 2)) == [0, 0, 0]


def test_a_hole_is_counted_once() -> None:
    assert missing(event(1), event(5), event(6)) == [0, 3, 0]


@pytest.mark.parametrize("own", [2, 5, 6])
def test_a_gap_covers_its_numbers_wherever_its_own_stands(own: int) -> None:
    gap = lost("subscriber_queue_full", sequence=own, numbers=(2, 5))
    assert missing(event(1), gap, event(max(own, 5) + 1)) == [0, 0, 0]


def test_a_gap_without_numbers_has_one_of_its_own() -> None:
    assert missing(event(1), lost("kernel_ring_full", sequence=2), event(3)) == [0, 0, 0]


def test_a_gap_does_not_cover_what_it_does_not_name() -> None:
    gap = lost("subscriber_queue_full", sequence=9, numbers=(5, 8))
    assert missing(event(1), gap) == [0, 3]


@pytest.mark.parametrize("again", [1, 2, 3])
def test_a_number_that_was_there_already_is_an_error(again: int) -> None:
    check = SequenceCheck()
    for sequence in (1, 2, 3):
        check.check(event(sequence))
    with pytest.raises(EventOrderError) as caught:
        check.check(event(again))
    assert (caught.value.expected, caught.value.actual) == (4, again)

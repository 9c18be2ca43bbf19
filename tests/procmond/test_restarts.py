"""Waits before a child is started again, by an argument for a clock."""

from __future__ import annotations

from procmond.restarts import RETRY_BASE_S, RETRY_CAP_S, STABLE_S, Restarts


def test_a_child_that_was_sound_is_replaced_at_once() -> None:
    restarts = Restarts()
    assert restarts.ended("front", began=0.0, now=STABLE_S) == 0
    assert restarts.take(STABLE_S) == ["front"]
    assert not restarts


def test_one_that_keeps_dying_is_put_off_longer_and_longer_up_to_a_bound() -> None:
    restarts = Restarts()
    waits = []
    for number in range(1, 8):
        assert restarts.ended("collector", began=0.0, now=1.0) == number
        (due,) = restarts.moments()
        waits.append(round(due - 1.0, 6))
        assert restarts.take(due - 0.001) == []
        assert restarts.take(due) == ["collector"]
    assert waits[:3] == [RETRY_BASE_S, 2 * RETRY_BASE_S, 4 * RETRY_BASE_S]
    assert waits[-1] == max(waits) == RETRY_CAP_S


def test_a_sound_life_in_between_begins_the_count_anew() -> None:
    restarts = Restarts()
    restarts.ended("front", began=0.0, now=1.0)
    restarts.ended("front", began=1.0, now=1.0 + STABLE_S)
    assert restarts.ended("front", began=0.0, now=1.0) == 1


def test_each_child_has_its_own_count() -> None:
    restarts = Restarts()
    restarts.ended("front", began=0.0, now=1.0)
    assert restarts.ended("collector", began=0.0, now=1.0) == 1


def test_what_was_ended_on_purpose_is_not_put_off() -> None:
    restarts = Restarts()
    restarts.ended("collector", began=0.0, now=1.0)
    restarts.start_now("collector", 1.0)
    assert restarts.take(1.0) == ["collector"]


def test_nothing_is_started_once_cancelled() -> None:
    restarts = Restarts()
    restarts.ended("front", began=0.0, now=1.0)
    restarts.cancel()
    assert not restarts
    assert restarts.take(100.0) == []


def test_a_child_that_never_lives_long_is_put_off_no_longer_ever() -> None:
    restarts = Restarts()
    for number in range(2000):
        assert restarts.ended("front", began=0.0, now=0.0) == number + 1
        assert restarts.moments()[0] <= RETRY_CAP_S

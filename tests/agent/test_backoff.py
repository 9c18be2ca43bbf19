"""Backoff and Breaker: when the next attempt is made."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.backoff import Backoff, Breaker, BreakerState


def test_the_bound_doubles_up_to_the_maximum() -> None:
    backoff = Backoff(initial_s=0.5, maximum_s=5.0)
    assert [backoff.bound(failures) for failures in range(1, 7)] == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]


def test_the_wait_is_anything_between_nothing_and_the_bound() -> None:
    backoff = Backoff(initial_s=1.0, maximum_s=8.0)
    assert backoff.wait(3, lambda: 0.0) == 0.0
    assert backoff.wait(3, lambda: 0.25) == 1.0


@given(failures=st.integers(1, 10**9), roll=st.floats(0, 1, exclude_max=True))
def test_no_number_of_failures_leads_beyond_the_maximum(failures: int, roll: float) -> None:
    assert 0 <= Backoff(initial_s=0.1, maximum_s=5.0).wait(failures, lambda: roll) <= 5.0


def test_a_breaker_opens_after_so_many_failures_in_a_row() -> None:
    breaker = Breaker(threshold=3, cool_down_s=10.0)
    assert [breaker.failed(now) for now in (1.0, 2.0, 3.0)] == [False, False, True]
    assert breaker.state(3.0) is BreakerState.OPEN
    assert breaker.remaining(3.0) == 10.0
    assert breaker.remaining(12.0) == 1.0


def test_a_success_in_between_starts_the_count_again() -> None:
    breaker = Breaker(threshold=2, cool_down_s=10.0)
    breaker.failed(1.0)
    breaker.succeeded()
    breaker.failed(2.0)
    assert breaker.state(2.0) is BreakerState.CLOSED
    assert breaker.remaining(2.0) == 0.0


def test_after_the_cool_down_one_failure_opens_it_again() -> None:
    breaker = Breaker(threshold=2, cool_down_s=10.0)
    breaker.failed(0.0)
    breaker.failed(0.0)
    assert breaker.state(10.0) is BreakerState.HALF_OPEN
    assert breaker.remaining(10.0) == 0.0
    assert not breaker.failed(11.0)
    assert breaker.state(11.0) is BreakerState.OPEN
    assert breaker.remaining(11.0) == 10.0
    assert breaker.openings == 2


def test_after_the_cool_down_one_success_closes_it() -> None:
    breaker = Breaker(threshold=1, cool_down_s=10.0)
    breaker.failed(0.0)
    assert breaker.state(10.0) is BreakerState.HALF_OPEN
    breaker.succeeded()
    assert breaker.state(10.0) is BreakerState.CLOSED
    assert (breaker.failures, breaker.openings) == (0, 1)

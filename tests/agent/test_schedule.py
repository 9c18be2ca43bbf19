"""Schedule: a fixed grid, without drift and without bursts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.schedule import Schedule


def test_the_first_sweep_is_due_at_once() -> None:
    assert Schedule(30.0, start=100.0).due_at == 100.0


def test_a_late_sweep_does_not_shift_the_next() -> None:
    schedule = Schedule(30.0, start=0.0)
    assert schedule.begin(7.0) == 0
    assert schedule.due_at == 30.0
    assert schedule.begin(30.5) == 0
    assert schedule.due_at == 60.0


def test_after_a_long_pause_there_is_one_sweep_and_the_missed_are_counted() -> None:
    schedule = Schedule(30.0, start=0.0)
    schedule.begin(0.0)
    assert schedule.begin(305.0) == 9  # the slots at 30 to 270; this sweep is that of 300
    assert schedule.due_at == 330.0
    assert schedule.skipped == 9


def test_a_sweep_begun_a_clock_tick_early_uses_up_its_slot() -> None:
    schedule = Schedule(30.0, start=0.0)
    schedule.begin(0.0)
    assert schedule.begin(29.9999) == 0
    assert schedule.due_at == 60.0


@pytest.mark.parametrize("interval", [0.0, -1.0, float("nan")])
def test_an_interval_that_is_none_is_refused(interval: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        Schedule(interval, start=0.0)


@given(
    interval=st.integers(1, 3600),
    start=st.integers(0, 10**6),
    pauses=st.lists(st.floats(0, 10**5), max_size=30),
)
def test_every_slot_is_swept_once_or_counted_as_skipped(
    interval: int, start: int, pauses: list[float]
) -> None:
    schedule = Schedule(float(interval), start=float(start))
    now = float(start)
    for swept, pause in enumerate(pauses, start=1):
        now = max(now + pause, schedule.due_at)
        schedule.begin(now)
        assert (schedule.due_at - start) / interval == swept + schedule.skipped
        assert now < schedule.due_at <= now + interval

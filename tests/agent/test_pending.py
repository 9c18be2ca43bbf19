"""PendingTable: who gets a result, and what is counted instead."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from agent.pending import Counters, PendingTable, Verdict
from common.errors import Busy, TaskIdError


def table(counters: Counters | None = None, **bounds: int) -> PendingTable[str]:
    return PendingTable(counters or Counters(), **bounds)


def test_a_whole_answer_goes_to_who_asked() -> None:
    pending = table()
    pending.register("t1", "me", deadline=None)
    assert [pending.match("t1", n, more=n < 2).verdict for n in range(3)] == [
        Verdict.DELIVER,
        Verdict.DELIVER,
        Verdict.COMPLETE,
    ]
    assert "t1" not in pending


def test_answers_of_two_tasks_interleave() -> None:
    pending = table()
    pending.register("t1", "one", deadline=None)
    pending.register("t2", "two", deadline=None)
    frames = [("t1", 0, True), ("t2", 0, True), ("t2", 1, False), ("t1", 1, False)]
    matches = [pending.match(task_id, sequence, more=more) for task_id, sequence, more in frames]
    assert [match.waiter for match in matches] == ["one", "two", "two", "one"]
    assert len(pending) == 0


@pytest.mark.parametrize(("sequence", "expected"), [(0, 1), (2, 1), (4_294_967_295, 1)])
def test_a_hole_or_a_repeat_fails_the_task(sequence: int, expected: int) -> None:
    counters = Counters()
    pending = table(counters)
    pending.register("t1", "me", deadline=None)
    pending.match("t1", 0, more=True)
    match = pending.match("t1", sequence, more=False)
    assert match.verdict is Verdict.BROKEN
    assert match.waiter == "me"
    assert match.error is not None
    assert (match.error.expected, match.error.actual) == (expected, sequence)
    assert "t1" not in pending
    assert pending.match("t1", 1, more=False).verdict is Verdict.DROP
    assert counters == Counters(broken=1, late=1)


def test_a_result_nobody_asked_for_is_unknown() -> None:
    counters = Counters()
    assert table(counters).match("t9", 0, more=False).verdict is Verdict.DROP
    assert counters == Counters(unknown=1)


def test_a_result_after_the_last_is_a_duplicate() -> None:
    counters = Counters()
    pending = table(counters)
    pending.register("t1", "me", deadline=None)
    pending.match("t1", 0, more=False)
    assert pending.match("t1", 0, more=False).verdict is Verdict.DROP
    assert counters == Counters(duplicate=1)


def test_a_result_after_the_deadline_is_late() -> None:
    counters = Counters()
    pending = table(counters)
    pending.register("t1", "me", deadline=5.0)
    assert pending.expire(4.9) == []
    assert pending.expire(5.0) == [("t1", "me")]
    assert pending.expire(6.0) == []
    assert pending.match("t1", 0, more=False).verdict is Verdict.DROP
    assert counters == Counters(expired=1, late=1)


def test_a_result_for_an_abandoned_task_is_late() -> None:
    counters = Counters()
    pending = table(counters)
    pending.register("t1", "me", deadline=None)
    assert pending.abandon("t1")
    assert not pending.abandon("t1")
    assert pending.match("t1", 0, more=False).verdict is Verdict.DROP
    assert counters == Counters(cancelled=1, late=1)


def test_a_task_without_deadline_never_expires() -> None:
    pending = table()
    pending.register("t1", "me", deadline=None)
    assert pending.expire(1e300) == []
    assert "t1" in pending


def test_the_end_of_the_connection_takes_every_waiter_out() -> None:
    counters = Counters()
    pending = table(counters)
    for task_id in ("t1", "t2", "t3"):
        pending.register(task_id, f"waiter of {task_id}", deadline=1.0)
    assert list(pending.fail_all()) == ["waiter of t1", "waiter of t2", "waiter of t3"]
    assert len(pending) == 0
    assert list(pending.fail_all()) == []
    assert counters == Counters(lost=3)


def test_an_id_in_flight_is_refused_and_free_again_afterwards() -> None:
    pending = table()
    pending.register("t1", "first", deadline=None)
    with pytest.raises(TaskIdError, match="in flight"):
        pending.register("t1", "second", deadline=None)
    assert pending.match("t1", 0, more=False).waiter == "first"
    pending.register("t1", "third", deadline=None)
    assert pending.match("t1", 0, more=False).waiter == "third"


@pytest.mark.parametrize("task_id", ["", "x" * 129, "é" * 65])
def test_an_id_the_server_would_close_over_is_refused(task_id: str) -> None:
    with pytest.raises(TaskIdError):
        table().register(task_id, "me", deadline=None)


def test_the_table_is_bounded() -> None:
    pending = table(limit=2)
    pending.register("t1", "a", deadline=None)
    pending.register("t2", "b", deadline=None)
    with pytest.raises(Busy):
        pending.register("t3", "c", deadline=None)
    pending.abandon("t1")
    pending.register("t3", "c", deadline=None)


def test_a_forgotten_id_counts_as_unknown() -> None:
    counters = Counters()
    pending = table(counters, remembered=2)
    for task_id in ("t1", "t2", "t3"):
        pending.register(task_id, "me", deadline=None)
        pending.match(task_id, 0, more=False)
    for task_id in ("t1", "t2", "t3"):
        pending.match(task_id, 0, more=False)
    assert (counters.unknown, counters.duplicate) == (1, 2)


class EveryResultIsDeliveredOrCounted(RuleBasedStateMachine):
    """Whatever happens in whatever order: a result reaches who asked at most once, or a counter grows."""

    IDS = st.sampled_from(["a", "b", "c"])

    def __init__(self) -> None:
        super().__init__()
        self.counters = Counters()
        self.pending: PendingTable[str] = PendingTable(self.counters, limit=2, remembered=2)
        self.delivered = 0
        self.results = 0
        self.asked = 0
        self.completed = 0

    @rule(task_id=IDS, deadline=st.none() | st.floats(0, 10))
    def ask(self, task_id: str, deadline: float | None) -> None:
        try:
            self.pending.register(task_id, task_id, deadline=deadline)
        except (Busy, TaskIdError):
            return
        self.asked += 1

    @rule(task_id=IDS, sequence=st.integers(0, 2), more=st.booleans())
    def result(self, task_id: str, sequence: int, more: bool) -> None:
        self.results += 1
        match = self.pending.match(task_id, sequence, more=more)
        assert match.waiter in (None, task_id)
        self.delivered += match.verdict in (Verdict.DELIVER, Verdict.COMPLETE)
        self.completed += match.verdict is Verdict.COMPLETE

    @rule(task_id=IDS)
    def abandon(self, task_id: str) -> None:
        self.pending.abandon(task_id)

    @rule(now=st.floats(0, 10))
    def expire(self, now: float) -> None:
        self.pending.expire(now)

    @rule()
    def lose(self) -> None:
        assert len(list(self.pending.fail_all())) <= 2

    @invariant()
    def nothing_is_lost(self) -> None:
        count = dataclasses.asdict(self.counters)
        assert self.results == self.delivered + sum(
            count[name] for name in ("late", "duplicate", "unknown", "broken")
        )
        assert self.asked == len(self.pending) + self.completed + sum(
            count[name] for name in ("expired", "cancelled", "lost", "broken")
        )


TestEveryResultIsDeliveredOrCounted = EveryResultIsDeliveredOrCounted.TestCase


@given(st.lists(st.floats(0, 100), max_size=20), st.floats(0, 100))
def test_exactly_the_tasks_past_their_deadline_expire(deadlines: list[float], now: float) -> None:
    pending: PendingTable[float] = PendingTable(Counters())
    for number, deadline in enumerate(deadlines):
        pending.register(str(number), deadline, deadline=deadline)
    assert [waiter for _, waiter in pending.expire(now)] == [one for one in deadlines if one <= now]
    assert len(pending) == sum(one > now for one in deadlines)

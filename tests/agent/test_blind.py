"""agent.blind: intervals have a start, an end and a reason; they stay, and add up."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.blind import BlindLog, Moment
from common.messages import Gap, Loss

unhurried = settings(deadline=None)  # a busy machine is no failure

SECOND = 1_000_000_000


def moment(seconds: float) -> Moment:
    return Moment(int(seconds * SECOND), 1_000_000 + int(seconds * 1000))


def test_an_interval_is_open_until_it_ends() -> None:
    log = BlindLog()
    began = log.begin("connection_lost", "why", moment(5))
    assert log.open == began
    assert log.last(9) == (began,)
    ended = log.end(moment(7))
    assert ended is not None
    assert log.last(9) == (ended,)
    assert (ended.reason, ended.detail) == ("connection_lost", "why")
    assert (ended.from_boot_ns, ended.to_boot_ns) == (5 * SECOND, 7 * SECOND)
    assert (ended.from_ms, ended.to_ms) == (1_005_000, 1_007_000)
    assert log.blind_ns == 2 * SECOND
    assert log.end(moment(8)) is None


def test_another_reason_ends_the_one_before() -> None:
    log = BlindLog()
    log.begin("agent_started", "", moment(0))
    log.begin("procmond_unreachable", "", moment(1))
    assert [(one.reason, one.to_boot_ns) for one in log.last(9)] == [
        ("agent_started", SECOND),
        ("procmond_unreachable", None),
    ]


def test_a_gap_is_an_interval_that_is_over() -> None:
    log = BlindLog()
    gap = Gap(reason="kernel_ring_full", count=3, from_boot_time_ns=SECOND, to_boot_time_ns=2 * SECOND)
    interval = log.add(gap, moment(4))
    assert (interval.from_ms, interval.to_ms, interval.count) == (1_001_000, 1_002_000, 3)
    assert log.losses == {"kernel_ring_full": 3}
    assert log.open is None


def test_what_a_gap_lists_by_reason_is_counted_by_reason() -> None:
    log = BlindLog()
    losses = (Loss(reason="a", count=2), Loss(reason="b", count=5), Loss(reason="a", count=1))
    log.add(Gap(reason="a", count=8, losses=losses), moment(1))
    assert log.losses == {"a": 3, "b": 5}


def test_a_gap_without_times_is_the_moment_it_is_known() -> None:
    interval = BlindLog().add(Gap(reason="x"), moment(4))
    assert (interval.from_boot_ns, interval.to_boot_ns) == (4 * SECOND, 4 * SECOND)


def test_an_interval_is_repaired_by_a_comparison_begun_after_its_end() -> None:
    log = BlindLog()
    log.add(Gap(reason="x", from_boot_time_ns=SECOND, to_boot_time_ns=2 * SECOND), moment(3))
    log.repair(2 * SECOND - 1)
    assert log.explains()
    log.repair(2 * SECOND)
    assert not log.explains()
    assert log.last(1)[0].repaired


def test_an_open_interval_explains_until_it_is_over() -> None:
    log = BlindLog()
    log.begin("polling_source", "", moment(1))
    log.repair(9 * SECOND)
    assert log.explains()


@unhurried
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=30))
def test_the_last_intervals_are_kept_and_all_are_counted(spans: list[tuple[int, int]]) -> None:
    log = BlindLog(limit=4)
    for start, length in spans:
        gap = Gap(reason="x", from_boot_time_ns=start + 1, to_boot_time_ns=start + 1 + length)
        log.add(gap, moment(100))
    assert log.total == len(spans)
    assert log.blind_ns == sum(length for _, length in spans)
    kept = [(one.from_boot_ns - 1, (one.to_boot_ns or 0) - one.from_boot_ns) for one in log.last(9)]
    assert kept == spans[-4:]


def test_none_asked_for_is_none() -> None:
    log = BlindLog()
    log.begin("x", "", moment(0))
    assert log.last(0) == ()

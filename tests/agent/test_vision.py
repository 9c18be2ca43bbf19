"""agent.vision: a change is an interval and a state, and somebody is told of it."""

from __future__ import annotations

from agent.blind import STARTED, Moment
from agent.control_messages import Sight
from agent.vision import Vision
from common.messages import EventSource, Gap

SECOND_NS = 1_000_000_000
START = Moment(100 * SECOND_NS, 1_000_000)


def test_the_first_interval_begins_where_an_agent_before_this_one_last_saw() -> None:
    vision = Vision(START, START.wall_ms - 7_000)
    began = vision.intervals.open
    assert began is not None
    assert (began.reason, began.from_ms, began.from_boot_ns) == (STARTED, 993_000, 93 * SECOND_NS)
    assert began.detail == "no agent saw what ran in between"


def test_of_an_earlier_boot_the_clock_of_this_one_tells_nothing() -> None:
    vision = Vision(START, START.wall_ms - 500_000)
    began = vision.intervals.open
    assert began is not None
    assert (began.from_ms, began.from_boot_ns) == (500_000, 0)


def test_without_an_agent_before_or_with_a_clock_set_back_it_begins_now() -> None:
    for seen_ms in (None, START.wall_ms + 1):
        began = Vision(START, seen_ms).intervals.open
        assert began is not None
        assert (began.from_ms, began.from_boot_ns) == (START.wall_ms, START.boot_ns)
        assert began.detail == "no snapshot yet"


def test_every_change_is_told() -> None:
    vision = Vision(START)
    told: list[tuple[Sight, int]] = []
    vision.on_change = lambda: told.append((vision.sight, vision.intervals.total))
    vision.see(EventSource.EBPF, "", START)
    vision.note_gap(Gap(reason="kernel_ring_full", count=2), START)
    vision.lose("connection_lost", "", START)
    vision.see(EventSource.POLLING, "", START)
    assert told == [(Sight.LIVE, 1), (Sight.LIVE, 2), (Sight.BLIND, 3), (Sight.POLLING, 4)]

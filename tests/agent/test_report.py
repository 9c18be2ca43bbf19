"""agent.report: the line `systemctl status` shows."""

from __future__ import annotations

from datetime import UTC

import pytest

from agent.answer import Answer
from agent.blind import Moment
from agent.inventory import Counts, Inventory, SweepReport
from agent.report import status_line
from agent.vision import Vision
from common.messages import EventSource, Gap

NOW = Moment(1_000_000_000, 50_520_000)  # 14:02 on the first day of 1970
SWEEP = (
    SweepReport(
        inventory=Inventory(records={}),
        answer=Answer(),
        counts=Counts(processes=1204, new=0, gone=0, executables=0, hashed=0, inaccessible=0),
        duration_s=0.1,
    ),
    NOW.wall_ms,
)


@pytest.fixture
def vision() -> Vision:
    return Vision(NOW)


def test_before_anything_was_seen(vision: Vision) -> None:
    assert status_line(None, vision, UTC) == "no sweep yet, BLIND: agent started, 0 blind intervals"


def test_all_is_well(vision: Vision) -> None:
    vision.see(EventSource.EBPF, "", NOW)
    assert status_line(SWEEP, vision, UTC) == "1,204 processes at 14:02, live, 0 blind intervals"


def test_what_was_lost_is_counted(vision: Vision) -> None:
    vision.see(EventSource.EBPF, "", NOW)
    vision.note_gap(Gap(reason="kernel_ring_full", count=1), NOW)
    assert status_line(SWEEP, vision, UTC) == "1,204 processes at 14:02, live, 1 blind interval"


def test_less_than_everything_is_told_apart_from_nothing(vision: Vision) -> None:
    vision.see(EventSource.POLLING, "no eBPF", NOW)
    assert status_line(SWEEP, vision, UTC) == "1,204 processes at 14:02, polling, 1 blind interval"
    vision.lose("procmond_unreachable", "a text\nof somebody's", NOW)
    assert (
        status_line(SWEEP, vision, UTC)
        == "1,204 processes at 14:02, BLIND: procmond unreachable, 2 blind intervals"
    )

"""agent.cli.sight: blind, quiet and unknown never look alike."""

from __future__ import annotations

from datetime import UTC

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.cli.render import Screen, labelled
from agent.cli.sight import agent_lines, degraded, verdict
from agent.control_messages import (
    BlindInterval,
    Counter,
    Events,
    Memory,
    Procmond,
    Repair,
    Sight,
    Status,
    Sweep,
)

unhurried = settings(deadline=None)  # a busy machine is no failure

NOW_MS = 1_800_000_000_000
PLAIN = Screen()
COLOUR = Screen(colour=True)

LIVE = Status(
    version="1.2.3",
    uid=997,
    pid=5,
    uptime_ms=3_600_000,
    procmond=Procmond(
        socket="/run/p", connected=True, event_source="ebpf", collector="bpf", server_version="1.2.3"
    ),
    events=Events(
        sight=Sight.LIVE,
        received=1234,
        kinds=(Counter(name="exec", value=400),),
        losses=(Counter(name="subscriber_queue_full", value=12),),
        last_event_ms=NOW_MS - 300,
        processes=204,
        last_repair=Repair(time_ms=NOW_MS - 9000, explained=True),
    ),
    last_sweep=Sweep(time_ms=NOW_MS - 9500, duration_us=80_000, processes=204),
    intervals=(
        BlindInterval(
            reason="agent_started", from_ms=NOW_MS - 9000, to_ms=NOW_MS - 8000, to_boot_ns=1, repaired=True
        ),
    ),
    intervals_total=1,
    blind_ns=1_000_000_000,
    memory=Memory(resident_bytes=50 << 20, highest_bytes=60 << 20),
)


def with_events(**changes: object) -> Status:
    assert LIVE.events is not None
    return msgspec.structs.replace(LIVE, events=msgspec.structs.replace(LIVE.events, **changes))


def told(status: Status) -> str:
    return "\n".join(labelled(agent_lines(status, NOW_MS, UTC), PLAIN))


OPEN = BlindInterval(reason="connection_lost", detail="it left", from_ms=NOW_MS - 42_000)
BLIND = msgspec.structs.replace(with_events(sight=Sight.BLIND, detail="it left"), intervals=(OPEN,))
POLLING = msgspec.structs.replace(
    with_events(sight=Sight.POLLING, detail="no BTF"),
    intervals=(msgspec.structs.replace(OPEN, reason="polling_source"),),
)


def test_seeing_says_when_it_last_saw_and_that_nothing_was_missed() -> None:
    assert verdict(LIVE, NOW_MS, PLAIN) == (
        "seeing   last event 0.30s ago; compared with all that runs 9s ago: nothing was missed"
    )
    assert not degraded(LIVE)


def test_quiet_is_not_blind() -> None:
    quiet = verdict(with_events(last_event_ms=NOW_MS - 45_000), NOW_MS, PLAIN)
    assert quiet.startswith("seeing   quiet: no event for 45s;")
    assert "BLIND" not in quiet
    blind = verdict(BLIND, NOW_MS, PLAIN)
    assert blind == "BLIND for 42s: connection lost (it left)"
    assert "quiet" not in blind
    assert degraded(BLIND)


def test_polling_is_half_blind() -> None:
    assert verdict(POLLING, NOW_MS, PLAIN) == (
        "PARTLY BLIND for 42s: events come from polling, what lives between two looks is not seen (no BTF)"
    )
    assert degraded(POLLING)


def test_an_agent_that_cannot_be_asked_leaves_it_unknown() -> None:
    assert verdict(None, NOW_MS, PLAIN).startswith("UNKNOWN  ")


@pytest.mark.parametrize(
    ("status", "code"), [(LIVE, "32"), (BLIND, "31"), (POLLING, "33"), (None, "33")], ids=str
)
def test_each_state_has_its_colour(status: Status | None, code: str) -> None:
    assert verdict(status, NOW_MS, COLOUR).startswith(f"\x1b[{code}m")


def test_what_was_missed_is_told_and_whether_that_was_announced() -> None:
    repair = Repair(time_ms=NOW_MS - 9000, started=3, ended=1, explained=False)
    status = with_events(last_repair=repair, repairs=4, unexplained=4)
    assert "3 started, 1 ended, 0 changed unseen, UNEXPLAINED" in verdict(status, NOW_MS, PLAIN)
    assert "4 processes, 4 UNEXPLAINED" in told(status)


def test_the_state_is_told_in_full() -> None:
    text = told(LIVE)
    for fact in (
        "1h00m, version 1.2.3, uid 997",
        "50M, at most 60M",
        "connected",
        "eBPF",
        "1,234 received (400 exec)",
        "12 (subscriber_queue_full)",
        "204 in the table",
        "9s ago, 204 processes in 0.08s",
        "1 interval, 1.00s in all:",
        "1.00s: agent started, made good",
    ):
        assert fact in text


def test_an_open_interval_and_one_not_made_good_stand_out() -> None:
    missing = BlindInterval(
        reason="kernel_ring_full", from_ms=NOW_MS - 9000, to_ms=NOW_MS - 8000, to_boot_ns=1, count=312
    )
    text = told(msgspec.structs.replace(LIVE, intervals=(missing, OPEN), intervals_total=9))
    assert "9 intervals, 1.00s in all, the last 2:" in text
    assert "1.00s: kernel ring full, NOT YET MADE GOOD, 312 events lost" in text
    assert "OPEN for 42s: connection lost (it left)" in text


def test_what_is_not_there_yet_is_said() -> None:
    fresh = Status(procmond=Procmond(detail="no such socket"), sweep_error="refused")
    text = told(fresh)
    assert "not connected: no such socket" in text
    assert "none yet" in text
    assert "refused" in text
    assert verdict(fresh, NOW_MS, PLAIN).startswith("UNKNOWN")


@unhurried
@given(text=st.text(st.sampled_from("a\x1b\n\u202e"), max_size=8))
def test_nothing_an_agent_says_reaches_the_terminal_raw(text: str) -> None:
    status = msgspec.structs.replace(
        with_events(sight=Sight.BLIND, detail=text, losses=(Counter(name=text, value=1),)),
        version=text,
        procmond=Procmond(detail=text, event_source=text, event_source_reason=text),
        sweep_error=text,
        intervals=(BlindInterval(reason=text, detail=text, from_ms=NOW_MS),),
    )
    assert verdict(status, NOW_MS, PLAIN).isprintable()
    assert all(line.isprintable() for line in told(status).splitlines())


@unhurried
@given(at=st.integers(-(2**63), 2**63 - 1))
def test_any_time_on_the_wire_has_a_text(at: int) -> None:
    interval = BlindInterval(reason="x", from_ms=at, to_ms=at)
    told(msgspec.structs.replace(LIVE, intervals=(interval, msgspec.structs.replace(OPEN, from_ms=at))))

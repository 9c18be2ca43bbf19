"""What the agent sees, for a person. One rule: blind, quiet and unknown never look alike.

Pure: a status in, lines out. The words of the verdict in capitals stand for trouble only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, tzinfo

from agent.cli.escape import escape
from agent.cli.human import age, count, duration, size
from agent.cli.render import Screen, paint
from agent.control_messages import BlindInterval, Counter, Events, Sight, Status

QUIET_AFTER_S = 5.0  # without an event; the next one may be hours away on an idle host

_SOURCES = {"ebpf": "eBPF", "process_connector": "process connector", "polling": "polling"}


def verdict(status: Status | None, now_ms: int, screen: Screen) -> str:
    """One line: whether what happens is seen. None: the agent cannot be asked."""
    if status is None or status.events is None:
        return paint(
            "UNKNOWN  the agent cannot be asked, so nobody can tell what was missed", "yellow", screen
        )
    events = status.events
    if events.sight is Sight.LIVE:
        return (
            paint("seeing", "green", screen) + f"   {_last_event(events, now_ms)}{_verified(events, now_ms)}"
        )
    interval = next((one for one in status.intervals if one.to_ms is None), None)
    since = f" for {age((now_ms - interval.from_ms) / 1000)}" if interval is not None else ""
    reason = f": {escape(interval.reason).replace('_', ' ')}" if interval is not None else ""
    detail = f" ({escape(events.detail)})" if events.detail else ""
    if events.sight is Sight.POLLING:
        text = f"PARTLY BLIND{since}: events come from polling, what lives between two looks is not seen"
        return paint(text, "yellow", screen) + detail
    return paint(f"BLIND{since}{reason}", "red", screen) + detail


def degraded(status: Status) -> bool:
    """Whether less than everything is seen now."""
    return status.events is None or status.events.sight is not Sight.LIVE


def agent_lines(status: Status, now_ms: int, zone: tzinfo | None = None) -> Iterator[tuple[str, str]]:
    """The agent's own state, label and value; not escaped."""
    yield "  up", f"{duration(status.uptime_ms / 1000)}, version {status.version}, uid {status.uid}"
    if status.memory is not None:
        memory = status.memory
        yield "  memory", f"{size(memory.resident_bytes)}, at most {size(memory.highest_bytes)}"
    known = status.procmond
    if known is not None:
        yield "  procmond", "connected" if known.connected else f"not connected: {known.detail}"
        source = _SOURCES.get(known.event_source, known.event_source) or "none"
        yield "  source", f"{source} ({known.event_source_reason})" if known.event_source_reason else source
    if status.events is not None:
        yield from _event_lines(status.events, now_ms)
    yield from _sweep_lines(status, now_ms)
    yield from _interval_lines(status, now_ms, zone)


def _event_lines(events: Events, now_ms: int) -> Iterator[tuple[str, str]]:
    kinds = ", ".join(f"{one.value:,} {one.name}" for one in events.kinds)
    yield "  events", f"{events.received:,} received" + (f" ({kinds})" if kinds else "")
    yield "  lost", _counted(events.losses) or "0"
    yield (
        "  processes",
        f"{events.processes:,} in the table"
        + (f", {events.table_full:,} without room" if events.table_full else ""),
    )
    repair = events.last_repair
    if repair is not None:
        yield "  compared", f"{age((now_ms - repair.time_ms) / 1000)} ago: {_repair(events)}"
    if events.repairs:
        unexplained = f", {events.unexplained:,} UNEXPLAINED" if events.unexplained else ", all explained"
        yield "  repaired", count(events.repairs, "process", "processes") + unexplained


def _sweep_lines(status: Status, now_ms: int) -> Iterator[tuple[str, str]]:
    sweep = status.last_sweep
    if sweep is None:
        yield "  last sweep", "none yet"
    else:
        when = f"{age((now_ms - sweep.time_ms) / 1000)} ago"
        seen = count(sweep.processes, "process", "processes")
        yield "  last sweep", f"{when}, {seen} in {duration(sweep.duration_us / 1e6)}"
    if status.sweep_error is not None:
        yield "  sweep failed", status.sweep_error


def _interval_lines(status: Status, now_ms: int, zone: tzinfo | None) -> Iterator[tuple[str, str]]:
    shown = f", the last {len(status.intervals)}" if len(status.intervals) < status.intervals_total else ""
    total = f"{duration(status.blind_ns / 1e9)} in all" if status.blind_ns else "no time"
    yield "blind", f"{count(status.intervals_total, 'interval')}, {total}{shown}:"
    for interval in status.intervals:
        yield f"  {_clock(interval.from_ms, zone)}", _interval(interval, now_ms)


def _interval(interval: BlindInterval, now_ms: int) -> str:
    reason = interval.reason.replace("_", " ")
    if interval.to_ms is None:
        text = f"OPEN for {age((now_ms - interval.from_ms) / 1000)}: {reason}"
    else:
        repaired = ", made good" if interval.repaired else ", NOT YET MADE GOOD"
        text = f"{duration((interval.to_ms - interval.from_ms) / 1000)}: {reason}{repaired}"
    lost = f", {count(interval.count, 'event')} lost" if interval.count else ""
    return text + lost + (f" ({interval.detail})" if interval.detail else "")


def _last_event(events: Events, now_ms: int) -> str:
    if not events.last_event_ms:
        return "no event yet"
    silent_s = (now_ms - events.last_event_ms) / 1000
    if silent_s < QUIET_AFTER_S:
        return f"last event {duration(silent_s)} ago"
    return f"quiet: no event for {age(silent_s)}"


def _verified(events: Events, now_ms: int) -> str:
    repair = events.last_repair
    if repair is None:
        return "; not yet compared with a sweep"
    return f"; compared with all that runs {age((now_ms - repair.time_ms) / 1000)} ago: {_repair(events)}"


def _repair(events: Events) -> str:
    repair = events.last_repair
    if repair is None or not (repair.started or repair.ended or repair.changed):
        return "nothing was missed"
    excuse = "" if repair.explained else ", UNEXPLAINED"
    return f"{repair.started} started, {repair.ended} ended, {repair.changed} changed unseen{excuse}"


def _counted(counters: Iterable[Counter]) -> str:
    return ", ".join(f"{one.value:,} ({one.name})" for one in counters)


def _clock(unix_ms: int, zone: tzinfo | None) -> str:
    try:
        return f"{datetime.fromtimestamp(unix_ms / 1000, UTC).astimezone(zone):%b %d %H:%M:%S}"
    except (OverflowError, ValueError, OSError):
        return str(unix_ms)

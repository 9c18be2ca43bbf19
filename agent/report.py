"""The agent's state, as its control socket tells it. One rule: what is not known is left out, not zero."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, tzinfo

from agent.blind import Moment
from agent.control_messages import Counter, Events, Memory, Procmond, Sight, Status, Sweep
from agent.inventory import SweepReport
from agent.service import Agent
from agent.subscription import Subscription
from agent.vision import Vision
from common.messages import CapabilityResponse, EventSource

_KIB = 1024


def status_of(
    agent: Agent, subscription: Subscription, *, version: str, started: Moment, at: Moment, intervals: int
) -> Status:
    """The state at `at` of an agent that began at `started`, with the last `intervals` blind intervals."""
    vision = subscription.vision
    return Status(
        version=version,
        uid=os.geteuid(),
        pid=os.getpid(),
        started_ms=started.wall_ms,
        uptime_ms=max(0, at.boot_ns - started.boot_ns) // 1_000_000,
        procmond=_procmond(agent),
        events=_events(subscription),
        last_sweep=None if agent.last_sweep is None else _sweep(*agent.last_sweep),
        sweep_error=agent.sweep_error,
        intervals=vision.intervals.last(intervals),
        intervals_total=vision.intervals.total,
        blind_ns=vision.intervals.blind_ns,
        memory=memory_of(_own_status()),
        counters=_counters(dataclasses.asdict(agent.counters)),
    )


def status_line(
    last_sweep: tuple[SweepReport, int] | None, vision: Vision, zone: tzinfo | None = None
) -> str:
    """A line for the service manager: the last sweep (and when, Unix milliseconds), what is seen, how often
    it was not since the start. Times are shown in `zone` (None: local).

    Every word of it is ours: a line break of a peer's would be an order to the service manager.
    """
    if last_sweep is None:
        swept = "no sweep yet"
    else:
        report, time_ms = last_sweep
        at = datetime.fromtimestamp(time_ms / 1000, UTC).astimezone(zone)
        swept = f"{report.counts.processes:,} processes at {at:%H:%M}"
    blind = vision.intervals.open
    reason = "" if blind is None else f": {blind.reason.replace('_', ' ')}"
    sight = {Sight.LIVE: "live", Sight.POLLING: "polling"}.get(vision.sight, f"BLIND{reason}")
    number = vision.intervals.total - 1  # the first is the start itself
    return f"{swept}, {sight}, {number:,} blind interval{'' if number == 1 else 's'}"


def memory_of(proc_status: str) -> Memory | None:
    """What /proc/self/status says of memory; None if it does not."""
    values: dict[str, int] = {}
    for line in proc_status.splitlines():
        name, _, rest = line.partition(":")
        if name in ("VmRSS", "VmHWM"):
            values[name] = int(rest.split()[0]) * _KIB
    if len(values) != 2:
        return None
    return Memory(resident_bytes=values["VmRSS"], highest_bytes=values["VmHWM"])


def source_name(source: EventSource) -> str:
    """An event source's short name; empty for none."""
    return "" if source is EventSource.UNSPECIFIED else source.name.lower()


def _own_status() -> str:
    try:
        with open("/proc/self/status", encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:  # a /proc that is not mounted costs the figure, not the answer
        return ""


def _procmond(agent: Agent) -> Procmond:
    known = agent.capabilities or CapabilityResponse()
    return Procmond(
        socket=agent.socket,
        connected=agent.connected,
        detail=agent.away_reason,
        server_version=known.server_version or "",
        collector=known.collector,
        event_source=source_name(known.event_source),
        event_source_reason=known.event_source_reason,
        legacy=agent.legacy,
    )


def _events(subscription: Subscription) -> Events:
    vision, keeper = subscription.vision, subscription.keeper
    return Events(
        sight=vision.sight,
        detail=vision.detail,
        received=subscription.kinds.total(),
        kinds=_counters({kind.name.lower(): count for kind, count in sorted(subscription.kinds.items())}),
        losses=_counters(vision.intervals.losses),
        subscriptions=subscription.subscriptions,
        last_event_ms=subscription.last_event_ms,
        processes=len(keeper.table) if vision.sight is not Sight.BLIND else 0,
        table_full=keeper.table.refused,
        last_repair=keeper.last,
        repairs=keeper.repairs,
        unexplained=keeper.unexplained,
    )


def _sweep(report: SweepReport, time_ms: int) -> Sweep:
    counts, summary = report.counts, report.answer.summary
    losses: Iterable[tuple[str, int]] = (
        () if summary is None else ((loss.reason, loss.count) for loss in summary.losses)
    )
    return Sweep(
        time_ms=time_ms,
        duration_us=int(report.duration_s * 1e6),
        processes=counts.processes,
        new_processes=counts.new,
        gone_processes=counts.gone,
        executables=counts.executables,
        hashed=counts.hashed,
        inaccessible=counts.inaccessible,
        losses=_counters(dict(losses)),
    )


def _counters(values: Mapping[str, int]) -> tuple[Counter, ...]:
    return tuple(Counter(name=name, value=value) for name, value in values.items())

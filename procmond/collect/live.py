"""MONITOR_PROCESS_TREE with options.live: a snapshot, then events until it is cancelled. One rule: events are
listened to before the snapshot looks, so nothing falls between the two, and what it shows is not told twice.

The answer's frames say how far it got; a collector that takes over goes on from there, with a gap that covers
what the lost one had taken and not told.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import NoReturn

from common import codec, limits
from common.logs import get_logger
from common.messages import CollectionOptions, DetectionResult, DetectionTask, ProcessEventKind, ProcessFilter
from procmond.collect.filters import compile_filter
from procmond.collect.hash_cache import canonical
from procmond.collect.records import join_events
from procmond.collect.request import Request
from procmond.collect.snapshot import send_snapshot
from procmond.collect.sweep import Tools
from procmond.events.hub import decode_resume
from procmond.events.pump import boot_ns
from procmond.events.subscriber import Subscriber, Wish

_log = get_logger("procmond.collect")


async def monitor_live(request: Request, tools: Tools) -> NoReturn:
    """Answer MONITOR_PROCESS_TREE with `live`; ends by being cancelled only. Raises: InvalidTask."""
    await tools.feed.started.wait()
    stream = _Stream(request, tools)
    try:
        await stream.run()
    finally:
        stream.close()


class _Stream:
    """One live answer."""

    def __init__(self, request: Request, tools: Tools) -> None:
        task = request.task
        resume = decode_resume(request.resume) if request.resume else None
        now_ns = boot_ns()
        self._request = request
        self._tools = tools
        self._began_ns = now_ns if resume is None else resume.began_ns
        self._ready = asyncio.Event()
        self._head = codec.encode(DetectionResult(boot_id=tools.collector.boot_id()))
        quarter = request.frame_limit // limits.STREAM_FRAME_DIVISOR
        self._frame_bytes = min(quarter, limits.STREAM_FRAME_BYTES) - len(self._head)
        self._subscriber = Subscriber(
            _wish_of(task),
            began_ns=self._began_ns,
            since_ns=self._began_ns,
            first=1 if resume is None else resume.next,
            wake=self._ready.set,
            wall_ms=_wall_ms,
        )
        tools.feed.subscribe(self._subscriber, resume)

    async def run(self) -> NoReturn:
        """Until cancelled."""
        subscriber, request = self._subscriber, self._request
        if request.resume:  # first the gap, then the snapshot that repairs it
            subscriber.snapshot_due = False
        while True:
            if subscriber.snapshot_due:
                await send_snapshot(request, self._tools, subscriber, self._frame_bytes, self._send)
            elif pieces := subscriber.take(self._frame_bytes):
                await self._send(pieces)
            else:
                self._ready.clear()
                await self._ready.wait()

    def close(self) -> None:
        """Nobody listens any more; what became of the events goes into the summary and the log."""
        subscriber, tally = self._subscriber, self._request.tally
        self._tools.feed.unsubscribe(subscriber)
        tally.events_delivered = subscriber.delivered.total()
        tally.losses.update(subscriber.lost)
        _log.info(
            "live_ended",
            task_id=self._request.task.task_id,
            delivered=_by_name(subscriber.delivered),
            lost={f"{reason}:{kind.name.lower()}": n for (reason, kind), n in subscriber.lost.items()},
            filtered=_by_name(subscriber.filtered),
            in_snapshot=_by_name(subscriber.repeated),
            untold=_by_name(subscriber.unsettled),
        )

    async def _send(self, pieces: list[bytes]) -> None:
        if pieces:
            await self._request.live(self._head + join_events(pieces), self._resume)

    def _resume(self) -> bytes:
        return self._tools.feed.hub.resume(self._subscriber, self._began_ns, boot_ns()).encode()


def _wall_ms(at_ns: int) -> int:
    """Unix milliseconds of a boot time, as the two clocks stand now."""
    return (time.time_ns() - boot_ns() + at_ns) // 1_000_000


def _wish_of(task: DetectionTask) -> Wish:
    """What a task asks to hear of. Raises: InvalidTask."""
    options = task.options or CollectionOptions()
    wanted = task.process_filter or ProcessFilter()
    chosen = compile_filter(
        ProcessFilter(process_names=wanted.process_names, executable_pattern=wanted.executable_pattern)
    )
    plain = not wanted.process_names and wanted.executable_pattern is None
    return Wish(
        matches=None if plain else chosen.matches,
        roots=frozenset(wanted.pids),
        kinds=frozenset(options.event_kinds),
        algorithms=canonical(options.digests),
        cached_hashes=options.skip_hashes,
        environment=options.environment,
        unfiltered=plain and not wanted.pids and not options.event_kinds,
    )


def _by_name(counts: Mapping[ProcessEventKind, int]) -> dict[str, int]:
    return {kind.name.lower(): count for kind, count in counts.items() if count}

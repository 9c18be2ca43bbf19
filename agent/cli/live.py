"""How a command follows live events. One rule: a stream that ends by itself has failed, and says so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NoReturn

from agent.answer import failure_of
from agent.cli.exits import FINE
from agent.cli.output import complain, discard_output
from agent.client import Client
from agent.sequence import SequenceCheck
from common.errors import ConnectionLost, Unsupported
from common.messages import (
    CollectionOptions,
    DetectionTask,
    EventSource,
    Gap,
    ProcessEvent,
    ProcessEventKind,
    ProcessFilter,
    TaskType,
)

Events = Sequence[ProcessEvent]


def live_task(
    process_filter: ProcessFilter, kinds: Sequence[ProcessEventKind] = (), *, hashes: bool = True
) -> DetectionTask:
    """The task that follows events; without `kinds` those of every kind."""
    return DetectionTask(
        task_type=TaskType.MONITOR_PROCESS_TREE,
        process_filter=None if process_filter == ProcessFilter() else process_filter,
        stream=True,
        options=CollectionOptions(live=True, skip_hashes=not hashes, event_kinds=tuple(kinds)),
    )


async def until_signal(work: Awaitable[int]) -> int:
    """The exit status of `work`, or FINE when a signal ended it: for who watches, that is the normal end."""
    try:
        return await work
    except asyncio.CancelledError:
        # What a slow reader has not taken of the last batch is not waited for.
        discard_output()
        return FINE


async def follow(client: Client, task: DetectionTask, on_events: Callable[[Events, str], None]) -> NoReturn:
    """Hand on each batch of events, with the boot_id.

    A hole in the numbers that procmond said nothing of is handed on as a gap. Raises: as `Client`; and
    ConnectionLost or a TaskError when the stream ends by itself.
    """
    async with client:
        if client.legacy:
            raise Unsupported("this procmond knows only the specification: it has no live events")
        _warn(client)
        check = SequenceCheck()
        boot_id = ""
        async with client.stream(task) as frames:
            async for frame in frames:
                boot_id = frame.boot_id or boot_id
                if frame.events:
                    on_events(_with_holes(frame.events, check), boot_id)
                if not (frame.success or frame.more):
                    raise failure_of(frame)
    raise ConnectionLost("procmond ended the stream of events")


def _with_holes(events: Events, check: SequenceCheck) -> Events:
    whole: list[ProcessEvent] = []
    for event in events:
        missing = check.check(event)
        if missing:
            gap = Gap(
                reason="sequence_hole",
                count=missing,
                from_sequence=event.sequence - missing,
                to_sequence=event.sequence - 1,
            )
            whole.append(
                ProcessEvent(
                    kind=ProcessEventKind.GAP,
                    sequence=event.sequence - missing,
                    boot_time_ns=event.boot_time_ns,
                    wall_time_ms=event.wall_time_ms,
                    gap=gap,
                )
            )
        whole.append(event)
    return whole


def _warn(client: Client) -> None:
    """What this stream cannot show, before anything is shown."""
    known = client.capabilities
    if known is not None and known.event_source is EventSource.POLLING:
        complain(f"events come from polling: {known.event_source_reason or 'what lives briefly is not seen'}")

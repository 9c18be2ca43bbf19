"""How every command asks procmond. One rule: what is not whole is said on stderr and in the exit status."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence

import msgspec

from agent.answer import Answer, Merger
from agent.cli.exits import FINE, PARTIAL, shortfalls
from agent.cli.human import count
from agent.cli.output import complain
from agent.cli.terminal import Progress
from agent.client import Client
from common.errors import DaemonEyeError, TooLarge
from common.limits import CLIENT_MAX_ANSWER_BYTES
from common.messages import DetectionResult, DetectionTask

# Tasks of one command in flight: half of what procmond takes per connection, so that none is answered BUSY.
TASKS_AT_ONCE = 8


async def gather(
    client: Client, task: DetectionTask, on_frame: Callable[[DetectionResult], None] | None = None
) -> Answer:
    """The whole answer to one task, with progress.

    With `on_frame`, which sees each frame as it comes, the records are not kept. Raises: as `Client.ask`.
    """
    merger = Merger()
    progress = Progress(time.monotonic())
    records = 0
    try:
        async with client.stream(task) as frames:
            async for frame in frames:
                if frames.received_bytes > CLIENT_MAX_ANSWER_BYTES and on_frame is None:
                    raise TooLarge(
                        f"the answer has more than {CLIENT_MAX_ANSWER_BYTES} bytes; use --format jsonl"
                    )
                merger.add(frame if on_frame is None else msgspec.structs.replace(frame, processes=()))
                records += len(frame.processes) + len(frame.executables)
                progress.update(f"{count(records, 'record')} so far", time.monotonic())
                if on_frame is not None:
                    progress.finish()
                    on_frame(frame)
    finally:
        progress.finish()
    return merger.answer()


async def ask_all(client: Client, tasks: Sequence[DetectionTask]) -> list[Answer | DaemonEyeError]:
    """Answers to several tasks in their order, at most TASKS_AT_ONCE in flight; or the error in its place."""
    permits = asyncio.Semaphore(TASKS_AT_ONCE)
    progress = Progress(time.monotonic())
    finished = itertools.count(1)

    async def ask(task: DetectionTask) -> Answer | DaemonEyeError:
        async with permits:
            try:
                return await client.ask(task)
            except DaemonEyeError as error:
                return error
            finally:
                progress.update(f"{next(finished):,} of {len(tasks):,} answered", time.monotonic())

    try:
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(ask(task), name=f"ask-{i}") for i, task in enumerate(tasks)]
    finally:
        progress.finish()
    return [task.result() for task in asked]


def report_shortfalls(client: Client, answers: Sequence[Answer], *, hashes: bool) -> int:
    """Say on stderr what the answers lack; PARTIAL if anything, else FINE."""
    lines = [line for answer in answers for line in shortfalls(answer, legacy=client.legacy, hashes=hashes)]
    for line in dict.fromkeys(lines):
        complain(line)
    return PARTIAL if lines else FINE

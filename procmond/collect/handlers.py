"""What the collector does for each task type it is asked. One rule: the front's table decides who may ask."""

from __future__ import annotations

import functools
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Final

from common import codec, limits
from common.errors import TooLarge
from common.messages import DetectionResult, DetectionTask, TaskType
from procmond.collect.digest import identity_of
from procmond.collect.executables import Examiner, hash_result, question_of
from procmond.collect.guard import Guard
from procmond.collect.guarded import blocks_image
from procmond.collect.known_answers import KnownAnswer
from procmond.collect.leaderless import at_image
from procmond.collect.live import monitor_live
from procmond.collect.request import Request
from procmond.collect.sighting import FileIdentity
from procmond.collect.slices import Slicer
from procmond.collect.sweep import Tools, enumerate_processes
from procmond.collect.tree import monitor_tree
from procmond.collect.vetting import look_again
from procmond.pulse import Stage

Handler = Callable[[Request, Tools], Awaitable[bytes]]
"""Sends all frames but the last, and returns the last one's fields."""


async def check_hash(request: Request, tools: Tools) -> bytes:
    """Answer CHECK_PROCESS_HASH or VERIFY_EXECUTABLE.

    Raises: Refused for a path root will not open; TooLarge; InvalidTask, Unsupported from the question.
    """
    task = request.task
    question = question_of(task)
    quarter = min(request.frame_limit // limits.STREAM_FRAME_DIVISOR, limits.STREAM_FRAME_BYTES)
    limit = quarter if task.stream else request.frame_limit - limits.MAX_ERROR_MESSAGE_BYTES
    body, count = b"", 0
    examiner = Examiner(tools.engine, functools.partial(running_images, tools.guard), tools.guard)
    async with aclosing(examiner.examine(question, administrator=request.administrator)) as reports:
        async for report in reports:
            count += 1
            request.tally.image(count, report.hash_state)
            if question.one_target:
                body = codec.encode(
                    DetectionResult(executables=(report,), hash_result=hash_result(report, question))
                )
                if task.hash_check is not None and _about_one_path(task):
                    tools.answers.put(task.hash_check, report, KnownAnswer(question.algorithms, body))
                return body
            piece = codec.encode(DetectionResult(executables=(report,)))
            if len(body) + len(piece) > limit and body:
                if not task.stream:
                    raise TooLarge(
                        f"{len(question.pids)} reports do not fit one frame of {request.frame_limit} bytes; "
                        "set stream to take several, or ask for fewer"
                    )
                await request.part(body)
                body = b""
            body += piece
    return body


def answer_at_once(task: DetectionTask, tools: Tools) -> bytes | None:
    """The last frame's fields for CHECK_PROCESS_HASH of one path, where one look proves that they still hold.

    What a question of the same words was answered stays true while the file is the same, unchanged, and its
    digests are known. None: the question is one for the table.
    """
    check = task.hash_check
    if check is None or not _about_one_path(task):
        return None
    tools.guard.enter(Stage.IMAGE, 0, 0)
    identity = look_again(check.executable_path)
    tools.guard.leave()
    if identity is None:
        return None
    known = tools.answers.get(check, identity)
    if known is None or tools.engine.cached(identity, known.algorithms) is None:
        return None
    return known.body


def _about_one_path(task: DetectionTask) -> bool:
    return (
        task.task_type == TaskType.CHECK_PROCESS_HASH and task.options is None and task.process_filter is None
    )


async def running_images(guard: Guard) -> Sequence[tuple[int, FileIdentity]]:
    """Every process that has an image to be seen, with that image, by ascending pid."""
    found: list[tuple[int, FileIdentity]] = []
    slicer = Slicer()
    for name in sorted((name for name in os.listdir("/proc") if name.isdecimal()), key=int):
        await slicer.breathe()
        pid = int(name)
        if blocks_image(guard, pid):
            continue
        try:
            found.append((pid, identity_of(at_image(pid, _stat_image))))
        except OSError:
            continue  # ended, a kernel thread, withheld, or broken: no image to be seen
        finally:
            guard.leave()
    return found


def _stat_image(folder: str) -> os.stat_result:
    """Raises: OSError."""
    return os.stat(f"{folder}/exe")


async def monitor(request: Request, tools: Tools) -> bytes:
    """Answer MONITOR_PROCESS_TREE, once or for as long as the client listens. Raises: InvalidTask,
    TooLarge."""
    options = request.task.options
    if options is not None and options.live:
        await monitor_live(request, tools)
    return await monitor_tree(request, tools)


TABLE: Final[dict[int, Handler]] = {
    TaskType.ENUMERATE_PROCESSES: enumerate_processes,
    TaskType.CHECK_PROCESS_HASH: check_hash,
    TaskType.VERIFY_EXECUTABLE: check_hash,
    TaskType.MONITOR_PROCESS_TREE: monitor,
}

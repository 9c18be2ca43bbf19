"""What collectors answer and clients ask in several tests of the front. One rule: said once."""

from __future__ import annotations

from common.codec import encode
from common.messages import (
    CollectionSummary,
    DetectionResult,
    DetectionTask,
    ProcessRecord,
    TaskType,
    new_enumerate_task,
)
from procmond.link import Kind
from tests.support.conversation import Conversation, Stage

SUMMARY = CollectionSummary(processes_seen=3, duration_us=7)
PART = encode(DetectionResult(processes=(ProcessRecord(pid=1), ProcessRecord(pid=2))))
LAST = encode(DetectionResult(processes=(ProcessRecord(pid=3),), success=True, summary=SUMMARY))
STOPPED = encode(DetectionResult(summary=SUMMARY))
"""How a collector ends an answer that it was told to stop."""


def cancel(task_id: str, target: str) -> DetectionTask:
    return DetectionTask(task_id=task_id, task_type=TaskType.CANCEL_TASK, target_task_id=target)


def negotiate(task_id: str) -> DetectionTask:
    return DetectionTask(task_id=task_id, task_type=TaskType.NEGOTIATE_CAPABILITIES)


async def still_there(conversation: Conversation) -> None:
    """The connection still answers."""
    await conversation.ask(negotiate("still there?"))
    assert (await conversation.result("still there?")).success


async def serve_one(stage: Stage, conversation: Conversation, task_id: str) -> None:
    """A whole task, from question to answer."""
    await conversation.ask(new_enumerate_task(task_id))
    request, _, _ = await stage.collector.asked()
    await stage.collector.say(Kind.LAST, request, LAST)
    assert (await conversation.result(task_id)).success

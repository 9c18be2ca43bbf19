"""Tasks from strangers. One rule: DecodeError, TaskIdError, InvalidTask, Unsupported or nothing."""

from __future__ import annotations

from common import limits
from common.codec import decode_task, encode_task
from common.errors import DecodeError, InvalidTask, TaskIdError, Unsupported
from common.validate import check_task, check_task_id
from tests.fuzz.corpus import TASKS

SEEDS = TASKS


def target(data: bytes) -> None:
    """As procmond's front takes a payload."""
    try:
        task = decode_task(data)
    except DecodeError:
        return
    if decode_task(encode_task(task)) != task:
        raise AssertionError("something was lost on the way back")
    try:
        check_task_id(task.task_id)
        check_task(task)
    except TaskIdError:
        return
    except (InvalidTask, Unsupported) as error:
        if not 0 < len(str(error).encode()) <= limits.MAX_ERROR_MESSAGE_BYTES:
            raise AssertionError("a refusal that is no sentence") from error

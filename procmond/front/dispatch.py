"""The table of what may be asked. One rule: what is not in it is refused with a type.

The privileged surface of DaemonEye is these rows: each names who handles the task, whether it counts against
the limits on work in flight, and what the peer must be allowed.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, NamedTuple

from common.errors import Denied, Unsupported
from common.messages import DetectionTask, Permission, TaskType


class Handler(Enum):
    """Who answers."""

    COLLECTOR = "collector"
    """Validated here, answered by the collector, forwarded unread."""
    CAPABILITIES = "capabilities"
    """Answered here from what the collector said when it started."""
    CANCEL = "cancel"
    """Ends another task of the same connection."""


class Entry(NamedTuple):
    """One row: who answers a task type, and under which conditions."""

    handler: Handler
    counted: bool
    """Whether it counts against the limits on tasks in flight."""
    permission: Permission


TABLE: Final[dict[int, Entry]] = {
    TaskType.ENUMERATE_PROCESSES: Entry(Handler.COLLECTOR, True, Permission.QUERY),
    TaskType.CHECK_PROCESS_HASH: Entry(Handler.COLLECTOR, True, Permission.QUERY),
    TaskType.MONITOR_PROCESS_TREE: Entry(Handler.COLLECTOR, True, Permission.QUERY),
    TaskType.VERIFY_EXECUTABLE: Entry(Handler.COLLECTOR, True, Permission.QUERY),
    TaskType.NEGOTIATE_CAPABILITIES: Entry(Handler.CAPABILITIES, False, Permission.QUERY),
    TaskType.CANCEL_TASK: Entry(Handler.CANCEL, False, Permission.QUERY),
}


def look_up(task: DetectionTask, permission: Permission) -> Entry:
    """The row for a validated task. Raises: Unsupported, Denied."""
    entry = TABLE.get(task.task_type)
    if entry is None:
        raise Unsupported(f"task type {task.task_type} is not answered here")
    if permission < entry.permission:
        raise Denied(f"this peer may not ask {TaskType(task.task_type).name}")
    return entry


def answered() -> tuple[TaskType, ...]:
    """The task types this version answers, for the capability answer."""
    return tuple(TaskType(kind) for kind in TABLE)

"""What a task must look like before any work is done for it. One rule: pure, and every refusal is typed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from common import limits
from common.errors import InvalidTask, TaskIdError, Unsupported
from common.messages import (
    CapabilityRequest,
    CollectionOptions,
    DetectionTask,
    HashCheck,
    MonitoringDomain,
    ProcessEventKind,
    ProcessFilter,
    TaskType,
)

DIGEST_HEX: Final = {"sha256": 64, "sha512": 128, "sha1": 40, "md5": 32, "blake3": 64}
"""Hexadecimal digits of each algorithm the schema names."""

DEFAULT_ALGORITHM: Final = "sha256"

_HEX: Final = frozenset("0123456789abcdefABCDEF")
_KNOWN: Final = frozenset(TaskType)
_HASHING: Final = frozenset({TaskType.CHECK_PROCESS_HASH, TaskType.VERIFY_EXECUTABLE})
_COLLECTING: Final = frozenset({TaskType.ENUMERATE_PROCESSES, TaskType.MONITOR_PROCESS_TREE})


def check_task_id(task_id: str) -> None:
    """An id that cannot be answered under is a fault of the connection.

    Raises: TaskIdError when it is empty or longer than `MAX_TASK_ID_BYTES`.
    """
    length = len(task_id.encode())
    if not 1 <= length <= limits.MAX_TASK_ID_BYTES:
        raise TaskIdError(f"task_id: {length} bytes; 1 to {limits.MAX_TASK_ID_BYTES} are allowed")


def check_task(task: DetectionTask, algorithms: Collection[str] = tuple(DIGEST_HEX)) -> None:
    """All bounds and contradictions of a task whose id is sound.

    `algorithms` are those this server computes.
    Raises: InvalidTask naming field, value and bound; Unsupported for a task type or algorithm that this
    server does not know.
    """
    if task.task_type not in _KNOWN:
        known = ", ".join(f"{kind.name} ({kind.value})" for kind in TaskType)
        raise Unsupported(f"task type {task.task_type} is not known here; ask one of {known}")
    if task.metadata:
        _bytes("metadata", task.metadata, limits.MAX_METADATA_BYTES)
    if task.deadline_ms:
        _number("deadline_ms", task.deadline_ms, 0, limits.MAX_DEADLINE_MS)
    if task.target_task_id or task.task_type == TaskType.CANCEL_TASK:
        _check_cancel(task)
    if task.process_filter is not None:
        _check_filter(task.process_filter)
    if task.hash_check is not None:
        if task.task_type not in _HASHING:
            raise InvalidTask("hash_check", "set", "only CHECK_PROCESS_HASH and VERIFY_EXECUTABLE take one")
        _check_hash(task.hash_check, algorithms)
    if task.task_type in _HASHING:
        _check_hash_targets(task)
    if task.options is not None:
        _check_options(task, task.options, algorithms)
    if task.capability_request is not None:
        _check_capability_request(task, task.capability_request)


def check_expected_hash(expected: str, algorithm: str) -> None:
    """Raises: InvalidTask when `expected` cannot be a digest of `algorithm`; empty is none expected."""
    if not expected:
        return
    digits = DIGEST_HEX[algorithm]
    if len(expected) != digits:
        raise InvalidTask(
            "hash_check.expected_hash",
            f"{len(expected)} digits",
            f"{algorithm} has {digits} hexadecimal ones",
        )
    if not _HEX.issuperset(expected):
        raise InvalidTask("hash_check.expected_hash", "not hexadecimal", "only 0-9, a-f and A-F are allowed")


def _check_cancel(task: DetectionTask) -> None:
    if task.task_type != TaskType.CANCEL_TASK:
        if task.target_task_id:
            raise InvalidTask("target_task_id", "set", "only CANCEL_TASK takes one")
        return
    length = len(task.target_task_id.encode())
    if not 1 <= length <= limits.MAX_TASK_ID_BYTES:
        raise InvalidTask("target_task_id", f"{length} bytes", f"1 to {limits.MAX_TASK_ID_BYTES} are allowed")
    if task.target_task_id == task.task_id:
        raise InvalidTask("target_task_id", "the task's own id", "name another task in flight")


def _check_filter(wanted: ProcessFilter) -> None:
    _count("process_filter.process_names", wanted.process_names, limits.MAX_PROCESS_NAMES)
    for name in wanted.process_names:
        _bytes("process_filter.process_names", name, limits.MAX_PROCESS_NAME_BYTES)
    _count("process_filter.pids", wanted.pids, limits.MAX_PIDS)
    for pid in wanted.pids:
        _number("process_filter.pids", pid, 1, limits.MAX_PID)
    _bytes("process_filter.executable_pattern", wanted.executable_pattern or "", limits.MAX_PATTERN_BYTES)


def _check_hash(check: HashCheck, algorithms: Collection[str]) -> None:
    _check_algorithm("hash_check.hash_algorithm", check.hash_algorithm, algorithms)
    check_expected_hash(check.expected_hash, check.hash_algorithm or DEFAULT_ALGORITHM)
    path = check.executable_path
    _bytes("hash_check.executable_path", path, limits.MAX_PATH_BYTES)
    if path and not path.startswith("/"):
        raise InvalidTask("hash_check.executable_path", "relative", "only an absolute path is allowed")
    if "\0" in path:
        raise InvalidTask("hash_check.executable_path", "contains NUL", "no path of Linux does")


def _check_hash_targets(task: DetectionTask) -> None:
    if task.hash_check is None:
        if task.task_type == TaskType.CHECK_PROCESS_HASH:
            raise InvalidTask("hash_check", "not set", "CHECK_PROCESS_HASH needs one")
        path = ""
    else:
        path = task.hash_check.executable_path
    wanted = task.process_filter
    if wanted is not None and (wanted.process_names or wanted.executable_pattern):
        raise InvalidTask("process_filter", "names or pattern", "a hash task takes only pids")
    pids = () if wanted is None else wanted.pids
    if path and pids:
        raise InvalidTask(
            "process_filter.pids", "set beside hash_check.executable_path", "name one of the two"
        )
    if not path and not pids:
        raise InvalidTask(
            "hash_check.executable_path", "empty", "name a path, or running images by process_filter.pids"
        )


def _check_options(task: DetectionTask, options: CollectionOptions, algorithms: Collection[str]) -> None:
    _count("options.digests", options.digests, limits.MAX_DIGESTS)
    for algorithm in options.digests:
        _check_algorithm("options.digests", algorithm, algorithms)
    _number("options.hash_budget_ms", options.hash_budget_ms, 0, limits.MAX_HASH_BUDGET_MS)
    _count("options.event_kinds", options.event_kinds, limits.MAX_EVENT_KINDS)
    for kind in options.event_kinds:
        _number("options.event_kinds", kind, 1, max(ProcessEventKind))
    if options.live and task.task_type != TaskType.MONITOR_PROCESS_TREE:
        raise InvalidTask("options.live", "set", "only MONITOR_PROCESS_TREE takes it")
    if options.live and not task.stream:
        raise InvalidTask("options.live", "set without stream", "a live answer needs stream")
    if options.event_kinds and not options.live:
        raise InvalidTask("options.event_kinds", "set without options.live", "only a live stream has events")
    if options.environment and task.task_type not in _COLLECTING:
        raise InvalidTask("options.environment", "set", "only tasks that answer with processes take it")


def _check_capability_request(task: DetectionTask, request: CapabilityRequest) -> None:
    if task.task_type != TaskType.NEGOTIATE_CAPABILITIES:
        raise InvalidTask("capability_request", "set", "only NEGOTIATE_CAPABILITIES takes one")
    _bytes("capability_request.client_id", request.client_id, limits.MAX_CLIENT_ID_BYTES)
    _bytes("capability_request.client_version", request.client_version or "", limits.MAX_CLIENT_VERSION_BYTES)
    _count("capability_request.requested_domains", request.requested_domains, limits.MAX_REQUESTED_DOMAINS)
    for domain in request.requested_domains:
        _number("capability_request.requested_domains", domain, 0, max(MonitoringDomain))


def _check_algorithm(field: str, algorithm: str, algorithms: Collection[str]) -> None:
    _bytes(field, algorithm, limits.MAX_ALGORITHM_BYTES)
    if algorithm and algorithm not in algorithms:
        raise Unsupported(f"{field}: {algorithm!r} is not computed here; ask one of {', '.join(algorithms)}")


def _bytes(field: str, text: str, bound: int) -> None:
    # One character takes at most four bytes: encode only what may be too long.
    if len(text) * 4 > bound:
        length = len(text.encode())
        if length > bound:
            raise InvalidTask(field, f"{length} bytes", f"at most {bound} are allowed")


def _count(field: str, items: Sequence[object], bound: int) -> None:
    if len(items) > bound:
        raise InvalidTask(field, f"{len(items)} items", f"at most {bound} are allowed")


def _number(field: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise InvalidTask(field, value, f"{least} to {most} are allowed")

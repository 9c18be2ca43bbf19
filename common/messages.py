"""The contract's messages as frozen values. One rule: same names as proto/ipc.proto, and nothing else.

Repeated fields are tuples; an optional field that is not set is `None`; any other field has the schema's
zero value. Enums a client sends are plain integers, so that a number this version does not know can be
answered with a typed refusal; in results such a number reads as UNSPECIFIED, and is left out of a list.
The meaning, unit and bound of every field stand in proto/ipc.proto and are not repeated here. Values are
cheap (msgspec Structs without garbage-collector tracking) because a sweep makes thousands.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import msgspec


class TaskType(IntEnum):
    """What a DetectionTask asks."""

    ENUMERATE_PROCESSES = 0
    CHECK_PROCESS_HASH = 1
    MONITOR_PROCESS_TREE = 2
    VERIFY_EXECUTABLE = 3
    NEGOTIATE_CAPABILITIES = 100
    CANCEL_TASK = 101


class ErrorCode(IntEnum):
    """Why a task ended without success."""

    UNSPECIFIED = 0
    INVALID = 1
    UNSUPPORTED = 2
    DENIED = 3
    BUSY = 4
    DEADLINE = 5
    CANCELLED = 6
    TOO_LARGE = 7
    NOT_FOUND = 8
    REFUSED = 9
    SHUTTING_DOWN = 10
    PROTOCOL = 11
    INTERNAL = 12


class ProcessStatus(IntEnum):
    """State of a process, from field 3 of /proc/PID/stat."""

    UNSPECIFIED = 0
    RUNNING = 1
    SLEEPING = 2
    DISK_SLEEP = 3
    STOPPED = 4
    TRACED = 5
    ZOMBIE = 6
    IDLE = 7
    DEAD = 8


class HashState(IntEnum):
    """Whether a running image was hashed, or why not."""

    UNSPECIFIED = 0
    OK = 1
    PENDING = 2
    TOO_LARGE = 3
    TIMED_OUT = 4
    CHANGED = 5
    DENIED = 6
    GONE = 7
    NO_EXECUTABLE = 8
    NOT_REGULAR = 9
    IO_ERROR = 10


class Provenance(IntEnum):
    """Where a fact comes from."""

    UNSPECIFIED = 0
    KERNEL = 1
    PROC = 2
    PARENT = 3
    FILE = 4
    MISSING = 5


class HashVerdict(IntEnum):
    """How a digest compares with the one expected."""

    UNSPECIFIED = 0
    MATCH = 1
    MISMATCH = 2
    UNKNOWN = 3


class ProcessEventKind(IntEnum):
    """What a ProcessEvent reports."""

    UNSPECIFIED = 0
    SNAPSHOT = 1
    SNAPSHOT_END = 2
    FORK = 3
    EXEC = 4
    EXIT = 5
    CREDENTIALS = 6
    GAP = 7


class MonitoringDomain(IntEnum):
    """What a collector can watch; DaemonEye watches processes."""

    PROCESS = 0
    NETWORK = 1
    FILESYSTEM = 2
    PERFORMANCE = 3


class EventSource(IntEnum):
    """Where live events come from, best first."""

    UNSPECIFIED = 0
    EBPF = 1
    PROCESS_CONNECTOR = 2
    POLLING = 3


class Permission(IntEnum):
    """What a peer may do."""

    UNSPECIFIED = 0
    QUERY = 1
    ADMINISTER = 2


class ProcessKey(NamedTuple):
    """The identity of a process: a pid alone is re-used, these three together are not."""

    boot_id: str
    pid: int
    start_ticks: int


class Message(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Base of all messages."""


class ProcessFilter(Message, frozen=True, gc=False, kw_only=True):
    process_names: tuple[str, ...] = ()
    pids: tuple[int, ...] = ()
    executable_pattern: str | None = None


class HashCheck(Message, frozen=True, gc=False, kw_only=True):
    expected_hash: str = ""
    hash_algorithm: str = ""
    executable_path: str = ""


class CollectionOptions(Message, frozen=True, gc=False, kw_only=True):
    skip_hashes: bool = False
    digests: tuple[str, ...] = ()
    hash_budget_ms: int = 0
    environment: bool = False
    event_kinds: tuple[int, ...] = ()
    live: bool = False


class CapabilityRequest(Message, frozen=True, gc=False, kw_only=True):
    client_id: str = ""
    requested_domains: tuple[int, ...] = ()
    client_version: str | None = None
    protocol_version: int = 0


class DetectionTask(Message, frozen=True, gc=False, kw_only=True):
    """Client to procmond: the only message a client sends."""

    task_id: str = ""
    task_type: int = TaskType.ENUMERATE_PROCESSES
    process_filter: ProcessFilter | None = None
    hash_check: HashCheck | None = None
    metadata: str | None = None
    stream: bool = False
    deadline_ms: int = 0
    capability_request: CapabilityRequest | None = None
    options: CollectionOptions | None = None
    target_task_id: str = ""


class Digest(Message, frozen=True, gc=False, kw_only=True):
    algorithm: str = ""
    value: str = ""


class EnvironmentVariable(Message, frozen=True, gc=False, kw_only=True):
    name: str = ""
    value: str = ""


class FieldProvenance(Message, frozen=True, gc=False, kw_only=True):
    field: int = 0
    provenance: Provenance = Provenance.UNSPECIFIED
    reason: str = ""


class ProcessRecord(Message, frozen=True, gc=False, kw_only=True):
    """One process (thread group leader) as found."""

    pid: int = 0
    ppid: int | None = None
    name: str = ""
    executable_path: str | None = None
    command_line: tuple[str, ...] = ()
    start_time: int | None = None
    cpu_usage: float | None = None
    memory_usage: int | None = None
    executable_hash: str | None = None
    hash_algorithm: str | None = None
    user_id: str | None = None
    accessible: bool = False
    file_exists: bool = False
    collection_time: int = 0
    ssdeep_hash: str | None = None
    on_disk_mismatch: bool = False
    ssdeep_degraded: bool = False
    start_ticks: int = 0
    parent_start_ticks: int | None = None
    status: ProcessStatus = ProcessStatus.UNSPECIFIED
    threads: int = 0
    cpu_time_ns: int = 0
    real_uid: int = 0
    effective_uid: int = 0
    real_gid: int = 0
    effective_gid: int = 0
    login_uid: int | None = None
    user_name: str = ""
    session: int = 0
    tty: str = ""
    cwd: str = ""
    cgroup: str = ""
    container_id: str = ""
    pid_namespace: int = 0
    mount_namespace: int = 0
    invoked_path: str = ""
    executable_device: int = 0
    executable_inode: int = 0
    hash_state: HashState = HashState.UNSPECIFIED
    digests: tuple[Digest, ...] = ()
    is_kernel_thread: bool = False
    memory_backed: bool = False
    command_line_length: int = 0
    command_line_blocked: bool = False
    redacted: bool = False
    provenance: Provenance = Provenance.UNSPECIFIED
    exceptions: tuple[FieldProvenance, ...] = ()
    environment: tuple[EnvironmentVariable, ...] = ()
    script_path: str = ""
    reparented: bool | None = None


class HashResult(Message, frozen=True, gc=False, kw_only=True):
    hash_value: str = ""
    algorithm: str = ""
    file_path: str = ""
    success: bool = False
    error_message: str | None = None


class ExecutableReport(Message, frozen=True, gc=False, kw_only=True):
    path: str = ""
    verdict: HashVerdict = HashVerdict.UNSPECIFIED
    hash_state: HashState = HashState.UNSPECIFIED
    digests: tuple[Digest, ...] = ()
    size: int = 0
    mode: int = 0
    owner_uid: int = 0
    owner_gid: int = 0
    device: int = 0
    inode: int = 0
    modified_ns: int = 0
    changed_ns: int = 0
    file_capabilities: str = ""
    running_pids: tuple[int, ...] = ()
    on_disk_mismatch: bool = False
    error_code: ErrorCode = ErrorCode.UNSPECIFIED
    error_message: str = ""


class Loss(Message, frozen=True, gc=False, kw_only=True):
    reason: str = ""
    count: int = 0
    kind: ProcessEventKind = ProcessEventKind.UNSPECIFIED


class CollectionSummary(Message, frozen=True, gc=False, kw_only=True):
    processes_seen: int = 0
    processes_returned: int = 0
    processes_vanished: int = 0
    processes_inaccessible: int = 0
    executables_hashed: int = 0
    executables_pending: int = 0
    executables_unhashed: int = 0
    events_delivered: int = 0
    events_lost: int = 0
    duration_us: int = 0
    losses: tuple[Loss, ...] = ()
    boot_time: int = 0


class Gap(Message, frozen=True, gc=False, kw_only=True):
    reason: str = ""
    count: int = 0
    from_sequence: int = 0
    to_sequence: int = 0
    from_boot_time_ns: int = 0
    to_boot_time_ns: int = 0
    losses: tuple[Loss, ...] = ()


class ProcessEvent(Message, frozen=True, gc=False, kw_only=True):
    kind: ProcessEventKind = ProcessEventKind.UNSPECIFIED
    sequence: int = 0
    boot_time_ns: int = 0
    wall_time_ms: int = 0
    pid: int = 0
    start_ticks: int = 0
    process: ProcessRecord | None = None
    parent_pid: int | None = None
    parent_start_ticks: int | None = None
    exit_code: int | None = None
    exit_signal: int | None = None
    run_time_ns: int | None = None
    gap: Gap | None = None


class AdvancedCapabilities(Message, frozen=True, gc=False, kw_only=True):
    kernel_level: bool = False
    realtime: bool = False
    system_wide: bool = False


class CollectionCapabilities(Message, frozen=True, gc=False, kw_only=True):
    supported_domains: tuple[MonitoringDomain, ...] = ()
    advanced: AdvancedCapabilities | None = None


class CapabilityResponse(Message, frozen=True, gc=False, kw_only=True):
    negotiation_success: bool = False
    capabilities: CollectionCapabilities | None = None
    error_message: str | None = None
    server_version: str | None = None
    protocol_version: int = 0
    task_types: tuple[TaskType, ...] = ()
    digests: tuple[str, ...] = ()
    event_source: EventSource = EventSource.UNSPECIFIED
    event_source_reason: str = ""
    max_frame_size: int = 0
    max_tasks_in_flight: int = 0
    retained_capabilities: tuple[str, ...] = ()
    confined: bool = False
    collector: str = ""
    permission: Permission = Permission.UNSPECIFIED
    limitations: tuple[str, ...] = ()


class DetectionResult(Message, frozen=True, gc=False, kw_only=True):
    """procmond to client: the only message procmond sends."""

    task_id: str = ""
    success: bool = False
    error_message: str | None = None
    processes: tuple[ProcessRecord, ...] = ()
    hash_result: HashResult | None = None
    more: bool = False
    sequence: int = 0
    error_code: ErrorCode = ErrorCode.UNSPECIFIED
    summary: CollectionSummary | None = None
    capability_response: CapabilityResponse | None = None
    events: tuple[ProcessEvent, ...] = ()
    executables: tuple[ExecutableReport, ...] = ()
    boot_id: str = ""


def new_enumerate_task(
    task_id: str,
    process_filter: ProcessFilter | None = None,
    *,
    stream: bool = False,
    deadline_ms: int = 0,
    options: CollectionOptions | None = None,
) -> DetectionTask:
    """A task that lists processes; the specification's `new_enumerate_processes`."""
    return DetectionTask(
        task_id=task_id,
        task_type=TaskType.ENUMERATE_PROCESSES,
        process_filter=process_filter,
        stream=stream,
        deadline_ms=deadline_ms,
        options=options,
    )


def new_hash_check_task(
    task_id: str,
    hash_check: HashCheck,
    process_filter: ProcessFilter | None = None,
    *,
    stream: bool = False,
    deadline_ms: int = 0,
) -> DetectionTask:
    """A task that hashes a path, or the running images of `process_filter.pids`; the specification's
    `new_hash_check`."""
    return DetectionTask(
        task_id=task_id,
        task_type=TaskType.CHECK_PROCESS_HASH,
        hash_check=hash_check,
        process_filter=process_filter,
        stream=stream,
        deadline_ms=deadline_ms,
    )


def success(
    task_id: str,
    processes: tuple[ProcessRecord, ...] = (),
    *,
    summary: CollectionSummary | None = None,
    boot_id: str = "",
) -> DetectionResult:
    """An answer that carries processes; the specification's `success`."""
    return DetectionResult(
        task_id=task_id, success=True, processes=processes, summary=summary, boot_id=boot_id
    )


def failure(
    task_id: str,
    error_message: str,
    error_code: ErrorCode = ErrorCode.UNSPECIFIED,
    *,
    summary: CollectionSummary | None = None,
) -> DetectionResult:
    """An answer that says why there is none; the specification's `failure`."""
    return DetectionResult(
        task_id=task_id, success=False, error_message=error_message, error_code=error_code, summary=summary
    )


def hash_success(
    task_id: str, hash_result: HashResult, *, executables: tuple[ExecutableReport, ...] = ()
) -> DetectionResult:
    """An answer that carries a hash; the specification's `success_with_hash`."""
    return DetectionResult(task_id=task_id, success=True, hash_result=hash_result, executables=executables)

"""Live events for tests: plausible ones, built in few words."""

from __future__ import annotations

from typing import Any

import msgspec

from common.messages import (
    Gap,
    HashState,
    ProcessEvent,
    ProcessEventKind,
    ProcessRecord,
    ProcessStatus,
    Provenance,
)

BOOT_ID = "b0"
TICK_NS = 10_000_000


def process(pid: int, start_ticks: int | None = None, **facts: Any) -> ProcessRecord:
    """A process with the facts events are about."""
    name = facts.get("name", "sh")
    defaults: dict[str, Any] = {
        "pid": pid,
        "start_ticks": pid if start_ticks is None else start_ticks,
        "ppid": 1,
        "parent_start_ticks": 1,
        "name": name,
        "executable_path": f"/usr/bin/{name}",
        "command_line": (name,),
        "executable_inode": sum(name.encode()) + 1,
        "executable_hash": name.encode().hex().ljust(64, "0"),
        "hash_state": HashState.OK,
        "user_id": "1000",
        "user_name": "alice",
        "real_uid": 1000,
        "effective_uid": 1000,
        "real_gid": 1000,
        "effective_gid": 1000,
        "accessible": True,
        "status": ProcessStatus.SLEEPING,
        "threads": 1,
        "provenance": Provenance.KERNEL,
    }
    return ProcessRecord(**(defaults | facts))


def snapshot(record: ProcessRecord, at_ns: int = 0, sequence: int = 0) -> ProcessEvent:
    return _of(ProcessEventKind.SNAPSHOT, record, at_ns, sequence, process=record)


def snapshot_end(at_ns: int = 0, sequence: int = 0) -> ProcessEvent:
    return ProcessEvent(kind=ProcessEventKind.SNAPSHOT_END, boot_time_ns=at_ns, sequence=sequence)


def fork(
    record: ProcessRecord, parent: ProcessRecord | None, at_ns: int = 0, sequence: int = 0
) -> ProcessEvent:
    """The child is `record`, of which only the identity is told."""
    return _of(
        ProcessEventKind.FORK,
        record,
        at_ns,
        sequence,
        parent_pid=None if parent is None else parent.pid,
        parent_start_ticks=None if parent is None else parent.start_ticks,
    )


def execution(record: ProcessRecord, at_ns: int = 0, sequence: int = 0) -> ProcessEvent:
    return _of(ProcessEventKind.EXEC, record, at_ns, sequence, process=record)


def credentials(record: ProcessRecord, at_ns: int = 0, sequence: int = 0) -> ProcessEvent:
    return _of(ProcessEventKind.CREDENTIALS, record, at_ns, sequence, process=record)


def exited(record: ProcessRecord, at_ns: int = 0, sequence: int = 0, **facts: Any) -> ProcessEvent:
    return _of(ProcessEventKind.EXIT, record, at_ns, sequence, **({"exit_code": 0} | facts))


def lost(
    reason: str, at_ns: int = 0, sequence: int = 0, *, numbers: tuple[int, int] = (0, 0), **facts: Any
) -> ProcessEvent:
    """A gap; `numbers` are the first and last it covers."""
    defaults: dict[str, Any] = {"from_boot_time_ns": at_ns, "to_boot_time_ns": at_ns}
    gap = Gap(reason=reason, from_sequence=numbers[0], to_sequence=numbers[1], **(defaults | facts))
    return ProcessEvent(kind=ProcessEventKind.GAP, boot_time_ns=at_ns, sequence=sequence, gap=gap)


def numbered(*events: ProcessEvent, first: int = 1) -> tuple[ProcessEvent, ...]:
    """The same, numbered upwards; a gap that covers numbers comes after them."""
    result = []
    for event in events:
        result.append(msgspec.structs.replace(event, sequence=first))
        first += 1
    return tuple(result)


def _of(
    kind: ProcessEventKind, record: ProcessRecord, at_ns: int, sequence: int, **facts: Any
) -> ProcessEvent:
    return ProcessEvent(
        kind=kind,
        sequence=sequence,
        boot_time_ns=at_ns,
        wall_time_ms=at_ns // 1_000_000,
        pid=record.pid,
        start_ticks=record.start_ticks,
        **facts,
    )

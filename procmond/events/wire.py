"""The records of exec.bpf.c as values. One rule: pure and total: any bytes give a value or `MalformedRecord`.

The layout is records.bpf.h's, in the machine's byte order.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from mmap import mmap
from typing import Any, Final

from common.errors import DaemonEyeError
from common.limits import MAX_COMMAND_LINE_BYTES
from common.messages import ProcessEventKind
from procmond.events.facts import (
    CredentialsEvent,
    ExecEvent,
    ExitEvent,
    ForkEvent,
    KernelEvent,
    TaskFacts,
)

LAYOUT: Final = 1
"""Of records.bpf.h. Records of another layout are refused, never misread."""

ARGUMENT_BYTES: Final = MAX_COMMAND_LINE_BYTES
"""Of all arguments of an exec together; the rest is cut."""

Buffer = bytes | mmap


class MalformedRecord(DaemonEyeError):
    """Bytes that are no record of this layout: damaged, or another version's."""


_IDENTITY: Final = "4Q11I4x16s"
_IMAGE: Final = "Q3q4I"
_HEADER: Final = struct.Struct("=II")
HEADER_BYTES: Final = 16
FORK: Final = struct.Struct(f"=8xQ{_IDENTITY}QI4x")
EXEC: Final = struct.Struct(f"=8xQ{_IDENTITY}{_IMAGE}2I5H6x")
EXIT: Final = struct.Struct(f"=8xQ{_IDENTITY}QI4x")
CREDENTIALS: Final = struct.Struct(f"=8xQ{_IDENTITY}4I")
_TASK: Final = f"{_IDENTITY}{_IMAGE}4Q4I3H2x"
TASK: Final = struct.Struct(f"=8xQ{_TASK}")
_TASK_FACTS: Final = struct.Struct(f"={_TASK}")
_TASK_HEAD: Final = struct.Struct("=IIQ32xI")
_COUNTERS: Final = struct.Struct(f"={_IDENTITY}{_IMAGE}").size
_ARGUMENTS: Final = _COUNTERS + 16  # behind cpu_ns and resident_pages
_STATE: Final = _ARGUMENTS + 16
_THREADS: Final = _STATE + 8  # behind state and exit_state


def _exact(form: struct.Struct, data: Buffer, start: int, end: int) -> tuple[Any, ...]:
    if end - start != form.size:
        raise MalformedRecord(f"record of {end - start} bytes; its kind has {form.size}")
    return form.unpack_from(data, start)


def _at_least(form: struct.Struct, data: Buffer, start: int, end: int) -> tuple[Any, ...]:
    if end - start < form.size:
        raise MalformedRecord(f"record of {end - start} bytes; its kind has at least {form.size}")
    return form.unpack_from(data, start)


def _fork(data: Buffer, start: int, end: int) -> ForkEvent:
    return ForkEvent(*_exact(FORK, data, start, end))


def _exit(data: Buffer, start: int, end: int) -> ExitEvent:
    return ExitEvent(*_exact(EXIT, data, start, end))


def _credentials(data: Buffer, start: int, end: int) -> CredentialsEvent:
    return CredentialsEvent(*_exact(CREDENTIALS, data, start, end))


def _exec(data: Buffer, start: int, end: int) -> ExecEvent:
    *facts, arguments, invoked, interpreter, path, cwd, cgroup = _at_least(EXEC, data, start, end)
    at_interpreter = start + EXEC.size + invoked
    at_path = at_interpreter + interpreter
    at_cwd = at_path + path
    at_cgroup = at_cwd + cwd
    at_arguments = at_cgroup + cgroup
    if at_arguments + arguments != end:
        raise MalformedRecord("an exec record's lengths do not add up")
    facts += (
        data[start + EXEC.size : at_interpreter],
        data[at_interpreter:at_path],
        data[at_path:at_cwd],
        data[at_cwd:at_cgroup],
        data[at_cgroup:at_arguments],
        data[at_arguments:end],
    )
    return ExecEvent(*facts)


def _key(kind: int) -> int:
    """The first four bytes of a record of `kind`, as the number that a native u32 is."""
    return int(struct.unpack("=I", struct.pack("=HH", kind, LAYOUT))[0])


_EVENTS: Final[dict[int, Callable[[Buffer, int, int], KernelEvent]]] = {
    _key(1): _fork,
    _key(2): _exec,
    _key(3): _exit,
    _key(4): _credentials,
}
_TASK_KEY: Final = _key(5)
KIND_OF: Final[dict[type[KernelEvent], ProcessEventKind]] = {
    ForkEvent: ProcessEventKind.FORK,
    ExecEvent: ProcessEventKind.EXEC,
    ExitEvent: ProcessEventKind.EXIT,
    CredentialsEvent: ProcessEventKind.CREDENTIALS,
}

_KINDS: Final = dict(zip(_EVENTS, KIND_OF.values(), strict=True))


def parse_event(data: Buffer, start: int, end: int) -> KernelEvent:
    """The event in `data[start:end]`, one whole record.

    Raises:
        MalformedRecord: it is none, or `end` lies outside of `data`.
    """
    if not 0 <= start <= end - HEADER_BYTES <= len(data) - HEADER_BYTES:
        raise MalformedRecord(f"record of {end - start} bytes at {start} of {len(data)}")
    key, length = _HEADER.unpack_from(data, start)
    parse = _EVENTS.get(key)
    if parse is None or length != end - start:
        raise MalformedRecord(f"no event record: {key:#x}, {length} of {end - start} bytes")
    return parse(data, start, end)


def kind_at(data: Buffer, start: int, end: int) -> ProcessEventKind:
    """The kind of the event in `data[start:end]`, of which nothing else is looked at.

    Raises:
        MalformedRecord: it is none, or `end` lies outside of `data`.
    """
    if not 0 <= start <= end - HEADER_BYTES <= len(data) - HEADER_BYTES:
        raise MalformedRecord(f"record of {end - start} bytes at {start} of {len(data)}")
    key, length = _HEADER.unpack_from(data, start)
    kind = _KINDS.get(key)
    if kind is None or length != end - start:
        raise MalformedRecord(f"no event record: {key:#x}, {length} of {end - start} bytes")
    return kind


def split_tasks(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(pid, boot_ns, facts) of each process in what one read of the iterator gave.

    `facts` is the record but for the time it was made at, so that equal bytes mean equal facts.

    Raises:
        MalformedRecord: when it is reached; what came before is valid.
    """
    start, size, least = 0, len(data), TASK.size
    while start < size:
        if size - start < least:
            raise MalformedRecord(f"{size - start} bytes where a record should begin")
        key, length, boot_ns, pid = _TASK_HEAD.unpack_from(data, start)
        if key != _TASK_KEY or not least <= length <= size - start:
            raise MalformedRecord(f"no task record: {key:#x}, {length} of {size - start} bytes")
        end = start + length
        yield pid, boot_ns, data[start + HEADER_BYTES : end]
        start = end


def parse_task(boot_ns: int, facts: bytes) -> TaskFacts:
    """One process, from what `split_tasks` gave.

    Raises:
        MalformedRecord: the lengths in it do not add up.
    """
    *values, path, cwd, cgroup = _TASK_FACTS.unpack_from(facts)
    at_cwd = _TASK_FACTS.size + path
    at_cgroup = at_cwd + cwd
    if at_cgroup + cgroup != len(facts):
        raise MalformedRecord("a task record's lengths do not add up")
    values += (facts[_TASK_FACTS.size : at_cwd], facts[at_cwd:at_cgroup], facts[at_cgroup:])
    return TaskFacts(boot_ns, *values)


def lasting(facts: bytes) -> bytes:
    """`facts` without what changes whenever a process runs: cpu_ns, resident_pages, state and exit_state."""
    return facts[:_COUNTERS] + facts[_ARGUMENTS:_STATE] + facts[_THREADS:]


def parse_tasks(data: bytes) -> Iterator[TaskFacts]:
    """The processes in what one read of the iterator gave: whole records, one behind the other.

    Raises:
        MalformedRecord: when it is reached; what came before is valid.
    """
    for _, boot_ns, facts in split_tasks(data):
        yield parse_task(boot_ns, facts)

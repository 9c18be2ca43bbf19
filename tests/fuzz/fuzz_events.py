"""Records and messages of the kernel, damaged in any way. One rule: each form has one error of its own.

They do come from the kernel, but the ring holds what processes chose, and a record of another version must
never be misread.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import Final

from procmond.events.connector_wire import Exited, Forked, MalformedMessage, parse_messages
from procmond.events.facts import ExecEvent, TaskFacts
from procmond.events.threads import Found, ThreadFilter
from procmond.events.wire import (
    CREDENTIALS,
    EXEC,
    EXIT,
    FORK,
    LAYOUT,
    TASK,
    MalformedRecord,
    parse_event,
    parse_tasks,
)

_MESSAGES, _EVENT, _TASKS = b"\x00", b"\x55", b"\xaa"


def _message(what: int, *data: int) -> bytes:
    """One message of the connector (cn_proc.h)."""
    body = struct.pack("=IIQ24s", what, 0, 1, struct.pack(f"={len(data)}I", *data))
    return struct.pack("=IHHIIIIIIHH", 36 + len(body), 3, 0, 0, 0, 1, 1, 7, 0, len(body), 0) + body


def _record(kind: int, size: int) -> bytes:
    """One record of the ring (records.bpf.h) whose facts are all 0."""
    return struct.pack("=HHI", kind, LAYOUT, size).ljust(size, b"\0")


SEEDS: Final = (
    _MESSAGES + _message(1, 1, 2, 30, 30) + _message(2, 30, 30) + _message(0x80000000, 30, 30, 0x300, 17),
    _MESSAGES + _message(1, 1, 2, 31, 30) + _message(4, 31, 30, 0, 0) + _message(0, 0),
    *(_EVENT + _record(kind, form.size) for kind, form in enumerate((FORK, EXEC, EXIT, CREDENTIALS), 1)),
    _TASKS + _record(5, TASK.size) * 2,
)


def target(data: bytes) -> None:
    """The first byte chooses the form, the rest is its bytes."""
    form, rest = data[:1], data[1:]
    if form < _EVENT:
        _messages(rest)
    elif form < _TASKS:
        _event(rest)
    else:
        with suppress(MalformedRecord):
            for task in parse_tasks(rest):
                _read(task)


def _messages(data: bytes) -> None:
    threads = ThreadFilter(lambda pid: Found(pid % 3, zombie=bool(pid % 2)) if pid % 5 else None)
    alive: set[int] = set()
    with suppress(MalformedMessage):
        for message in parse_messages(data):
            for event in threads.processes(message):
                if event.pid != event.group:
                    raise AssertionError(f"a thread was told as a process: {event}")
                if isinstance(event, Forked):
                    alive.add(event.pid)
                elif isinstance(event, Exited):
                    alive.discard(event.pid)


def _event(data: bytes) -> None:
    with suppress(MalformedRecord):
        event = parse_event(data, 0, len(data))
        if isinstance(event, ExecEvent):
            _read(event)
        if event.start_ticks * 10_000_000 > event.start_ns:
            raise AssertionError(f"a start in the future of itself: {event.start_ns}")


def _read(facts: ExecEvent | TaskFacts) -> None:
    """Everything that is worked out only when somebody looks."""
    parts = (facts.path, facts.cwd, facts.cgroup, facts.name)
    if b"".join(parts).count(b"\0") > sum(map(len, parts)):
        raise AssertionError(f"bent: {parts}")
    if facts.device < 0 or facts.mtime_ns % 1_000_000_000 != facts.mtime_rest % 1_000_000_000:
        raise AssertionError(f"bent: {facts}")

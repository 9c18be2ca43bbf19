"""Reading the task iterator. One rule: every process that lived throughout the sweep is in it, once.

The kernel walks the pids of the reader's namespace in order. It never reads the memory of a process, so no
process can make a sweep wait.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Final

from procmond.events.ebpf import Programs
from procmond.events.facts import TaskFacts
from procmond.events.wire import parse_tasks

_READ_BYTES: Final = 64 * 1024
"""More than the kernel's buffer of 32 KiB, so that each read ends with a whole record."""
_MAX_RETRIES: Final = 1000
"""Reads that found every slot of task_scratch taken by other readers, in a row."""


def read_tasks(programs: Programs) -> Iterator[TaskFacts]:
    """Every thread group leader with a pid in this process's namespace, zombies included.

    `programs.tasks` must not be None.

    Raises:
        OSError: the kernel refuses to iterate.
        MalformedRecord: the object file is not the one built with this code.
    """
    for data in read_groups(programs):
        yield from parse_tasks(data)


def read_groups(programs: Programs) -> Iterator[bytes]:
    """The same, still encoded, in the groups the kernel hands over: 32 KiB, some hundred processes.

    `programs.tasks` must not be None.

    Raises:
        OSError: the kernel refuses to iterate.
    """
    descriptor = programs.library.call("bpf_iter_create", programs.tasks)
    try:
        while data := _read(descriptor):
            yield data
    finally:
        os.close(descriptor)


def _read(descriptor: int) -> bytes:
    for _ in range(_MAX_RETRIES):
        try:
            return os.read(descriptor, _READ_BYTES)
        except BlockingIOError:
            os.sched_yield()
    return os.read(descriptor, _READ_BYTES)

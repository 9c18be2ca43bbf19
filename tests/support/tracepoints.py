"""What processes do, counted by the kernel's tracepoints. One rule: nothing of procmond's takes part, so the
two counts can prove each other.

perf_event_open(2) on every processor, for all processes. The numbers and fields of tracepoints are tracefs's,
which is mounted for a moment in a mount namespace of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import platform
import struct
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

import pytest

from common.messages import ProcessEventKind

FORK, EXEC, EXIT = ProcessEventKind.FORK, ProcessEventKind.EXEC, ProcessEventKind.EXIT
COUNTED: Final = (FORK, EXEC, EXIT)

_CLONE_THREAD: Final = 0x10000
_EVENTS: Final = {  # tracepoint and filter: of processes, not threads
    FORK: ("task/task_newtask", f"!(clone_flags & {_CLONE_THREAD})"),
    EXEC: ("sched/sched_process_exec", ""),
    EXIT: ("sched/sched_process_exit", "group_dead == 1"),
}
_ATTRIBUTES: Final = struct.Struct("=IIQQQQQIIQ")  # perf_event_attr, its first version
_TRACEPOINT: Final = 2  # PERF_TYPE_TRACEPOINT
_SET_FILTER: Final = 0x40082406  # PERF_EVENT_IOC_SET_FILTER
_PERF_EVENT_OPEN: Final = {"x86_64": 298, "aarch64": 241}
_CLOSE_ON_EXEC: Final = 8  # PERF_FLAG_FD_CLOEXEC
_INITIAL_PID_NAMESPACE: Final = 0xEFFFFFFC  # include/linux/proc_ns.h
_MOST_TRIES: Final = 2000
"""Of a moment in which nobody else does anything; on a machine that is ours alone the first will do."""


class Tracepoints:
    """Forks, execs and last exits of all processes, since it was made."""

    def __init__(self, numbers: dict[ProcessEventKind, int]) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptors = {kind: self._open(kind, number) for kind, number in numbers.items()}

    def _open(self, kind: ProcessEventKind, number: int) -> list[int]:
        found = []
        attributes = _ATTRIBUTES.pack(_TRACEPOINT, _ATTRIBUTES.size, number, 0, 0, 0, 0, 0, 0, 0)
        for processor in sorted(os.sched_getaffinity(0)):
            call = _PERF_EVENT_OPEN[platform.machine()]
            descriptor = self._libc.syscall(call, attributes, -1, processor, -1, _CLOSE_ON_EXEC)
            if descriptor < 0:
                pytest.skip(f"no tracepoint counters here: {os.strerror(ctypes.get_errno())}")
            if _EVENTS[kind][1]:
                fcntl.ioctl(descriptor, _SET_FILTER, _EVENTS[kind][1].encode() + b"\0")
            found.append(descriptor)
        return found

    def read(self) -> Counter[ProcessEventKind]:
        """So many of each kind so far."""
        return Counter(
            {
                kind: sum(struct.unpack("=Q", os.read(one, 8))[0] for one in descriptors)
                for kind, descriptors in self._descriptors.items()
            }
        )

    def mark(self, run: Callable[[], int]) -> tuple[int, Counter[ProcessEventKind]]:
        """`run` runs one process to its end. Its pid, and the counts when it had ended and nobody else had
        done anything since it began: so its exit is that very place in any other record of what happened."""
        for _ in range(_MOST_TRIES):
            before = self.read()
            pid = run()
            after = self.read()
            if after - before == Counter(dict.fromkeys(self._descriptors, 1)):
                return pid, after
        pytest.skip("the machine is never quiet: no two counts can be compared")

    def close(self) -> None:
        for descriptors in self._descriptors.values():
            for descriptor in descriptors:
                os.close(descriptor)


@contextlib.contextmanager
def tracepoints() -> Iterator[Tracepoints]:
    """Counters; skips, and says why, where there can be none."""
    if os.stat("/proc/self/ns/pid").st_ino != _INITIAL_PID_NAMESPACE:
        pytest.skip("tracepoints count processes outside of this pid namespace, procmond tells none")
    if os.sched_getaffinity(0) != set(range(os.cpu_count() or 0)):
        pytest.skip("not every processor may be used, so not all can be counted")
    counters = Tracepoints(_numbers())
    try:
        yield counters
    finally:
        counters.close()


def _numbers() -> dict[ProcessEventKind, int]:
    """The number of each tracepoint that tells processes from threads: exits do since Linux 6.16."""
    script = ["mount -t tracefs tracefs /sys/kernel/tracing"]
    for name, _ in _EVENTS.values():
        script.append(f"cat /sys/kernel/tracing/events/{name}/format; echo end")
    told = subprocess.run(
        ["unshare", "--mount", "sh", "-c", "\n".join(script)], capture_output=True, text=True, check=False
    )
    formats = told.stdout.split("end\n")
    if told.returncode or len(formats) != len(_EVENTS) + 1:
        pytest.skip(f"no tracefs here: {told.stderr.strip()}")
    return {
        kind: int(form.partition("ID: ")[2].split()[0])
        for kind, form in zip(_EVENTS, formats, strict=False)
        if kind is not EXIT or "group_dead" in form
    }

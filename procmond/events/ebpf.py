"""Loading exec.bpf.o. One rule: what cannot be had is a value with its reason, never a failure to start.

The supervisor loads while it still may (CAP_BPF and CAP_PERFMON) and keeps what comes out: descriptors only.
They outlive every reader, are inherited by forked children, and need no capability to be used.
"""

from __future__ import annotations

import enum
import errno
import mmap
import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import msgspec

from common.messages import ProcessEventKind
from procmond.events.libbpf import Libbpf

OBJECT: Final = os.path.join(os.path.dirname(__file__), "exec.bpf.o")
"""Made by build_hook.py where there is a compiler."""

_BTF: Final = "/sys/kernel/btf/vmlinux"
_INITIAL_PID_NAMESPACE: Final = 0xEFFFFFFC  # include/linux/proc_ns.h
_INITIAL_CGROUP_NAMESPACE: Final = 0xEFFFFFFB
_CAPABILITIES: Final = ((1 << 39) | (1 << 38), 1 << 21)  # CAP_BPF and CAP_PERFMON, or CAP_SYS_ADMIN
_SETTINGS: Final = struct.Struct("=qI????")
_LOG_LINES: Final = 6
"""Of libbpf's messages in `Unavailable.detail`, the last."""

_ESSENTIAL: Final = {
    ProcessEventKind.FORK: "on_fork",
    ProcessEventKind.EXEC: "on_exec",
    ProcessEventKind.EXIT: "on_exit",
}
_CREDENTIALS: Final = "on_credentials"
_TASKS: Final = "dump_task"


class Reason(enum.StrEnum):
    """Why there are no programs, or why one of them is missing."""

    NO_LIBBPF = "no_libbpf"
    NO_OBJECT = "no_object"
    NO_BTF = "no_btf"
    DENIED = "denied"
    """Capabilities are missing, or this kernel allows nobody to load such a program."""
    REFUSED = "refused"
    """The kernel's verifier does not take it: the kernel is too old, or too different."""
    NOT_ATTACHED = "not_attached"
    FAILED = "failed"


class Unavailable(msgspec.Struct, frozen=True):
    """What could not be had: a reason to decide by and a sentence for a person."""

    reason: Reason
    detail: str


class Programs(msgspec.Struct, frozen=True):
    """Programs in force, until this and every forked copy of it are closed or gone."""

    library: Libbpf
    ring: int
    """Descriptor of the ring buffer; readable when there are records. One process at a time may read it."""
    counters: int
    tasks: int | None
    """Descriptor of the task iterator's link; None when `missing` says why."""
    programs: dict[ProcessEventKind, int]
    """A descriptor for each program that makes events."""
    links: tuple[int, ...]
    missing: dict[str, Unavailable]
    """What is not there, of "credentials" (ProcessEventKind.CREDENTIALS is not seen) and "tasks"."""
    ledger: mmap.mmap
    """Shared with forked children: what readers have consumed; see ring.py."""

    def close(self) -> None:
        """Detach, unless a forked process still holds the descriptors."""
        tasks = () if self.tasks is None else (self.tasks,)
        for descriptor in (self.ring, self.counters, *self.programs.values(), *self.links, *tasks):
            os.close(descriptor)
        self.ledger.close()


class _Object:
    """An object file in the kernel, by libbpf's handle. Descriptors it gives are the caller's."""

    def __init__(self, library: Libbpf, pointer: int) -> None:
        self._library = library
        self._pointer = pointer

    def program(self, name: str) -> int:
        return self._library.call("bpf_object__find_program_by_name", self._pointer, name.encode())

    def map(self, name: str) -> int:
        return self._library.call("bpf_object__find_map_by_name", self._pointer, name.encode())

    def map_descriptor(self, name: str) -> int:
        return os.dup(self._library.call("bpf_map__fd", self.map(name)))

    def program_descriptor(self, name: str) -> int:
        return os.dup(self._library.call("bpf_program__fd", self.program(name)))

    def attach(self, name: str) -> int:
        """A descriptor for the link; closing the last one detaches. Raises: OSError."""
        link = self._library.call("bpf_program__attach", self.program(name))
        try:
            return os.dup(self._library.call("bpf_link__fd", link))
        finally:
            self._library.release("bpf_link__destroy", link)


@contextmanager
def _loaded(library: Libbpf, path: str, settings: bytes, without: set[str]) -> Iterator[_Object]:
    """Load every program but those in `without`. libbpf's memory is given back at the end."""
    library.messages.clear()
    pointer = library.call("bpf_object__open_file", os.fsencode(path), None)
    try:
        found = _Object(library, pointer)
        for name in without:
            library.call("bpf_program__set_autoload", found.program(name), False)
        library.call("bpf_map__set_initial_value", found.map(".rodata"), settings, len(settings))
        processors = library.call("libbpf_num_possible_cpus")
        library.call("bpf_map__set_max_entries", found.map("exec_scratch"), processors)
        library.call("bpf_object__load", pointer)
        yield found
    finally:
        library.release("bpf_object__close", pointer)
        library.trim()


def _boottime_offset_ns() -> int:
    """What procmond's time namespace adds to CLOCK_BOOTTIME; 0 on kernels without time namespaces."""
    with suppress(FileNotFoundError), open("/proc/self/timens_offsets", encoding="ascii") as file:
        for line in file:
            clock, seconds, nanoseconds = line.split()
            if clock == "boottime":
                return int(seconds) * 1_000_000_000 + int(nanoseconds)
    return 0


def _settings(count_threads: bool) -> bytes:
    """`struct settings` of facts.bpf.h, for this process."""
    with open("/proc/self/cgroup", "rb") as file:
        legacy_cgroups = any(not line.startswith(b"0::") for line in file)
    pid_namespace = os.stat("/proc/self/ns/pid").st_ino
    return _SETTINGS.pack(
        _boottime_offset_ns(),
        pid_namespace,
        pid_namespace == _INITIAL_PID_NAMESPACE,
        legacy_cgroups,
        os.stat("/proc/self/ns/cgroup").st_ino != _INITIAL_CGROUP_NAMESPACE,
        count_threads,
    )


def _may_load() -> bool:
    try:
        with open("/proc/self/status", "rb") as file:
            effective = next(int(line.split()[1], 16) for line in file if line.startswith(b"CapEff:"))
    except OSError:  # without /proc nothing works, and confinement says so
        return False
    return any(effective & needed == needed for needed in _CAPABILITIES)


def _obstacle(path: str) -> Unavailable | None:
    """What is known to be in the way before anything is tried."""
    if not os.path.exists(path):
        return Unavailable(Reason.NO_OBJECT, f"{path} is missing: built without clang or libbpf's headers")
    if not os.path.exists(_BTF):
        return Unavailable(Reason.NO_BTF, f"{_BTF} is missing: the kernel lacks CONFIG_DEBUG_INFO_BTF")
    if not _may_load():
        return Unavailable(Reason.DENIED, "loading programs needs CAP_BPF and CAP_PERFMON")
    return None


def _why(error: OSError, messages: list[str]) -> Unavailable:
    if any("PROG LOAD LOG" in line or "failed to find kernel BTF" in line for line in messages):
        reason = Reason.REFUSED
    elif error.errno in (errno.EPERM, errno.EACCES):
        reason = Reason.DENIED
    else:
        reason = Reason.FAILED
    return Unavailable(reason, "; ".join([str(error), *messages[-_LOG_LINES:]]))


def _blamed(messages: list[str]) -> str:
    """The program that libbpf could not load, by its messages; empty when they name none."""
    named = re.findall(r"libbpf: prog '(\w+)': .*fail", "\n".join(messages))
    return str(named[-1]) if named else ""


def _attach(library: Libbpf, found: _Object, missing: dict[str, Unavailable]) -> Programs:
    """Attach what was loaded. Raises: OSError when an essential program cannot be."""
    opened: list[int] = []

    def keep(descriptor: int) -> int:
        opened.append(descriptor)
        return descriptor

    try:
        tasks = None if "tasks" in missing else keep(found.attach(_TASKS))
        hooks = dict(_ESSENTIAL)
        links = [keep(found.attach(name)) for name in hooks.values()]
        if "credentials" not in missing:
            try:
                links.append(keep(found.attach(_CREDENTIALS)))
                hooks[ProcessEventKind.CREDENTIALS] = _CREDENTIALS
            except OSError as error:
                missing["credentials"] = Unavailable(Reason.NOT_ATTACHED, str(error))
        return Programs(
            library,
            keep(found.map_descriptor("ring")),
            keep(found.map_descriptor("counters")),
            tasks,
            {kind: keep(found.program_descriptor(name)) for kind, name in hooks.items()},
            tuple(links),
            missing,
            mmap.mmap(-1, mmap.PAGESIZE),
        )
    except OSError:
        for descriptor in opened:
            os.close(descriptor)
        raise


def load(path: str = OBJECT, *, count_threads: bool = False) -> Programs | Unavailable:
    """Load and attach the programs, with what this kernel allows.

    Forks, execs and exits are essential; without the program for credentials, or the task iterator, the rest
    is still in force. `count_threads`: recognise last exits as on kernels before 6.16, which do not tell.
    """
    obstacle = _obstacle(path)
    if obstacle is not None:
        return obstacle
    try:
        library = Libbpf()
    except OSError as error:
        return Unavailable(Reason.NO_LIBBPF, str(error))
    optional = {_CREDENTIALS: "credentials", _TASKS: "tasks"}
    missing: dict[str, Unavailable] = {}
    settings = _settings(count_threads)
    while True:
        without = {name for name, role in optional.items() if role in missing}
        try:
            with _loaded(library, path, settings, without) as found:
                return _attach(library, found, missing)
        except OSError as error:
            why = _why(error, list(library.messages))
            role = optional.get(_blamed(list(library.messages)))
            if role is None or role in missing:
                return why
            missing[role] = why

"""Capabilities, no_new_privs and identity. One rule: what is claimed was read back from the kernel.

Capabilities belong to threads: everything here acts on the calling one, so a process confines itself
while it has no other. Sources: capabilities(7), prctl(2), credentials(7), proc_pid_status(5).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from enum import IntEnum
from typing import Final, NamedTuple

from procmond.confine import kernel


class Capability(IntEnum):
    """The capabilities procmond's processes keep or use while starting; linux/capability.h."""

    DAC_READ_SEARCH = 2
    SETGID = 6
    SETUID = 7
    SETPCAP = 8
    SYS_PTRACE = 19


MAX_CAPABILITIES: Final = 64
"""Two words of 32 bits; 41 are in use in Linux 6.18."""


STATUS_CHUNK: Final = 16384
"""Bytes asked for at a time; the whole file but for a process of thousands of groups."""


def mask_of(capabilities: Iterable[int]) -> int:
    """The set as the kernel writes it."""
    return sum(1 << capability for capability in set(capabilities))


def names_of(mask: int) -> tuple[str, ...]:
    """`CAP_...` for each bit, lowest first; a bit this module has no name for is `CAP_<number>`."""
    known = {int(capability): capability.name for capability in Capability}
    return tuple(f"CAP_{known.get(bit, bit)}" for bit in range(MAX_CAPABILITIES) if mask >> bit & 1)


class Status(NamedTuple):
    """What /proc/PID/status says about a process's rights. Masks are capability sets."""

    threads: int
    user_ids: tuple[int, ...]
    """Real, effective, saved, file system."""
    group_ids: tuple[int, ...]
    groups: tuple[int, ...]
    inheritable: int
    permitted: int
    effective: int
    bounding: int
    ambient: int
    no_new_privs: bool
    seccomp_mode: int
    """0 none, 1 strict, 2 filter."""
    seccomp_filters: int | None
    """How many filters are stacked; None before Linux 5.10."""


def parse_status(text: bytes) -> Status:
    """Pure. Raises: KeyError or ValueError if a line is missing or is no number: not a Linux we know."""
    fields = dict(line.split(b":", 1) for line in text.splitlines() if b":" in line)
    filters = fields.get(b"Seccomp_filters")
    return Status(
        threads=int(fields[b"Threads"]),
        user_ids=tuple(map(int, fields[b"Uid"].split())),
        group_ids=tuple(map(int, fields[b"Gid"].split())),
        groups=tuple(map(int, fields[b"Groups"].split())),
        inheritable=int(fields[b"CapInh"], 16),
        permitted=int(fields[b"CapPrm"], 16),
        effective=int(fields[b"CapEff"], 16),
        bounding=int(fields[b"CapBnd"], 16),
        ambient=int(fields[b"CapAmb"], 16),
        no_new_privs=fields[b"NoNewPrivs"].strip() == b"1",
        seccomp_mode=int(fields.get(b"Seccomp", b"0")),  # absent from a kernel built without seccomp
        seccomp_filters=None if filters is None else int(filters),
    )


def open_status() -> int:
    """/proc/self/status, to be read by `read_status` once opening is no longer allowed.

    The kernel writes the file when it is first read, not when it is opened. Raises: OSError (no /proc).
    """
    return os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)


def read_status(descriptor: int) -> Status:
    """The rights as they are now; takes `descriptor` over. Raises: OSError, KeyError, ValueError."""
    try:
        return parse_status(b"".join(iter(lambda: os.read(descriptor, STATUS_CHUNK), b"")))
    finally:
        os.close(descriptor)


def drop_bounding_set() -> None:
    """Leave nothing in the bounding set: no exec could give anything back.

    It takes capabilities from nobody who holds them, and so suits a supervisor and its children alike.

    Raises: PermissionError without CAP_SETPCAP, which only root and a unit that grants it have.
    """
    for capability in range(MAX_CAPABILITIES):
        try:
            present = kernel.prctl(kernel.PR_CAPBSET_READ, capability)
        except OSError as error:
            if error.errno == errno.EINVAL:  # one past the last capability this kernel knows
                return
            raise
        if present:
            kernel.prctl(kernel.PR_CAPBSET_DROP, capability)


def become(uid: int, gid: int) -> None:
    """Become exactly user `uid` and group `gid`, of no other group, with no way back.

    The kernel clears every capability when the last of the three user ids stops being 0.

    Raises: OSError (EPERM without CAP_SETUID and CAP_SETGID, unless that is who the process already is).
    """
    if os.getgroups():
        os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def keep(permitted: int, effective: int) -> None:
    """Hold exactly these sets; inheritable becomes empty, which empties ambient too (capabilities(7)).

    Raises: OSError (EPERM if a bit is asked for that is not held).
    """
    kernel.capset(effective, permitted, 0)


def set_no_new_privs() -> None:
    """No exec gives this process or its descendants more than they have. Raises: OSError."""
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)

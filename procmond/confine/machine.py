"""What differs between processors. One rule: facts copied from the kernel's headers, nothing decided.

Numbers from arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h; a test compares
every one of them with the headers of the machine it runs on.
"""

from __future__ import annotations

import os
import sys
from typing import Final, NamedTuple


class Machine(NamedTuple):
    """One architecture the filter can be built for, whatever the building process runs on."""

    name: str
    """As `uname -m` says it."""
    audit_architecture: int
    """AUDIT_ARCH_*: what `seccomp_data.arch` holds for a native call (linux/audit.h)."""
    column: int
    """Its place in `SYSCALLS`."""
    foreign_from: int | None
    """System call numbers from here on belong to another ABI that reports the same architecture (x32)."""
    open_directory: int
    open_nofollow: int
    open_largefile: int
    """O_DIRECTORY, O_NOFOLLOW and O_LARGEFILE are the flags of open(2) in use whose values differ."""


X86_64: Final = Machine("x86_64", 0xC000003E, 0, 0x40000000, 0o200000, 0o400000, 0o100000)
AARCH64: Final = Machine("aarch64", 0xC00000B7, 1, None, 0o40000, 0o100000, 0o400000)
MACHINES: Final = {machine.name: machine for machine in (X86_64, AARCH64)}


def this_machine() -> Machine | None:
    """The running machine, or None where no filter is known (another processor, a 32-bit interpreter)."""
    return MACHINES.get(os.uname().machine) if sys.maxsize > 2**32 else None


SYSCALLS: Final[dict[str, tuple[int | None, int | None]]] = {
    # name: (x86-64, aarch64); None: this architecture never had it
    "accept4": (288, 242),
    "bpf": (321, 280),
    "brk": (12, 214),
    "capset": (126, 91),
    "clock_getres": (229, 114),
    "clock_gettime": (228, 113),
    "clone": (56, 220),
    "clone3": (435, 435),
    "close": (3, 57),
    "close_range": (436, 436),
    "dup3": (292, 24),
    "epoll_create1": (291, 20),
    "epoll_ctl": (233, 21),
    "epoll_pwait": (281, 22),
    "epoll_wait": (232, None),
    "eventfd2": (290, 19),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "fcntl": (72, 25),
    "fork": (57, None),
    "fstat": (5, 80),
    "futex": (202, 98),
    "getdents64": (217, 61),
    "getegid": (108, 177),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getgroups": (115, 158),
    "getpid": (39, 172),
    "getppid": (110, 173),
    "getrandom": (318, 278),
    "getrusage": (98, 165),
    "getsid": (124, 156),
    "getsockname": (51, 204),
    "getsockopt": (55, 209),
    "gettid": (186, 178),
    "getuid": (102, 174),
    "getxattr": (191, 8),
    "ioctl": (16, 29),
    "kill": (62, 129),
    "lseek": (8, 62),
    "lstat": (6, None),
    "madvise": (28, 233),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "mremap": (25, 216),
    "munmap": (11, 215),
    "newfstatat": (262, 79),
    "open": (2, None),
    "openat": (257, 56),
    "pidfd_open": (434, 434),
    "pipe2": (293, 59),
    "poll": (7, None),
    "ppoll": (271, 73),
    "prctl": (157, 167),
    "pread64": (17, 67),
    "prlimit64": (302, 261),
    "read": (0, 63),
    "readlink": (89, None),
    "readlinkat": (267, 78),
    "readv": (19, 65),
    "recvfrom": (45, 207),
    "recvmsg": (47, 212),
    "restart_syscall": (219, 128),
    "rseq": (334, 293),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sched_getaffinity": (204, 123),
    "sched_yield": (24, 124),
    "seccomp": (317, 277),
    "sendmsg": (46, 211),
    "sendto": (44, 206),
    "set_robust_list": (273, 99),
    "setgroups": (116, 159),
    "setitimer": (38, 103),
    "setpgid": (109, 154),
    "setresgid": (119, 149),
    "setresuid": (117, 147),
    "setsockopt": (54, 208),
    "socketpair": (53, 199),
    "stat": (4, None),
    "sysinfo": (99, 179),
    "tgkill": (234, 131),
    "uname": (63, 160),
    "wait4": (61, 260),
    "write": (1, 64),
    "writev": (20, 66),
}


def number(machine: Machine, name: str) -> int | None:
    """The number of system call `name` on `machine`; None where it does not exist. Raises: KeyError."""
    return SYSCALLS[name][machine.column]

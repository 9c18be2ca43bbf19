"""What the kernel reports, as values. One rule: raw as it came, and a property where another form is wanted.

Names, paths and arguments stay bytes: the kernel promises no encoding, and most of them are never looked at.
All clocks are CLOCK_BOOTTIME, in procmond's time namespace. The records are records.bpf.h's.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import msgspec

from common.messages import ProcessStatus

NANOSECONDS_PER_TICK: Final = 10_000_000
"""USER_HZ is 100 (include/asm-generic/param.h), and the kernel divides the same way (nsec_to_clock_t)."""

NO_LOGIN_UID: Final = 0xFFFFFFFF
CACHED_PATHS: Final = 8192
"""Paths kept in their usual order: a busy host runs a few hundred images in as many directories."""

# `flags`; their meaning is in records.bpf.h.
KERNEL_THREAD: Final = 1 << 0
HAS_IMAGE: Final = 1 << 1
IMAGE_DELETED: Final = 1 << 2
PATH_CUT: Final = 1 << 3
HAS_CWD: Final = 1 << 4
CWD_DELETED: Final = 1 << 5
CWD_CUT: Final = 1 << 6
CGROUP_CUT: Final = 1 << 7
ARGUMENTS_UNREADABLE: Final = 1 << 8
SECURE: Final = 1 << 9
INTERPRETED: Final = 1 << 10
CHANGED: Final = 1 << 11


class KernelEvent(msgspec.Struct, frozen=True, gc=False):
    """What one process did, as the kernel saw it. The facts are those after the event."""

    boot_ns: int
    """When it happened."""
    start_ns: int
    parent_start_ns: int
    """0 where `ppid` is."""
    exec_id: int
    """The kernel's self_exec_id: grows with every execve, and is inherited."""
    cgroup_id: int
    """In the unified hierarchy."""
    pid: int
    """In procmond's pid namespace, as all pids here."""
    ppid: int
    """0: none, or outside of procmond's pid namespace."""
    real_uid: int
    effective_uid: int
    real_gid: int
    effective_gid: int
    login_uid: int
    """NO_LOGIN_UID when the process descends from no login."""
    session: int
    pid_namespace: int
    mount_namespace: int
    """0 when the process has given it back."""
    flags: int
    comm: bytes
    """Padded with NULs to 16 bytes; see `name`."""

    @property
    def name(self) -> bytes:
        """comm, at most 15 bytes."""
        return self.comm.partition(b"\0")[0]

    @property
    def start_ticks(self) -> int:
        """Field 22 of /proc/PID/stat; with boot id and pid the identity."""
        return self.start_ns // NANOSECONDS_PER_TICK

    @property
    def parent_start_ticks(self) -> int:
        """0 where `ppid` is."""
        return self.parent_start_ns // NANOSECONDS_PER_TICK


class ForkEvent(KernelEvent, frozen=True, gc=False):
    """A process, not a thread, was made; it has not run yet."""

    forker_start_ns: int
    forker_pid: int
    """Who called fork; with CLONE_PARENT not `ppid`. 0: outside."""

    @property
    def forker_start_ticks(self) -> int:
        """0 where `forker_pid` is."""
        return self.forker_start_ns // NANOSECONDS_PER_TICK


class _Imaged(KernelEvent, frozen=True, gc=False):
    """The image that runs; all 0 without HAS_IMAGE."""

    inode: int
    size: int
    mtime_s: int
    ctime_s: int
    mtime_rest: int
    """Nanoseconds of the second."""
    ctime_rest: int
    encoded_device: int
    """The kernel's own encoding; see `device`."""
    links: int

    @property
    def device(self) -> int:
        """s_dev as os.stat writes it; on btrfs and overlayfs not what os.stat reports."""
        major, minor = self.encoded_device >> 20, self.encoded_device & 0xFFFFF
        return minor & 0xFF | major << 8 | (minor & ~0xFF) << 12

    @property
    def mtime_ns(self) -> int:
        """As st_mtime_ns."""
        return self.mtime_s * 1_000_000_000 + self.mtime_rest

    @property
    def ctime_ns(self) -> int:
        """As st_ctime_ns."""
        return self.ctime_s * 1_000_000_000 + self.ctime_rest


class _Named:
    """Names that the kernel writes from the leaf upwards, as they are usually written."""

    __slots__ = ()
    upward_path: bytes
    upward_cwd: bytes
    upward_cgroup: bytes

    @property
    def path(self) -> bytes:
        """The image's path in its mount namespace, without ` (deleted)`."""
        return forward(self.upward_path)

    @property
    def cwd(self) -> bytes:
        """The current directory in its mount namespace."""
        return forward(self.upward_cwd)

    @property
    def cgroup(self) -> bytes:
        """The cgroup that says most; see telling_cgroup in names.bpf.h."""
        return forward(self.upward_cgroup)


class ExecEvent(_Named, _Imaged, frozen=True, gc=False):
    """A process runs another image, under the pid of its main thread whichever thread called execve."""

    argument_length: int
    """Bytes of all arguments, their NULs included, before any cut at ARGUMENT_BYTES."""
    invoked_path: bytes
    """What was passed to execve: for a script the script; `/dev/fd/N` or `/dev/fd/N/PATH` for fexecve."""
    interpreter: bytes
    """With INTERPRETED, the interpreter as the script names it."""
    upward_path: bytes
    """See `path`."""
    upward_cwd: bytes
    upward_cgroup: bytes
    arguments: bytes
    """argv, each element ended by NUL; the last may be cut."""


class ExitEvent(KernelEvent, frozen=True, gc=False):
    """The last thread of a process ended."""

    run_ns: int
    status: int
    """As wait(2) reports it, for os.waitstatus_to_exitcode and os.WCOREDUMP."""


class CredentialsEvent(KernelEvent, frozen=True, gc=False):
    """The main thread of a process has other real or effective ids, not by an exec: that tells its own."""

    former_real_uid: int
    former_effective_uid: int
    former_real_gid: int
    former_effective_gid: int


class TaskFacts(_Named, _Imaged, frozen=True, gc=False):
    """One process as the task iterator found it at `boot_ns`."""

    cpu_ns: int
    resident_pages: int
    argument_start: int
    argument_end: int
    state: int
    exit_state: int
    threads: int
    tty: int
    """As field 7 of /proc/PID/stat."""
    upward_path: bytes
    upward_cwd: bytes
    upward_cgroup: bytes

    @property
    def status(self) -> ProcessStatus:
        """As field 3 of /proc/PID/stat."""
        return status_of(self.state, self.exit_state)


_REPORTED: Final = 0x7F  # TASK_REPORT, include/linux/sched.h
_IDLE: Final = 0x402  # TASK_IDLE
_UNINTERRUPTIBLE: Final = 0x1000 | 0x8000  # TASK_RTLOCK_WAIT and TASK_FROZEN are shown as disk sleep
_STATUS: Final = (
    ProcessStatus.RUNNING,
    ProcessStatus.SLEEPING,
    ProcessStatus.DISK_SLEEP,
    ProcessStatus.STOPPED,
    ProcessStatus.TRACED,
    ProcessStatus.DEAD,
    ProcessStatus.ZOMBIE,
    ProcessStatus.UNSPECIFIED,  # P: parked
)


def status_of(state: int, exit_state: int) -> ProcessStatus:
    """What /proc shows for the kernel's __state and exit_state (__task_state_index)."""
    if state & _UNINTERRUPTIBLE:
        return ProcessStatus.DISK_SLEEP
    if state & _IDLE == _IDLE:
        return ProcessStatus.IDLE
    return _STATUS[((state | exit_state) & _REPORTED).bit_length()]


@lru_cache(maxsize=CACHED_PATHS)
def forward(upward: bytes) -> bytes:
    """The path for names written from the leaf upwards: `true/bin/usr/` is /usr/bin/true."""
    return b"/".join(upward.split(b"/")[::-1]) or b"/"

"""Reading /proc of one process again and again. One rule: what is read belongs to one process, never to two.

A pid may be given to another process between two reads. A pidfd may not: as long as PIDFD_GET_INFO answers,
the process has not been reaped, so its number meant nobody else. Asked last, it vouches for all reads before.
Kernels before 6.13 lack it; there a number that is re-used within the microseconds of one record is not seen.

Opening costs more than half of a read in /proc, so some files stay open from sweep to sweep, as far as the
limit on descriptors goes: those that hold no buffer in the kernel (stat, status and cgroup hold a page each,
which no accounting of ours would show). What an open file of /proc/PID says is what the process is now, after
an exec too; after its end it says ESRCH.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import struct
from typing import Final

from procmond.collect.procfs_parse import Ids, parse_ids

_READ: Final = os.O_RDONLY | os.O_CLOEXEC
TEXT_BYTES: Final = 4096
"""stat and status are below 2 KiB, a link's target below PATH_MAX."""

_INFO_BYTES: Final = 64  # PIDFD_INFO_SIZE_VER0, include/uapi/linux/pidfd.h
_PIDFD_GET_INFO: Final = 3 << 30 | _INFO_BYTES << 16 | 0xFF << 8 | 11
_REQUEST: Final = struct.pack("=Q", 0b11).ljust(_INFO_BYTES, b"\0")  # PIDFD_INFO_PID | PIDFD_INFO_CREDS
_CREDENTIALS: Final = slice(28, 44)
_UNPACK_CREDENTIALS: Final = struct.Struct("=IIII").unpack

_NUMBER_BYTES: Final = 16

DESCRIPTORS_PER_PROCESS: Final = 3
MAX_HELD_DESCRIPTORS: Final = 98_304
"""Enough for every pid of a default kernel (pid_max 32,768)."""
RESERVED_DESCRIPTORS: Final = 512
"""Of the limit of this process, left for everything else it opens."""


_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


def is_exhausted(error: OSError) -> bool:
    """Whether it says that we or the machine have run out of something, and nothing about what was asked."""
    return error.errno in _EXHAUSTED


def read_file(path: bytes, limit: int = TEXT_BYTES) -> bytes:
    """At most `limit` bytes of a file in /proc, by one read.

    Raises:
        OSError: as open(2) and read(2) say.
    """
    descriptor = os.open(path, _READ)
    try:
        return os.read(descriptor, limit)
    finally:
        os.close(descriptor)


def pidfd_info_works() -> bool:
    """Whether the kernel has PIDFD_GET_INFO and nothing forbids it."""
    try:
        descriptor = os.pidfd_open(os.getpid())
    except OSError:
        return False
    try:
        fcntl.ioctl(descriptor, _PIDFD_GET_INFO, _REQUEST)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def raise_descriptor_limit() -> None:
    """Raise this process's soft limit as far as it goes; for the supervisor, before nobody can any more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wish = MAX_HELD_DESCRIPTORS + RESERVED_DESCRIPTORS
    limit = wish if hard == resource.RLIM_INFINITY else min(hard, wish)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


def descriptor_budget() -> int:
    """How many descriptors may stay open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MAX_HELD_DESCRIPTORS
    return max(0, min(soft - RESERVED_DESCRIPTORS, MAX_HELD_DESCRIPTORS))


class Handle:
    """The way to one process; opens what it needs, and `close` must be called in the end."""

    __slots__ = ("_arguments", "_login_uid", "_pidfd", "_use_pidfd", "executable", "folder", "pid", "stat")

    def __init__(self, proc: bytes, pid: int, *, pidfd: bool, thread: int | None = None) -> None:
        """`pidfd` says whether `pidfd_info_works`; `thread` is the one to look at when not the first."""
        self.pid = pid
        self.folder = b"%s/%d/" % (proc, pid) if thread is None else b"%s/%d/task/%d/" % (proc, pid, thread)
        self.stat = self.folder + b"stat"
        self.executable = self.folder + b"exe"
        self._use_pidfd = pidfd
        self._arguments = -1
        self._login_uid = -1
        self._pidfd = -1

    def open(self) -> None:
        """Begin a series of reads, which `credentials` ends; does nothing while the handle is open.

        Raises:
            ProcessLookupError: there is no such process, or it leads no thread group.
            OSError: as pidfd_open(2) says.
        """
        if self._use_pidfd and self._pidfd < 0:
            try:
                self._pidfd = os.pidfd_open(self.pid)
            except OSError as error:
                if error.errno in (errno.EINVAL, errno.ENOENT):  # a thread that is not its group's leader
                    raise ProcessLookupError(*error.args) from None
                raise

    def arguments(self, limit: int, offset: int = 0) -> bytes:
        """The raw argument vector as it is now, at most `limit` bytes from `offset`.

        Raises:
            OSError: as open(2) and read(2) say.
        """
        if self._arguments < 0:
            self._arguments = os.open(self.folder + b"cmdline", _READ)
        return os.pread(self._arguments, limit, offset)

    def login_uid(self) -> bytes:
        """The text of /proc/PID/loginuid.

        Raises:
            OSError: as open(2) and read(2) say.
        """
        if self._login_uid < 0:
            self._login_uid = os.open(self.folder + b"loginuid", _READ)
        return os.pread(self._login_uid, _NUMBER_BYTES, 0)

    def credentials(self) -> bytes:
        """Real and effective ids in a form of the kernel's, for `parse_credentials`.

        Where there is a pidfd this vouches for all that was read before: it was of this process.

        Raises:
            OSError: the process ended, or as open(2) and read(2) say.
        """
        if self._pidfd < 0:
            return read_file(self.folder + b"status")
        return fcntl.ioctl(self._pidfd, _PIDFD_GET_INFO, _REQUEST)[_CREDENTIALS]

    def path(self, name: bytes) -> bytes:
        """The path of file `name` of the process."""
        return self.folder + name

    def close(self) -> None:
        """Close what is open; the handle may be opened again."""
        for descriptor in (self._pidfd, self._arguments, self._login_uid):
            if descriptor >= 0:
                os.close(descriptor)
        self._pidfd = self._arguments = self._login_uid = -1


def parse_credentials(raw: bytes, pid: int) -> Ids:
    """Ids from what `Handle.credentials` gave.

    Raises:
        MalformedProc: it is not of that form.
        ProcessLookupError: it is of a thread that leads no group.
    """
    if len(raw) == 16:
        real_uid, real_gid, effective_uid, effective_gid = _UNPACK_CREDENTIALS(raw)
        return Ids(real_uid, effective_uid, real_gid, effective_gid)
    ids, group = parse_ids(raw)
    if group != pid:
        raise ProcessLookupError(pid)
    return ids

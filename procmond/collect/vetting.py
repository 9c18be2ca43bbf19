"""Follows a path a peer named. One rule: nothing on the way makes root wait, act, or see more than files.

The path is resolved here, component by component, with O_PATH: that neither opens a FIFO or device nor
waits for a peer. The walk never enters /proc or /sys, wherever they are mounted (their links lead into other
processes), nor a file system whose server may never answer.
"""

from __future__ import annotations

import functools
import os
import select
import stat
from collections.abc import Mapping
from typing import Final

import msgspec

from common import limits
from procmond.collect.digest import READ_ONLY, identity_of
from procmond.collect.sighting import FileIdentity

_STEP: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC

_MOUNTINFO_CHUNK: Final = 64 * limits.KIB
_KERNEL_VIEWS: Final = frozenset(
    {"proc", "sysfs", "securityfs", "debugfs", "tracefs", "configfs", "selinuxfs", "cgroup", "cgroup2"}
)
_REMOTE: Final = frozenset(
    {"autofs", "nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "afs", "lustre", "coda", "fuse", "fuseblk"}
)


class Obstacle(msgspec.Struct, frozen=True):
    """Why a path does not lead to a file that root opens: a sentence for administrators only."""

    reason: str


class Descriptor:
    """An O_PATH descriptor, closed when its last holder lets go: a question and the thread that reads for it
    may end in either order, and the number must not mean another file to the one that ends later."""

    __slots__ = ("number", "status")

    def __init__(self, number: int) -> None:
        self.number = number
        self.status = os.fstat(number)

    def __del__(self) -> None:
        os.close(self.number)

    @property
    def identity(self) -> FileIdentity:
        """The file, and its state when it was opened."""
        return identity_of(self.status)

    @property
    def link(self) -> str:
        """A path that leads to this very file, whatever became of its name."""
        return f"/proc/self/fd/{self.number}"

    def open_for_reading(self) -> int:
        """A new descriptor of the same file. Raises: OSError."""
        return os.open(self.link, READ_ONLY)


def follow(path: str) -> Descriptor | Obstacle:
    """The file `path` leads to when all symbolic links are resolved, of whatever kind it is.

    `path` is absolute and holds no NUL. Never waits for a peer, and opens nothing for reading.
    """
    try:
        return _walk(path.encode(), mounts().barred())
    except OSError as error:
        return Obstacle(os.strerror(error.errno or 0))


class MountTable:
    """What a walk must not enter, read again only when the kernel says that a mount came or went.

    A poll of mountinfo reports POLLERR and POLLPRI once after each change (proc(5)).
    """

    def __init__(self) -> None:
        self._descriptor = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLPRI)
        self._barred: dict[bytes, str] | None = None
        self._devices: dict[tuple[int, int], str] = {}

    def barred(self) -> Mapping[bytes, str]:
        """As `barred_mounts`, of the mounts there are now. Raises: OSError."""
        changed = bool(self._poll.poll(0))
        if changed or self._barred is None:
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            mountinfo = b"".join(iter(lambda: os.read(self._descriptor, _MOUNTINFO_CHUNK), b""))
            self._devices = local_devices(mountinfo)
            self._barred = barred_mounts(mountinfo)
        return self._barred

    def devices(self) -> Mapping[tuple[int, int], str]:
        """As `local_devices`, of the mounts there are now. Raises: OSError."""
        self.barred()
        return self._devices


@functools.cache
def mounts() -> MountTable:
    """The one of this process."""
    return MountTable()


def barred_mounts(mountinfo: bytes) -> dict[bytes, str]:
    """Mount points, with the type of their file system, which a walk must not enter (proc_pid_mountinfo(5)).

    The root directory is never one of them: this process itself runs from there.
    """
    barred: dict[bytes, str] = {}
    for line in mountinfo.splitlines():
        left, _, right = line.partition(b" - ")
        kind = right.partition(b" ")[0].decode("ascii", "replace")
        place = left.split(b" ")[4]
        if kind in _KERNEL_VIEWS or kind in _REMOTE or kind.startswith("fuse."):
            barred[_unescaped(place)] = kind
    barred.pop(b"/", None)
    return barred


def local_devices(mountinfo: bytes) -> dict[tuple[int, int], str]:
    """The file systems that answer from this machine alone: the kernel's device (s_dev, which for btrfs and
    overlayfs is not what stat reports) and their type."""
    devices: dict[tuple[int, int], str] = {}
    for line in mountinfo.splitlines():
        left, _, right = line.partition(b" - ")
        kind = right.partition(b" ")[0].decode("ascii", "replace")
        if kind not in _REMOTE and kind not in _KERNEL_VIEWS and not kind.startswith("fuse"):
            major, _, minor = left.split(b" ")[2].partition(b":")
            devices[int(major), int(minor)] = kind
    return devices


def _unescaped(place: bytes) -> bytes:
    """mountinfo writes space, tab, newline, hash and backslash as three octal digits."""
    first, *rest = place.split(b"\\")
    return first + b"".join(bytes([int(part[:3], 8)]) + part[3:] for part in rest)


def _walk(path: bytes, barred: Mapping[bytes, str]) -> Descriptor | Obstacle:
    """Raises: OSError when a component is missing or forbidden, or is below a file."""
    pending = path.split(b"/")[::-1]
    trail = [Descriptor(os.open("/", _STEP))]
    names = [b""]
    links = 0
    while pending:
        name = pending.pop()
        if name in {b"", b"."}:
            continue
        if name == b"..":
            if len(trail) > 1:
                del trail[-1], names[-1]
            continue
        place = b"/".join((*names, name))
        if place in barred:
            return Obstacle(f"lies on a file system of type {barred[place]}")
        step = Descriptor(os.open(name, _STEP, dir_fd=trail[-1].number))
        if not stat.S_ISLNK(step.status.st_mode):
            trail.append(step)
            names.append(name)
            if len(trail) > limits.MAX_PATH_DEPTH:
                return Obstacle(f"lies deeper than {limits.MAX_PATH_DEPTH} directories")
            continue
        links += 1
        if links > limits.MAX_SYMBOLIC_LINKS:
            return Obstacle(f"passes more than {limits.MAX_SYMBOLIC_LINKS} symbolic links")
        target = os.readlink(b"", dir_fd=step.number)
        if target.startswith(b"/"):
            del trail[1:], names[1:]
        pending.extend(target.split(b"/")[::-1])
    return trail[-1]

"""Which file systems may never answer. One rule: asked of the kernel's own tables, never of their servers."""

from __future__ import annotations

import errno
import functools
import os
import select
import threading
from typing import Final, NamedTuple

from common import limits
from procmond.collect.digest import READ_ONLY
from procmond.collect.handles import is_exhausted
from procmond.collect.leaderless import at_image

REMOTE: Final = frozenset(
    {"autofs", "nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "afs", "lustre", "coda", "fuse", "fuseblk"}
)
"""Types whose files are served by a process or a host that may be hostile or gone; and all `fuse.*`."""

STACKED: Final = frozenset({"aufs", "ecryptfs", "overlay", "shiftfs", "unionfs"})
"""Types whose files lie on other file systems, of types that no table shows. Whoever may have a user
namespace may mount an overlay in it, over a FUSE server of their own."""

_MOUNTINFO_CHUNK: Final = 64 * limits.KIB
_MAX_FOREIGN_BYTES: Final = 4 * limits.MIB
"""Of another mount namespace's table: whoever may make one may fill it with 100,000 mounts (fs.mount-max).
What lies beyond counts as a mount that no table shows."""
_FDINFO_BYTES: Final = 4096
_MOUNT_ID: Final = b"mnt_id:"


class Mount(NamedTuple):
    """One line of mountinfo, as far as it matters here (proc_pid_mountinfo(5))."""

    number: int
    place: bytes
    kind: str
    device: tuple[int, int] = (0, 0)
    """The kernel's s_dev, major and minor; of btrfs and overlayfs not what stat reports."""

    @property
    def remote(self) -> bool:
        """Whether reading from it may wait for somebody for ever; so it may where no type is told."""
        return not self.kind or self.kind in REMOTE or self.kind.startswith("fuse.")


def parse_mountinfo(raw: bytes) -> list[Mount]:
    """The mounts in the text of a mountinfo file; lines of another form are left out.

    Only a line feed ends a line: a carriage return is not escaped in the name of a mount point.
    """
    mounts: list[Mount] = []
    for line in raw.split(b"\n"):
        left, _, right = line.partition(b" - ")
        fields = left.split(b" ")
        if len(fields) > 4 and fields[0].isdigit():
            kind = right.partition(b" ")[0].decode("ascii", "replace")
            device = _numbers(fields[2])
            mounts.append(Mount(int(fields[0]), _unescaped(fields[4]), kind, device))
    return mounts


def _numbers(device: bytes) -> tuple[int, int]:
    major, _, minor = device.partition(b":")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else (0, 0)


def _unescaped(place: bytes) -> bytes:
    """mountinfo writes space, tab, newline, hash and backslash as three octal digits."""
    first, *rest = place.split(b"\\")
    return first + b"".join(bytes([int(part[:3], 8)]) + part[3:] for part in rest)


class MountTable:
    """Our own mounts, read again only when the kernel says that one came or went.

    A poll of mountinfo reports POLLERR and POLLPRI once after each change (proc(5)).
    """

    def __init__(self) -> None:
        self._descriptor = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLPRI)
        self._mounts: list[Mount] | None = None
        self._lock = threading.Lock()

    def mounts(self) -> list[Mount]:
        """The mounts there are now; the same list while nothing has changed. Raises: OSError."""
        with self._lock:
            changed = bool(self._poll.poll(0))
            if changed or self._mounts is None:
                os.lseek(self._descriptor, 0, os.SEEK_SET)
                pieces = iter(lambda: os.read(self._descriptor, _MOUNTINFO_CHUNK), b"")
                self._mounts = parse_mountinfo(b"".join(pieces))
            return self._mounts

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._descriptor)


class Places:
    """Tells of a running image whether the file system it lies on may never answer."""

    def __init__(self, table: MountTable, memory_device: int) -> None:
        """`memory_device` is st_dev of memfds, see `find_memory_device`."""
        self._table = table
        self._memory_device = memory_device

    def may_hang(self, pid: int, device: int) -> bool:
        """Of the image of `pid`, whose st_dev is `device`. Waits for nobody, opens nothing for reading.

        A mount that no table shows has been detached while a program runs from it: nobody knows what it is.
        What is stacked upon others is trusted only where our own mount namespace has it, as the host's
        administrator or container engine put it there.
        """
        if device == self._memory_device:
            return False  # the kernel's own memory, mounted nowhere
        try:
            folder, descriptor = at_image(pid, _look_at)
            try:
                return self._judge(folder, descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            return is_exhausted(error)  # else it has ended; whoever opens it will say so

    def open_local(self, pid: int, held: int | None = None) -> int:
        """For reading, what `pid` runs now, or its image that is open as `held` (O_PATH); for any thread.

        Judged and opened is one and the same file: between a judgement and an opening by pid a process runs
        another. Raises: OSError; FileNotFoundError also where reading may hang, for then it is not the file
        that was asked for.
        """
        folder, descriptor = at_image(pid, _look_at) if held is None else (f"/proc/{pid}", held)
        try:
            if self._judge(folder, descriptor):
                raise FileNotFoundError(errno.ENOENT, "lies on a file system that may never answer")
            return os.open(f"/proc/self/fd/{descriptor}", READ_ONLY)
        finally:
            if held is None:
                os.close(descriptor)

    def _judge(self, folder: str, descriptor: int) -> bool:
        """Whether reading this image, of the process in `folder`, may hang. Raises: OSError."""
        number = _mount_of(descriptor)
        if number == find_memory_mount():
            return False
        ours = self._table.mounts()
        mount = _find(number, ours)
        if mount is None:
            mount = _find(number, _mounts_of(folder))
            if mount is not None and mount.kind in STACKED:
                return all(mount.device != one.device for one in ours)
        return mount is None or mount.remote


def _find(number: int, mounts: list[Mount]) -> Mount | None:
    return next((mount for mount in mounts if mount.number == number), None)


def _look_at(folder: str) -> tuple[str, int]:
    """`folder`, and a descriptor that leads to its `exe` without asking the server it lies on."""
    return folder, os.open(f"{folder}/exe", os.O_PATH | os.O_CLOEXEC)


def _mount_of(descriptor: int) -> int:
    """The number of the mount it leads to. Raises: OSError."""
    info = os.open(f"/proc/self/fdinfo/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(info, _FDINFO_BYTES)
    finally:
        os.close(info)
    numbers = (int(line.removeprefix(_MOUNT_ID)) for line in text.splitlines() if line.startswith(_MOUNT_ID))
    return next(numbers, 0)


def _mounts_of(folder: str) -> list[Mount]:
    with open(f"{folder}/mountinfo", "rb") as file:
        return parse_mountinfo(file.read(_MAX_FOREIGN_BYTES).rpartition(b"\n")[0])


def find_memory_device() -> int:
    """st_dev of the kernel's own tmpfs, where memfds live and no path leads; 0 where there are none."""
    return _find_memory()[0]


def find_memory_mount() -> int:
    """The number of its mount, which is in no table; -1 where there are none."""
    return _find_memory()[1]


@functools.cache
def _find_memory() -> tuple[int, int]:
    """Makes a memfd: for the supervisor, before nobody can any more, and remembered for its children."""
    try:
        descriptor = os.memfd_create("device")
    except OSError:
        return 0, -1
    try:
        return os.fstat(descriptor).st_dev, _mount_of(descriptor)
    finally:
        os.close(descriptor)

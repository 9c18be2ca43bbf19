"""Which file systems may never answer. One rule: asked of the kernel's own tables, never of their servers."""

from __future__ import annotations

import functools
import os
import select
from typing import Final, NamedTuple

from common import limits
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

    def mounts(self) -> list[Mount]:
        """The mounts there are now; the same list while nothing has changed. Raises: OSError."""
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
            folder, number = at_image(pid, _mount_of_image)
            ours = self._table.mounts()
            mount = _find(number, ours)
            if mount is None:
                mount = _find(number, _mounts_of(folder))
                if mount is not None and mount.kind in STACKED:
                    return all(mount.device != one.device for one in ours)
        except OSError as error:
            return is_exhausted(error)  # else it has ended; whoever opens it will say so
        return mount is None or mount.remote


def _find(number: int, mounts: list[Mount]) -> Mount | None:
    return next((mount for mount in mounts if mount.number == number), None)


def _mount_of_image(folder: str) -> tuple[str, int]:
    """`folder`, and the number of the mount its `exe` lies on, found without asking the mount's server."""
    descriptor = os.open(f"{folder}/exe", os.O_PATH | os.O_CLOEXEC)
    try:
        info = os.open(f"/proc/self/fdinfo/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            text = os.read(info, _FDINFO_BYTES)
        finally:
            os.close(info)
    finally:
        os.close(descriptor)
    numbers = (int(line.removeprefix(_MOUNT_ID)) for line in text.splitlines() if line.startswith(_MOUNT_ID))
    return folder, next(numbers, 0)


def _mounts_of(folder: str) -> list[Mount]:
    with open(f"{folder}/mountinfo", "rb") as file:
        return parse_mountinfo(file.read(_MAX_FOREIGN_BYTES).rpartition(b"\n")[0])


@functools.cache
def find_memory_device() -> int:
    """st_dev of the kernel's own tmpfs, where memfds live and no path leads; 0 where there are none.

    Makes a memfd: for the supervisor, before nobody can any more. Remembered, so that its children know it.
    """
    try:
        descriptor = os.memfd_create("device")
    except OSError:
        return 0
    try:
        return os.fstat(descriptor).st_dev
    finally:
        os.close(descriptor)

"""Follows a path a peer named. One rule: nothing on the way makes root wait, act, or see more than files.

The path is resolved here, component by component, with O_PATH: that neither opens a FIFO or device nor
waits for a peer. The walk never enters /proc or /sys, wherever they are mounted (their links lead into other
processes), nor a file system whose server may never answer.
"""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from common import limits
from procmond.collect.digest import READ_ONLY, identity_of
from procmond.collect.mounts import Mount, MountTable
from procmond.collect.sighting import FileIdentity

_STEP: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC

_KERNEL_VIEWS: Final = frozenset(
    {"proc", "sysfs", "securityfs", "debugfs", "tracefs", "configfs", "selinuxfs", "cgroup", "cgroup2"}
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
    land = _land()
    try:
        barred = land.barred()
        passed: list[os.stat_result] = []
        found = _walk(path.encode(), barred, passed)
    except OSError as error:
        return Obstacle(os.strerror(error.errno or 0))
    if isinstance(found, Descriptor) and all(map(_only_root_writes, passed)):
        land.remember(path, found.status)
    return found


def look_again(path: str) -> FileIdentity | None:
    """The file at a `path` that was followed before, by one look instead of a walk.

    None unless nobody but root can have changed the way there, no mount came or went since, and it still
    leads to the same file: then it is to be followed.
    """
    try:
        return _land().look_again(path)
    except OSError:
        return None


class _Land:
    """The mounts as they are now: places a walk must not enter, and paths that were walked and are safe."""

    def __init__(self) -> None:
        self._table = MountTable()
        self._mounts: list[Mount] = []
        self._barred: dict[bytes, str] = {}
        self._known: dict[str, tuple[int, int]] = {}

    def barred(self) -> Mapping[bytes, str]:
        """As `barred_mounts`, of the mounts there are now. Raises: OSError."""
        mounts = self._table.mounts()
        if mounts is not self._mounts:
            self._mounts, self._barred = mounts, barred_mounts(mounts)
            self._known.clear()
        return self._barred

    def remember(self, path: str, status: os.stat_result) -> None:
        """`path` was just walked among directories of root's, to this file."""
        if len(self._known) >= limits.KNOWN_PATHS:
            del self._known[next(iter(self._known))]
        self._known[path] = status.st_dev, status.st_ino

    def look_again(self, path: str) -> FileIdentity | None:
        """See the function of this name. Raises: OSError."""
        self.barred()
        known = self._known.get(path)
        if known is None:
            return None
        status = os.stat(path)
        return identity_of(status) if (status.st_dev, status.st_ino) == known else None


@functools.cache
def _land() -> _Land:
    return _Land()


def barred_mounts(mounts: Iterable[Mount]) -> dict[bytes, str]:
    """Mount points, with the type of their file system, which a walk must not enter.

    The root directory is never one of them: this process itself runs from there.
    """
    barred = {mount.place: mount.kind for mount in mounts if mount.kind in _KERNEL_VIEWS or mount.remote}
    barred.pop(b"/", None)
    return barred


def _only_root_writes(directory: os.stat_result) -> bool:
    # An access control list that lets others write shows in the bits of the group: they are its mask then.
    return directory.st_uid == 0 and not directory.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _walk(path: bytes, barred: Mapping[bytes, str], passed: list[os.stat_result]) -> Descriptor | Obstacle:
    """`passed` gets every directory in which a name was looked up.

    Raises: OSError when a component is missing or forbidden, or is below a file.
    """
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
        passed.append(trail[-1].status)
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

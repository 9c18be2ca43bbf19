"""Whether the running image is still the file at its name. One rule: only stat, never open, never follow out.

What the kernel calls /proc/PID/exe is the name the file had, with ` (deleted)` behind it when that name is
gone. The name means something in the mount namespace and root of the process, not necessarily in ours
(DESIGN: PrivateTmp makes images in /tmp look deleted), and every directory on the way may by now be a link
that its owner laid.
"""

from __future__ import annotations

import errno
import os
from typing import Final, NamedTuple

from common.messages import HashState
from procmond.collect.handles import is_exhausted
from procmond.collect.mounts import find_memory_device
from procmond.collect.sighting import FileIdentity
from procmond.collect.text import text

_DELETED: Final = b" (deleted)"
_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Verdict(NamedTuple):
    """What stands at the name of a running image."""

    path: str
    """The name, without ` (deleted)`."""
    file_exists: bool
    """Something stands there."""
    on_disk_mismatch: bool
    """It is not the running image."""
    memory_backed: bool
    """The image never had a name: a memfd or an O_TMPFILE file."""


NO_VERDICT: Final = Verdict("", file_exists=False, on_disk_mismatch=False, memory_backed=False)


class Image(NamedTuple):
    """What /proc/PID/exe says."""

    state: HashState
    """Why there is no identity; UNSPECIFIED where there is one."""
    identity: FileIdentity | None = None
    verdict: Verdict = NO_VERDICT
    link: bytes = b""
    """The target of the link, raw."""

    @property
    def path(self) -> str | None:
        """The name it was run by, as the kernel resolved it."""
        return self.verdict.path or None


NO_IMAGE: Final = Image(HashState.NO_EXECUTABLE)
"""Of kernel threads, zombies, and what is about to be one."""
_DENIED: Final = Image(HashState.DENIED)
_FAILED: Final = Image(HashState.IO_ERROR)
_ATTEMPTS: Final = 3  # at a process that keeps executing other programs


def target_of(path: bytes) -> bytes:
    """The name an image was run by; empty when it is longer than the kernel tells (PATH_MAX).

    Raises: OSError as readlink(2) says.
    """
    try:
        return os.readlink(path)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return b""


def _same(one: os.stat_result, other: os.stat_result) -> bool:
    return one.st_ino == other.st_ino and one.st_dev == other.st_dev


def _unless_exhausted(error: Exception) -> None:
    """Raise it again where it does not say that there is no such file."""
    if isinstance(error, OSError) and is_exhausted(error):
        raise error


class Images:
    """Looks at images; each name is looked up once per sweep and root directory."""

    def __init__(self, proc: str = "/proc", memory_device: int | None = None) -> None:
        """`memory_device` is st_dev of memfds; default: find out."""
        self._proc = os.fsencode(proc)
        self._memory_device = find_memory_device() if memory_device is None else memory_device
        self._names: dict[tuple[object, bytes], os.stat_result | None] = {}
        self._confirmed: dict[tuple[int, ...], Image] = {}

    def begin(self) -> None:
        """A new sweep begins: what stood at a name then may not stand there now."""
        self._names.clear()
        self._confirmed.clear()

    def look(self, folder: bytes, path: bytes, last: Image | None = None) -> Image:
        """The image of the process whose /proc/PID/ is `folder` and whose /proc/PID/exe is `path`.

        `last` is what this gave in an earlier sweep, if the process had no page fault since and so cannot
        have run another program: an exec begins with an empty page table. Then, if the same file in the same
        state still runs and another process has shown in this sweep that it stands at that name, the link is
        not read again.

        Raises: OSError where `is_exhausted`.
        """
        image = NO_IMAGE
        try:
            for _ in range(_ATTEMPTS):
                status = os.stat(path)
                identity = (
                    status.st_dev,
                    status.st_ino,
                    status.st_size,
                    status.st_mtime_ns,
                    status.st_ctime_ns,
                )
                confirmed = self._confirmed.get(identity)
                if confirmed is not None and confirmed is last:
                    return confirmed
                link = target_of(path)
                if confirmed is not None and confirmed.link == link:
                    return confirmed
                verdict = self.judge(folder, link, status)
                image = Image(HashState.UNSPECIFIED, FileIdentity._make(identity), verdict, link)
                if not verdict.on_disk_mismatch:
                    if image == last:
                        image = last  # one object for all processes and sweeps
                    self._confirmed.setdefault(identity, image)
                    return image
                if _same(os.stat(path), status) and target_of(path) == link:  # not one's stat, another's name
                    return image
        except PermissionError:
            return _DENIED
        except (FileNotFoundError, ProcessLookupError):
            return NO_IMAGE
        except OSError as error:
            if is_exhausted(error):
                raise
            return _FAILED
        return image

    def unread(self, path: bytes) -> Image:
        """What can be said of an image whose file system does not answer: its name, which asks nobody."""
        try:
            link = os.readlink(path)
        except OSError:
            return _FAILED
        name = link.removesuffix(_DELETED)
        verdict = Verdict(text(name), file_exists=False, on_disk_mismatch=False, memory_backed=False)
        return Image(HashState.TIMED_OUT, None, verdict, link)

    def judge(self, folder: bytes, link: bytes, image: os.stat_result) -> Verdict:
        """What stands at the name of the image of the process whose /proc/PID/ is `folder`, given the target
        and the stat of its /proc/PID/exe. Raises: OSError where `is_exhausted`.
        """
        if not link:
            return NO_VERDICT
        deleted = link.endswith(_DELETED)
        name = link[: -len(_DELETED)] if deleted else link
        if image.st_dev == self._memory_device and name.startswith(b"/memfd:"):
            return Verdict(text(name), False, True, True)
        if deleted and name.endswith(b"/#%d" % image.st_ino):  # how the kernel names O_TMPFILE files
            return Verdict(text(name), False, True, True)
        found = None
        for candidate in (link, name) if deleted else (link,):  # a file may really be called `x (deleted)`
            found = self._here(candidate)
            if found is not None and _same(found, image):
                return Verdict(text(candidate), True, False, False)
        foreign = self._foreign_root(folder)
        if foreign is not None:
            found = self._there(folder, name, foreign)
            if found is not None and _same(found, image):
                return Verdict(text(name), True, False, False)
        return Verdict(text(name), found is not None, True, False)

    def _here(self, name: bytes) -> os.stat_result | None:
        key = (None, name)
        if key not in self._names:
            try:
                self._names[key] = os.lstat(name)
            except (OSError, ValueError) as error:
                _unless_exhausted(error)
                self._names[key] = None
        return self._names[key]

    def _foreign_root(self, its: bytes) -> tuple[bytes, int, int] | None:
        """What tells apart the roots of processes; None when the root is ours, or is not to be seen."""
        own = b"%s/self/" % self._proc
        try:
            here, there = os.stat(own + b"root"), os.stat(its + b"root")
            namespace = os.readlink(its + b"ns/mnt")
            if _same(here, there) and os.readlink(own + b"ns/mnt") == namespace:
                return None
        except OSError as error:
            _unless_exhausted(error)
            return None
        return namespace, there.st_dev, there.st_ino

    def _there(self, folder: bytes, name: bytes, root: tuple[bytes, int, int]) -> os.stat_result | None:
        key = (root, name)
        if key not in self._names:
            self._names[key] = self._walk(folder + b"root", name)
        return self._names[key]

    def _walk(self, root: bytes, name: bytes) -> os.stat_result | None:
        """lstat of `name` below /proc/PID/root, by no link but that: absolute ones lead to our root."""
        *directories, last = name.split(b"/")[1:]
        try:
            at = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            _unless_exhausted(error)
            return None
        try:
            for directory in directories:
                below = os.open(directory, _DIRECTORY, dir_fd=at)
                os.close(at)
                at = below
            return os.stat(last, dir_fd=at, follow_symlinks=False)
        except OSError as error:
            _unless_exhausted(error)
            return None
        finally:
            os.close(at)

"""The socket a daemon answers on. One rule: nothing is unlinked but a stale socket of our own.

It is made under a tight umask, so there is no moment at which others could connect (no chmod race), in a
directory that nobody else can write to.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

from common import limits
from common.errors import AlreadyRunning, ConfigError
from common.service import InheritedSocket, InstanceLock
from common.setting import MAX_SOCKET_PATH_BYTES

_SOCKET_UMASK: Final = 0o117
"""Leaves 0660: owner and group may connect."""


class Listener:
    """A listening Unix socket at `path`, owned by us and group `gid`, for as long as this is open."""

    def __init__(self, path: str, gid: int) -> None:
        self.path = path
        self._gid = gid
        self._lock = InstanceLock(f"{path}.lock")
        self.sock: socket.socket | None = None

    def open(self) -> socket.socket:
        """Make the socket.

        Raises: AlreadyRunning when another daemon has it; ConfigError when the path is too long, its
        directory is missing, not writable, or not ours alone, or something else lies at the path.
        """
        check_path(self.path)
        check_directory(os.path.dirname(self.path))
        self._lock.acquire()
        self._clear()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        before = os.umask(_SOCKET_UMASK)
        step = ""
        try:
            sock.bind(self.path)
            if self._gid != os.getegid():
                step = f"it cannot be given to group {self._gid}: "
                os.chown(self.path, -1, self._gid, follow_symlinks=False)
        except OSError as error:
            sock.close()
            if step:
                os.unlink(self.path)  # bound a moment ago, so it is ours
            raise ConfigError(f"socket {self.path}: {step}{error.strerror}") from None
        finally:
            os.umask(before)
        sock.listen(limits.LISTEN_BACKLOG)
        self.sock = sock
        return sock

    def close(self) -> None:
        """Close it. Its file stays: confined we may unlink nothing, and the next start knows it for stale."""
        if self.sock is not None:
            self.sock.close()
            self.sock = None
        self._lock.release()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _clear(self) -> None:
        """Unlink a stale socket of ours; refuse anything else that lies there."""
        try:
            status = os.lstat(self.path)
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(status.st_mode):
            raise ConfigError(f"socket {self.path}: something that is not a socket lies there; move it away")
        if status.st_uid != os.geteuid():
            raise ConfigError(f"socket {self.path}: it belongs to uid {status.st_uid}; remove it first")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
            result = probe.connect_ex(self.path)
        if result != errno.ECONNREFUSED:
            raise AlreadyRunning(f"socket {self.path}: a process answers there already; stop it first")
        os.unlink(self.path)


def inherited(passed: Sequence[InheritedSocket]) -> socket.socket | None:
    """The listening socket systemd passed, None when it passed nothing.

    Raises: ConfigError when what it passed is not one listening Unix stream socket.
    """
    if not passed:
        return None
    if len(passed) != 1:
        raise ConfigError(f"{len(passed)} sockets were passed; procmond takes one, listening, Unix, stream")
    sock = socket.socket(fileno=passed[0].descriptor)
    if (
        sock.family != socket.AF_UNIX
        or sock.type != socket.SOCK_STREAM
        or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    ):
        raise ConfigError(f"the socket passed as {passed[0].name!r} is not a listening Unix stream socket")
    sock.setblocking(False)
    return sock


def check_path(path: str) -> None:
    """Raises: ConfigError when `path` does not fit a socket address (unix(7))."""
    length = len(os.fsencode(path))
    if length > MAX_SOCKET_PATH_BYTES:
        raise ConfigError(f"socket {path}: {length} bytes; at most {MAX_SOCKET_PATH_BYTES} are possible")


def check_directory(directory: str) -> None:
    """A directory, and all above it, that nobody but root and ourselves can change an entry of.

    A sticky one above (/tmp) is safe: only the owner can rename what lies in it. Raises: ConfigError.
    """
    mine = {0, os.geteuid()}
    here = os.path.realpath(directory)
    last = True
    while True:
        try:
            status = os.stat(here)
        except OSError as error:
            raise ConfigError(f"directory {here}: {error.strerror}; create it for the socket") from None
        if not stat.S_ISDIR(status.st_mode):
            raise ConfigError(f"{here}: not a directory; the socket needs one")
        shared = bool(status.st_mode & (stat.S_IWGRP | stat.S_IWOTH))
        sticky = bool(status.st_mode & stat.S_ISVTX) and not last
        if status.st_uid not in mine or (shared and not sticky):
            raise ConfigError(
                f"directory {here}: others than root and uid {os.geteuid()} can write to it; "
                "the socket needs one of its own"
            )
        if last and not os.access(here, os.W_OK):
            raise ConfigError(f"directory {here}: not writable by uid {os.geteuid()}")
        if here == "/":
            return
        here, last = os.path.dirname(here), False

"""A FUSE file system of one file that stops answering when told to. One rule: closing its device frees all.

It speaks the protocol of /dev/fuse itself (linux/fuse.h). Requests it has read and never answers keep their
callers in the kernel, some of them beyond SIGKILL, until the last descriptor of the device is closed; that
is why the server is a process of its own, the only one to hold it, which dies with whoever started it.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import shutil
import stat
import struct
import tempfile
from collections.abc import Callable, Iterator
from enum import IntFlag
from typing import Final, NamedTuple

from tests.support.attacks import call
from tests.support.children import running

NAME: Final = "image"
"""The one file, at the mount's root."""

_FORGET, _GETATTR, _OPEN, _READ, _INTERRUPT, _BATCH_FORGET = 2, 3, 14, 15, 36, 42
_HEADER: Final = struct.Struct(
    "=IIQQIIIHH"
)  # length, opcode, unique, node, uid, gid, pid, extension, padding
_ANSWER: Final = struct.Struct("=IiQ")  # length, error, unique
_ROOT_NODE, _FILE_NODE = 1, 2
_ASYNC_READ: Final = 1
_REQUEST_BYTES: Final = 128 * 1024
"""More than FUSE_MIN_READ_BUFFER and any request of ours."""

_MS_NOSUID, _MS_NODEV, _MNT_DETACH = 2, 4, 2


class Stall(IntFlag):
    """What is never answered any more."""

    NOTHING = 0
    READ = 1
    OPEN = 2
    GETATTR = 4


_STALLED_BY: Final = {_GETATTR: Stall.GETATTR, _OPEN: Stall.OPEN, _READ: Stall.READ}


class Switch:
    """Shared between the test, the server and whoever is forked from them; flipped at any time."""

    def __init__(self) -> None:
        self._shared = mmap.mmap(-1, mmap.PAGESIZE)

    def stall(self, what: Stall) -> None:
        """From the next request on."""
        self._shared[0] = what

    def stalls(self, what: Stall) -> bool:
        return bool(self._shared[0] & what)

    def count(self) -> None:
        """One more request will never be answered."""
        self._shared[1] = min(self._shared[1] + 1, 255)

    @property
    def unanswered(self) -> int:
        """Requests read and left, up to 255."""
        return self._shared[1]

    def close(self) -> None:
        self._shared.close()


def _attributes(node: int, content: bytes) -> bytes:
    mode, size = (stat.S_IFDIR | 0o755, 0) if node == _ROOT_NODE else (stat.S_IFREG | 0o755, len(content))
    # ino, size, blocks, times; nanoseconds, mode, nlink, uid, gid, rdev, blksize, flags
    return struct.pack("=6Q10I", node, size, size // 512 + 1, 1, 1, 1, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def _reply(opcode: int, node: int, body: bytes, content: bytes, asynchronous: bool) -> bytes | int:
    """The answer to one request, or an errno. Pure."""
    match opcode:
        case 26:  # INIT: major, minor, readahead, flags, background, threshold, max_write, time_gran, rest
            flags = _ASYNC_READ if asynchronous else 0
            return struct.pack("=4I2H2I", 7, 31, 0, flags, 16, 12, 4096, 1) + bytes(32)
        case 1:  # LOOKUP
            if node != _ROOT_NODE or body.rstrip(b"\0") != NAME.encode():
                return errno.ENOENT
            # The name may be remembered; the attributes not, so that each stat is a request.
            return struct.pack("=4Q2I", _FILE_NODE, 0, 3600, 0, 0, 0) + _attributes(_FILE_NODE, content)
        case 3:  # GETATTR
            return struct.pack("=Q2I", 0, 0, 0) + _attributes(node, content)
        case 14 | 27:  # OPEN, OPENDIR
            return struct.pack("=Q2I", 1, 0, 0)
        case 15:  # READ
            _, offset, size = struct.unpack_from("=QQI", body)
            return content[offset : offset + size]
        case 17:  # STATFS
            return bytes(80)
        case 18 | 25 | 29:  # RELEASE, FLUSH, RELEASEDIR
            return b""
        case _:
            return errno.ENOSYS


def serve(device: int, content: bytes, switch: Switch, asynchronous: bool) -> None:
    """Answer until the file system is unmounted, or until killed."""
    while True:
        try:
            request = os.read(device, _REQUEST_BYTES)
        except OSError as error:
            if error.errno == errno.ENODEV:  # unmounted
                return
            if error.errno in (errno.ENOENT, errno.EINTR):  # a request was withdrawn while it was read
                continue
            raise
        _, opcode, unique, node, *_ = _HEADER.unpack_from(request)
        if opcode in (_FORGET, _BATCH_FORGET, _INTERRUPT):  # need no answer
            continue
        if switch.stalls(_STALLED_BY.get(opcode, Stall.NOTHING)):
            switch.count()
            continue
        reply = _reply(opcode, node, request[_HEADER.size :], content, asynchronous)
        code, answer = (-reply, b"") if isinstance(reply, int) else (0, reply)
        with contextlib.suppress(FileNotFoundError):  # the caller was killed meanwhile
            os.write(device, _ANSWER.pack(_ANSWER.size + len(answer), code, unique) + answer)


def mount(device: int, directory: str, uid: int, *, allow_other: bool) -> None:
    """Mount `device` on `directory`. Raises: OSError."""
    options = f"fd={device},rootmode=40000,user_id={uid},group_id={uid}"
    if allow_other:
        options += ",allow_other"
    call(
        "mount", b"daemoneye-test", os.fsencode(directory), b"fuse", _MS_NOSUID | _MS_NODEV, options.encode()
    )


class Mounted(NamedTuple):
    path: str
    """Of the one file."""
    server: int
    switch: Switch


@contextlib.contextmanager
def fuse_mount(
    content: bytes, *, asynchronous: bool = True, prefix: str = "daemoneye-fuse-"
) -> Iterator[Mounted]:
    """Root's mount, in the caller's namespace, open to everybody; unmounted, and every caller freed, after.

    Its directory's name begins with `prefix`.

    `asynchronous=False`: a stalled read is not ended by SIGKILL either; a stalled open never is.
    """
    directory = tempfile.mkdtemp(prefix=prefix)
    switch = Switch()
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    try:
        mount(device, directory, 0, allow_other=True)

        def run(ready: Callable[[], None]) -> None:
            ready()
            serve(device, content, switch, asynchronous)

        with contextlib.ExitStack() as stack:
            stack.callback(os.rmdir, directory)
            stack.callback(call, "umount2", os.fsencode(directory), _MNT_DETACH)
            server = stack.enter_context(running(run))
            os.close(device)
            device = -1
            yield Mounted(f"{directory}/{NAME}", server, switch)
    finally:
        if device != -1:
            os.close(device)
        switch.close()


@contextlib.contextmanager
def device_for(uid: int) -> Iterator[str]:
    """A path at which user `uid` may open /dev/fuse: the usual one, or a node of the test's own.

    On many distributions everybody may open it; where not, the node stands for one where they may.
    """
    if os.stat("/dev/fuse").st_mode & 0o006 == 0o006:
        yield "/dev/fuse"
        return
    directory = tempfile.mkdtemp(prefix="daemoneye-device-")
    try:
        os.chmod(directory, 0o755)
        path = f"{directory}/fuse"
        os.mknod(path, stat.S_IFCHR | 0o600, os.stat("/dev/fuse").st_rdev)
        os.chown(path, uid, uid)
        yield path
    finally:
        shutil.rmtree(directory)

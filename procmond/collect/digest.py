"""Reads one file and digests it. One rule: a digest is given only of a file that did not change meanwhile.

Runs in a worker thread and may block; it opens for reading only and never maps (a mapped file that is
truncated kills its reader by SIGBUS).
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

from common import limits
from common.messages import Digest, HashState
from common.validate import DIGEST_HEX
from procmond.collect.hash_cache import Algorithms, HashOutcome
from procmond.collect.leaderless import at_image
from procmond.collect.sighting import FileIdentity

OpenFile = Callable[[], int]
"""Gives a new descriptor, open for reading, without waiting for a peer. Raises: OSError."""

READ_ONLY: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
"""O_NONBLOCK: neither a FIFO without writer nor a lease somebody holds on the file makes open(2) wait."""

_STATES: Final = {
    errno.EACCES: HashState.DENIED,
    errno.EPERM: HashState.DENIED,
    errno.ENOENT: HashState.GONE,
    errno.ESRCH: HashState.GONE,
    errno.ENXIO: HashState.NOT_REGULAR,  # a socket
}


class _Hasher(Protocol):
    def update(self, data: memoryview, /) -> object: ...
    def hexdigest(self) -> str: ...


def _maker(algorithm: str) -> Callable[[], _Hasher] | None:
    if algorithm == "blake3":
        try:
            import blake3
        except ImportError:
            return None
        make: Callable[[], _Hasher] = blake3.blake3
        return make
    constructor: Any = getattr(hashlib, algorithm)
    try:
        constructor(usedforsecurity=False)
    except ValueError:  # an OpenSSL that was built, or is configured, without it
        return None
    return lambda: constructor(usedforsecurity=False)


_MAKERS: Final = {name: maker for name in DIGEST_HEX if (maker := _maker(name)) is not None}


def supported_algorithms() -> tuple[str, ...]:
    """Those computed here, in canonical order: sha256 first; blake3 only where its package is installed."""
    return tuple(_MAKERS)


def open_image(pid: int) -> int:
    """The running image of a process, for reading. Raises: OSError; ENOENT also for kernel threads."""
    return at_image(pid, lambda folder: os.open(f"{folder}/exe", READ_ONLY))


def identity_of(status: os.stat_result) -> FileIdentity:
    """The cache key of a file. `status` must come from stat(2): what BPF sees as device differs on btrfs."""
    return FileIdentity(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class Digester:
    """Reads files whole, up to `max_bytes` each and for `deadline_s` seconds of `clock` each."""

    def __init__(
        self,
        max_bytes: int = limits.HASH_MAX_FILE_BYTES,
        deadline_s: float = limits.HASH_FILE_DEADLINE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_bytes = max_bytes
        self._deadline_s = deadline_s
        self._clock = clock

    def digest(
        self,
        open_file: OpenFile,
        identity: FileIdentity,
        algorithms: Algorithms,
        buffer: bytearray,
        abandoned: Callable[[], bool] = lambda: False,
    ) -> HashOutcome:
        """All digests in one pass, of the file that had `identity` when it was asked for.

        `buffer` is read into and reused by the caller. Never raises OSError: what went wrong is the
        outcome's state. GONE: what was opened is another file (the process ended or runs another image by
        now); CHANGED: it is the file, in another state; PENDING: `abandoned` said that nobody waits.
        """
        try:
            descriptor = open_file()
        except OSError as error:
            return HashOutcome(_state_of(error))
        try:
            status = os.fstat(descriptor)
            state = self._judge(status, identity)
            if state is not HashState.OK:
                return HashOutcome(state)
            return self._read(descriptor, identity, algorithms, buffer, abandoned)
        except OSError as error:
            return HashOutcome(_state_of(error))
        finally:
            os.close(descriptor)

    def _judge(self, status: os.stat_result, identity: FileIdentity) -> HashState:
        if (status.st_dev, status.st_ino) != (identity.device, identity.inode):
            return HashState.GONE
        if not stat.S_ISREG(status.st_mode):
            return HashState.NOT_REGULAR
        if status.st_size > self._max_bytes:
            return HashState.TOO_LARGE
        return HashState.OK if identity_of(status) == identity else HashState.CHANGED

    def _read(
        self,
        descriptor: int,
        identity: FileIdentity,
        algorithms: Algorithms,
        buffer: bytearray,
        abandoned: Callable[[], bool],
    ) -> HashOutcome:
        hashers = [_MAKERS[algorithm]() for algorithm in algorithms]
        view = memoryview(buffer)
        deadline = self._clock() + self._deadline_s
        total = 0
        # Never past the size it had: a file that grows as fast as it is read would never end.
        while total < identity.size:
            if abandoned():
                return HashOutcome(HashState.PENDING, bytes=total)
            if self._clock() > deadline:
                return HashOutcome(HashState.TIMED_OUT, bytes=total)
            count = os.readv(descriptor, (buffer,))
            if not count:
                break
            total += count
            for hasher in hashers:
                hasher.update(view[:count])
        if total != identity.size or identity_of(os.fstat(descriptor)) != identity:
            return HashOutcome(HashState.CHANGED, bytes=total)
        digests = tuple(
            Digest(algorithm=algorithm, value=hasher.hexdigest())
            for algorithm, hasher in zip(algorithms, hashers, strict=True)
        )
        return HashOutcome(HashState.OK, digests, total)


def _state_of(error: OSError) -> HashState:
    return _STATES.get(error.errno or 0, HashState.IO_ERROR)

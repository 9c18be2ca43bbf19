"""Hashing in two lanes. One rule: a file system that never answers holds up its own lane and no other.

What lies on a local file system is read by the engine's threads. What lies on FUSE or a network is opened
and read by a child made for it, which ends itself by an alarm; one that not even that ends hangs in the
kernel, and only a few may.
"""

from __future__ import annotations

import asyncio
import functools
import os
import select
import signal
import threading
from collections.abc import Callable
from typing import Final

import msgspec

from common.messages import HashState
from procmond.collect.digest import Digester, OpenFile, open_image
from procmond.collect.hash_cache import SHA256_ONLY, Algorithms, HashCache, HashOutcome
from procmond.collect.hashing import HashCounters, HashEngine
from procmond.collect.mounts import MountTable, Places
from procmond.collect.sighting import FileIdentity
from procmond.collect.vetting import Descriptor

REMOTE_WORKERS: Final = 2
"""Threads that wait for children; each child at most for the deadline of a file."""
MAX_HANGING: Final = 4
"""Children left hanging in the kernel; after that nothing on such file systems is opened any more."""

_ANSWER_BYTES: Final = 4096
_TIMED_OUT: Final = HashOutcome(HashState.TIMED_OUT)
_FAILED: Final = HashOutcome(HashState.IO_ERROR)


class ChildDigester(Digester):
    """Digests in a child of its own; called in a worker thread."""

    def __init__(self, max_bytes: int, deadline_s: float) -> None:
        super().__init__(max_bytes, deadline_s)
        self._limit_s = deadline_s
        self._hanging: list[int] = []
        self._lock = threading.Lock()

    def digest(
        self,
        open_file: OpenFile,
        identity: FileIdentity,
        algorithms: Algorithms,
        buffer: bytearray,
        abandoned: Callable[[], bool] = lambda: False,
    ) -> HashOutcome:
        """As `Digester.digest`; TIMED_OUT also when the open does not come back, IO_ERROR when no child
        can be made.
        """
        if self.hanging() >= MAX_HANGING:
            return _TIMED_OUT
        try:
            reader, writer = os.pipe()
        except OSError:
            return _FAILED
        try:
            pid = os.fork()
        except OSError:
            os.close(reader)
            os.close(writer)
            return _FAILED
        if pid == 0:
            plain = super().digest
            self._be_child(writer, lambda: plain(open_file, identity, algorithms, buffer, abandoned))
        os.close(writer)
        try:
            answer = self._wait(reader)
        finally:
            os.close(reader)
        self._reap(pid)
        return msgspec.json.decode(answer, type=HashOutcome) if answer else _TIMED_OUT

    def hanging(self) -> int:
        """Children that have not ended yet."""
        self._reap()
        return len(self._hanging)

    def _wait(self, reader: int) -> bytes:
        poll = select.poll()
        poll.register(reader, select.POLLIN)
        return os.read(reader, _ANSWER_BYTES) if poll.poll(self._limit_s * 1000) else b""

    def _be_child(self, writer: int, digest: Callable[[], HashOutcome]) -> None:
        """Never returns. Holds none of the collector's descriptors: its lines must end when it does."""
        status = 1
        try:
            signal.setitimer(signal.ITIMER_REAL, self._limit_s)  # SIGALRM ends us, if anything can
            os.closerange(3, writer)
            os.closerange(writer + 1, os.sysconf("SC_OPEN_MAX"))
            os.write(writer, msgspec.json.encode(digest()))
            status = 0
        finally:
            os._exit(status)

    def _reap(self, *further: int) -> None:
        with self._lock:
            self._hanging += further
            self._hanging = [pid for pid in self._hanging if os.waitpid(pid, os.WNOHANG) == (0, 0)]


def make_lanes(
    *,
    workers: int,
    max_file_bytes: int,
    file_deadline_s: float,
    cache_entries: int,
    memory_device: int,
) -> HashLanes:
    """Both lanes; see `HashEngine` for the bounds and `Places` for `memory_device`."""
    cache = HashCache(cache_entries)
    local = HashEngine(
        workers=workers, max_file_bytes=max_file_bytes, file_deadline_s=file_deadline_s, cache=cache
    )
    remote = HashEngine(
        workers=REMOTE_WORKERS,
        max_file_bytes=max_file_bytes,
        digester=ChildDigester(max_file_bytes, file_deadline_s),
        cache=cache,
    )
    return HashLanes(local, remote, Places(MountTable(), memory_device))


class HashLanes:
    """An engine for local files, one for those that may never answer, and one cache for both."""

    def __init__(self, local: HashEngine, remote: HashEngine, places: Places) -> None:
        self._local = local
        self._remote = remote
        self._places = places

    def cached(self, identity: FileIdentity, algorithms: Algorithms = SHA256_ONLY) -> HashOutcome | None:
        """See `HashEngine.cached`."""
        return self._local.cached(identity, algorithms)

    def submit(
        self,
        open_file: OpenFile,
        identity: FileIdentity,
        algorithms: Algorithms = SHA256_ONLY,
        *,
        urgent: bool = False,
        keep: bool = True,
    ) -> asyncio.Future[HashOutcome]:
        """See `HashEngine.submit`, for a file known to be local."""
        return self._local.submit(open_file, identity, algorithms, urgent=urgent, keep=keep)

    def submit_image(
        self,
        pid: int,
        identity: FileIdentity,
        algorithms: Algorithms = SHA256_ONLY,
        *,
        held: Descriptor | None = None,
        urgent: bool = False,
    ) -> asyncio.Future[HashOutcome]:
        """The same for the running image of `pid`, wherever it lies; `held` is read if that is local."""
        if self._places.may_hang(pid, identity.device):
            return self._remote.submit(
                functools.partial(open_image, pid), identity, algorithms, urgent=urgent
            )

        def open_local() -> int:  # keeps `held` open as long as it may be called
            return self._places.open_local(pid, None if held is None else held.number)

        return self._local.submit(open_local, identity, algorithms, urgent=urgent)

    def counters(self) -> HashCounters:
        """Of the local lane."""
        return self._local.counters()

    async def close(self) -> None:
        """Stop both."""
        await self._remote.close()
        await self._local.close()

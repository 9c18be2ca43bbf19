"""The hash engine: files in, digests out. One rule: a file is read once however many ask, and nobody waits
for one that is too large, too slow or in flux.

The event loop owns the cache and the jobs; the worker threads take jobs from a deque and hand outcomes
back, and touch nothing else. A worker that hangs in the kernel holds up neither the loop nor `close`, but
the interpreter joins its threads when it ends: a process that must end regardless leaves by `os._exit`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import msgspec

from common import limits
from common.messages import HashState
from procmond.collect.digest import Digester, OpenFile
from procmond.collect.hash_cache import SHA256_ONLY, Algorithms, HashCache, HashOutcome
from procmond.collect.sighting import FileIdentity

_TOO_LARGE = HashOutcome(HashState.TOO_LARGE)
_PENDING = HashOutcome(HashState.PENDING)


_Key = tuple[FileIdentity, Algorithms, bool]


class HashCounters(msgspec.Struct, frozen=True):
    """What the engine did since it began."""

    hits: int
    """Questions answered from the cache."""
    misses: int
    """Questions that had to wait for a file to be read; several may have waited for the same one."""
    files_read: int
    """Files read to the end and found unchanged."""
    bytes_read: int
    refused: int
    """Questions answered PENDING because the queue was full."""
    cached: int
    """Files whose digests are known now."""
    waiting: int
    """Files not yet taken by a worker now."""


class _Job:
    """One file to be read, and who waits for it."""

    __slots__ = ("abandoned", "algorithms", "identity", "keep", "openers", "waiters", "wanted")

    def __init__(self, identity: FileIdentity, algorithms: Algorithms, *, keep: bool) -> None:
        self.identity = identity
        self.algorithms = algorithms
        self.keep = keep
        self.openers: list[OpenFile] = []
        self.waiters: list[asyncio.Future[HashOutcome]] = []
        self.wanted = 0
        self.abandoned = False

    @property
    def key(self) -> _Key:
        return self.identity, self.algorithms, self.keep

    def join(self, open_file: OpenFile, waiter: asyncio.Future[HashOutcome]) -> None:
        if len(self.openers) < limits.HASH_ALTERNATIVES:
            self.openers.append(open_file)
        self.waiters.append(waiter)
        self.wanted += 1
        waiter.add_done_callback(self._leave)

    def _leave(self, waiter: asyncio.Future[HashOutcome]) -> None:
        if waiter.cancelled():
            self.wanted -= 1
            self.abandoned = not self.wanted

    def is_abandoned(self) -> bool:
        return self.abandoned


class HashEngine:
    """Belongs to one event loop; `submit` needs it to run, `cached` and `counters` do not."""

    def __init__(
        self,
        *,
        workers: int = limits.HASH_WORKERS,
        max_file_bytes: int = limits.HASH_MAX_FILE_BYTES,
        file_deadline_s: float = limits.HASH_FILE_DEADLINE_S,
        cache_entries: int = limits.HASH_CACHE_ENTRIES,
        queue_files: int = limits.HASH_QUEUE_FILES,
        clock: Callable[[], float] = time.monotonic,
        wall_clock_ns: Callable[[], int] = time.time_ns,
        digester: Digester | None = None,
        cache: HashCache | None = None,
    ) -> None:
        """`digester` reads files in the worker threads; `cache` may be another engine's as well."""
        self._max_file_bytes = max_file_bytes
        self._queue_files = queue_files
        self._wall_clock_ns = wall_clock_ns
        self._digester = digester or Digester(max_file_bytes, file_deadline_s, clock)
        self._cache = HashCache(cache_entries) if cache is None else cache
        self._jobs: dict[_Key, _Job] = {}
        self._waiting: deque[_Job] = deque()
        self._buffers = [bytearray(limits.HASH_CHUNK_BYTES) for _ in range(workers)]
        self._executor = ThreadPoolExecutor(workers, thread_name_prefix="hash")
        self._idle = workers
        self._workers: set[asyncio.Future[None]] = set()
        self._closed = False
        self._hits = self._misses = self._files_read = self._bytes_read = self._refused = 0

    def cached(self, identity: FileIdentity, algorithms: Algorithms = SHA256_ONLY) -> HashOutcome | None:
        """What is known without reading: digests by `algorithms` (canonical), or that it is too large."""
        if identity.size > self._max_file_bytes:
            return _TOO_LARGE
        outcome = self._cache.get(identity, algorithms)
        if outcome is not None:
            self._hits += 1
        return outcome

    def submit(
        self,
        open_file: OpenFile,
        identity: FileIdentity,
        algorithms: Algorithms = SHA256_ONLY,
        *,
        urgent: bool = False,
        keep: bool = True,
    ) -> asyncio.Future[HashOutcome]:
        """The outcome of reading the file, of a read of it that is under way, or from the cache.

        Without `keep` the outcome is not remembered. `open_file` is called in a worker thread, and dropped
        with the job. `urgent` goes before all that waits: a person asked. The future is never an exception;
        cancelling it, when nobody else waits, stops the read. It is PENDING at once while `queue_files`
        files wait already. A file too young to be cached is read again by a later call: who asks for many
        processes keeps the futures by identity.
        """
        future: asyncio.Future[HashOutcome] = asyncio.get_running_loop().create_future()
        known = self.cached(identity, algorithms)
        if known is not None:
            future.set_result(known)
            return future
        self._misses += 1
        job = self._jobs.get((identity, algorithms, keep))
        if job is None or job.abandoned:
            if self._closed or len(self._waiting) >= self._queue_files:
                self._refused += 1
                future.set_result(_PENDING)
                return future
            job = self._enqueue(_Job(identity, algorithms, keep=keep), urgent)
        job.join(open_file, future)
        self._wake()
        return future

    def counters(self) -> HashCounters:
        """A snapshot."""
        return HashCounters(
            hits=self._hits,
            misses=self._misses,
            files_read=self._files_read,
            bytes_read=self._bytes_read,
            refused=self._refused,
            cached=len(self._cache),
            waiting=len(self._waiting),
        )

    async def close(self) -> None:
        """Stop reading within `HASH_CLOSE_GRACE_S` seconds; whoever waits still is answered PENDING."""
        self._closed = True
        self._waiting.clear()
        for job in tuple(self._jobs.values()):
            job.abandoned = True
            for future in job.waiters:
                if not future.done():
                    future.set_result(_PENDING)
        if self._workers:
            await asyncio.wait(self._workers, timeout=limits.HASH_CLOSE_GRACE_S)
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _enqueue(self, job: _Job, urgent: bool) -> _Job:
        self._jobs[job.key] = job
        if urgent:
            self._waiting.appendleft(job)
        else:
            self._waiting.append(job)
        return job

    def _wake(self) -> None:
        """Start a worker unless enough run already."""
        if self._idle and self._waiting and not self._closed:
            self._idle -= 1
            loop = asyncio.get_running_loop()
            worker = loop.run_in_executor(self._executor, self._work, loop)
            self._workers.add(worker)
            worker.add_done_callback(self._worker_ended)

    def _worker_ended(self, worker: asyncio.Future[None]) -> None:
        self._idle += 1
        self._workers.discard(worker)
        # A job may have come after the worker found the deque empty and before this call.
        self._wake()
        worker.result()

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        """In a worker thread: take jobs until there are none."""
        buffer = self._buffers.pop()
        try:
            while True:
                try:
                    job = self._waiting.popleft()
                except IndexError:
                    return
                began_ns = self._wall_clock_ns()
                outcome = HashOutcome(HashState.IO_ERROR)  # of a bug in here: nobody may wait for ever
                try:
                    outcome = self._read(job, buffer)
                finally:
                    loop.call_soon_threadsafe(self._finish, job, outcome, began_ns)
        finally:
            self._buffers.append(buffer)

    def _read(self, job: _Job, buffer: bytearray) -> HashOutcome:
        tried = 0
        outcome = _PENDING
        while tried < len(job.openers):  # grows meanwhile, as further processes of the image are met
            opener = job.openers[tried]
            outcome = self._digester.digest(opener, job.identity, job.algorithms, buffer, job.is_abandoned)
            if outcome.state is not HashState.GONE:
                break
            tried += 1
        return outcome

    def _finish(self, job: _Job, outcome: HashOutcome, began_ns: int) -> None:
        if self._jobs.get(job.key) is job:
            del self._jobs[job.key]
        self._files_read += outcome.state is HashState.OK
        self._bytes_read += outcome.bytes
        if job.keep:
            self._cache.put(job.identity, outcome, began_ns)
        for future in job.waiters:
            if not future.done():
                future.set_result(outcome)

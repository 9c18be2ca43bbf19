"""ENUMERATE_PROCESSES: every process, filtered, hashed, in frames. One rule: no answer is ever held whole
unless it has to fit one frame; a client that takes nothing stops the sweep where it is.

The sweep runs on the event loop in short slices. /proc answers from memory, so no read is worth a thread;
one that does stall is a hostile process, and then the supervisor replaces the collector.
"""

from __future__ import annotations

import asyncio
from typing import Final, NamedTuple

from common import codec, limits
from common.errors import TooLarge
from common.messages import CollectionOptions, DetectionResult, DetectionTask, ProcessFilter
from procmond.collect.filters import compile_filter
from procmond.collect.guard import Guard
from procmond.collect.hash_cache import canonical
from procmond.collect.hashes import SweepHashes, fragment
from procmond.collect.known_answers import KnownAnswers
from procmond.collect.lanes import HashLanes
from procmond.collect.records import varint
from procmond.collect.request import Request
from procmond.collect.sighting import Collector, Sighting, Wanted
from procmond.collect.slices import Slicer
from procmond.collect.tally import Tally
from procmond.events.feed import Feed

_PROCESSES_TAG: Final = bytes([4 << 3 | 2])  # DetectionResult.processes, length-delimited
_RECORD_OVERHEAD: Final = 6
"""Bytes of tag and length before each record, at most."""
_HASH_BYTES: Final = 96
"""About what the sha256 fields add to a record; further digests are counted where they are asked."""
_DIGEST_BYTES: Final = 160


class Tools(NamedTuple):
    """What the collector's handlers work with."""

    collector: Collector
    engine: HashLanes
    guard: Guard
    hash_budget_s: float
    feed: Feed
    answers: KnownAnswers


class RecordWriter:
    """Turns sightings into the frames of one answer."""

    def __init__(self, request: Request, tools: Tools) -> None:
        task = request.task
        options = task.options or CollectionOptions()
        algorithms = canonical(options.digests)
        budget_s = options.hash_budget_ms / 1000 if options.hash_budget_ms else tools.hash_budget_s
        self._request = request
        self._tally: Tally = request.tally
        self._full = task.options is not None
        self._hashes = SweepHashes(
            tools.engine,
            algorithms,
            cached_only=options.skip_hashes,
            deadline=asyncio.get_running_loop().time() + budget_s,
        )
        self._head = codec.encode(DetectionResult(boot_id=tools.collector.boot_id()))
        self._extra = _RECORD_OVERHEAD + _HASH_BYTES + (len(algorithms) - 1) * _DIGEST_BYTES
        self._limit = request.frame_limit - len(self._head) - limits.MAX_ERROR_MESSAGE_BYTES
        self._target = self._limit
        if task.stream:
            quarter = request.frame_limit // limits.STREAM_FRAME_DIVISOR
            self._target = min(quarter, limits.STREAM_FRAME_BYTES) - len(self._head)
        self._batch: list[Sighting] = []
        self._size = 0
        self._too_large = False

    async def add(self, sighting: Sighting) -> None:
        """One more process belongs to the answer."""
        self._tally.returned += 1
        if not sighting.accessible:
            self._tally.inaccessible += 1
        if self._too_large:
            return
        size = len(sighting.payload) + self._extra
        if self._batch and self._size + size > self._target:
            if not self._request.task.stream:
                self._too_large = True
                self._batch.clear()
                self._hashes.abandon()
                return
            await self._request.part(await self._encode())
        self._hashes.want(sighting)
        self._batch.append(sighting)
        self._size += size

    async def finish(self) -> bytes:
        """The last frame's records. Raises: TooLarge when they do not fit it and no stream was asked for."""
        if not self._too_large:
            body = await self._encode()
            if len(body) <= self._limit:
                return body
        raise TooLarge(
            f"{self._tally.returned} processes do not fit one frame of {self._request.frame_limit} bytes; "
            "set stream to take several, or filter"
        )

    def abandon(self) -> None:
        """Nobody waits for the answer any more."""
        self._hashes.abandon()

    async def _encode(self) -> bytes:
        await self._hashes.settle(self._batch)
        outcome_of, image, full = self._hashes.outcome, self._tally.image, self._full
        pieces = [self._head]
        for sighting in self._batch:
            outcome = outcome_of(sighting)
            image(sighting.image or sighting.pid, outcome.state)
            record = sighting.payload + fragment(outcome, full)
            pieces += (_PROCESSES_TAG, varint(len(record)), record)
        self._batch.clear()
        self._size = 0
        return b"".join(pieces)


def wanted_by(task: DetectionTask) -> Wanted:
    """Which facts the records of an answer to `task` carry."""
    options = task.options
    return Wanted(full=options is not None, environment=options is not None and options.environment)


async def enumerate_processes(request: Request, tools: Tools) -> bytes:
    """Answer ENUMERATE_PROCESSES; the last frame's records. Raises: InvalidTask, TooLarge."""
    task, tally = request.task, request.tally
    chosen = compile_filter(task.process_filter or ProcessFilter())
    writer = RecordWriter(request, tools)
    slicer = Slicer()
    try:
        for sighting in tools.collector.sweep(wanted_by(task), chosen.pids):
            await slicer.breathe()
            tally.seen += 1
            if sighting is None:
                tally.vanished += 1
            elif chosen.matches(sighting.pid, sighting.name, sighting.executable_path):
                await writer.add(sighting)
        return await writer.finish()
    except asyncio.CancelledError:
        writer.abandon()
        raise

"""The processes that exist, as events, parents first. One rule: from the look at a process on, events tell
the rest, and none of them twice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from common import codec
from common.messages import CollectionOptions, ProcessEvent, ProcessEventKind
from procmond.collect.hash_cache import canonical
from procmond.collect.hashes import SweepHashes, fragment
from procmond.collect.records import encode_event, encode_sequence
from procmond.collect.request import Request
from procmond.collect.sighting import Sighting
from procmond.collect.slices import Slicer
from procmond.collect.sweep import Tools, wanted_by
from procmond.collect.tree import Link, parents_first, read_links
from procmond.events.event import Key
from procmond.events.pump import boot_ns
from procmond.events.subscriber import Subscriber
from procmond.events.table import ProcessTable

HASH_BUDGET_S: Final = 2.0
"""Seconds a snapshot waits for cold hashes unless the task says how long: events wait in a queue
meanwhile."""

Send = Callable[[list[bytes]], Awaitable[None]]

_SNAPSHOT: Final = ProcessEventKind.SNAPSHOT


async def send_snapshot(
    request: Request, tools: Tools, subscriber: Subscriber, frame_bytes: int, send: Send
) -> None:
    """Send one SNAPSHOT event for each process the subscriber wants, and the SNAPSHOT_END."""
    subscriber.begin_snapshot()
    writer = _Writer(request, tools, subscriber, frame_bytes, send)
    try:
        if subscriber.wish.takes(_SNAPSHOT) or subscriber.wish.roots:
            await _sweep(request, tools, subscriber, writer)
        await writer.finish()
    except asyncio.CancelledError:
        writer.abandon()
        raise
    subscriber.end_snapshot()


async def _sweep(request: Request, tools: Tools, subscriber: Subscriber, writer: _Writer) -> None:
    table, tally, wish = tools.feed.table, request.tally, subscriber.wish
    began_ns = boot_ns()
    links = await read_links()
    pids = [pid for pid in parents_first(links, ()) if _belongs(pid, links, table, subscriber)]
    tally.seen, tally.returned, tally.inaccessible = len(pids), 0, 0
    slicer = Slicer()
    found: set[Key] = set()
    looked_ns = boot_ns()
    for sighting in tools.collector.sweep(wanted_by(request.task), pids):
        if sighting is not None:
            key = (sighting.pid, sighting.start_ticks)
            found.add(key)
            name, path = sighting.name, sighting.executable_path
            table.found(key, _key(sighting.ppid, links), name, path, sighting.payload, looked_ns)
            if wish.takes(_SNAPSHOT) and (wish.matches is None or wish.matches(key[0], name, path)):
                await writer.add(sighting, looked_ns)
        await slicer.breathe()
        looked_ns = boot_ns()
    tally.vanished = len(pids) - len(found)
    if not wish.roots:
        table.keep_only(found, began_ns, boot_ns())


def _key(pid: int, links: Mapping[int, Link]) -> Key | None:
    link = links.get(pid)
    return None if link is None else (pid, link.start_ticks)


def _belongs(pid: int, links: Mapping[int, Link], table: ProcessTable, subscriber: Subscriber) -> bool:
    """Whether a process is in one of the trees: by its parent now, or by who forked it."""
    if not subscriber.wish.roots:
        return True
    link = links[pid]
    key = (pid, link.start_ticks)
    parent = _key(link.ppid, links)
    above = [process.key for process in table.ancestry(key)[1:]]
    return subscriber.belongs(key, above if parent is None else [parent, *above])


class _Writer:
    """Turns sightings into events, a frame at a time."""

    def __init__(
        self, request: Request, tools: Tools, subscriber: Subscriber, frame_bytes: int, send: Send
    ) -> None:
        options = request.task.options or CollectionOptions()
        budget_s = options.hash_budget_ms / 1000 if options.hash_budget_ms else HASH_BUDGET_S
        self._tally = request.tally
        self._subscriber = subscriber
        self._frame_bytes = frame_bytes
        self._send = send
        self._hashes = SweepHashes(
            tools.engine,
            canonical(options.digests),
            cached_only=options.skip_hashes,
            deadline=asyncio.get_running_loop().time() + budget_s,
        )
        self._batch: list[tuple[Sighting, int]] = []
        self._size = 0

    async def add(self, sighting: Sighting, looked_ns: int) -> None:
        """One more process, as it was from `looked_ns` on."""
        self._tally.returned += 1
        self._tally.inaccessible += not sighting.accessible
        self._hashes.want(sighting)
        self._subscriber.show((sighting.pid, sighting.start_ticks), looked_ns)
        self._batch.append((sighting, looked_ns))
        self._size += len(sighting.payload)
        if self._size >= self._frame_bytes:
            await self._send(await self._encode())

    async def finish(self) -> None:
        """The rest, and the end."""
        pieces = await self._encode()
        end = ProcessEvent(
            kind=ProcessEventKind.SNAPSHOT_END,
            sequence=self._subscriber.number(),
            boot_time_ns=boot_ns(),
            wall_time_ms=time.time_ns() // 1_000_000,
        )
        await self._send([*pieces, codec.encode(end)])

    def abandon(self) -> None:
        """Nobody waits any more."""
        self._hashes.abandon()

    async def _encode(self) -> list[bytes]:
        await self._hashes.settle([sighting for sighting, _ in self._batch])
        wall_offset_ns = time.time_ns() - boot_ns()
        pieces: list[bytes] = []
        for sighting, looked_ns in self._batch:
            outcome = self._hashes.outcome(sighting)
            self._tally.image(sighting.image or sighting.pid, outcome.state)
            record = sighting.payload + fragment(outcome, True)
            wall_ms = (looked_ns + wall_offset_ns) // 1_000_000
            key = (sighting.pid, sighting.start_ticks)
            body = encode_event(_SNAPSHOT, looked_ns, wall_ms, key, record)
            pieces.append(body + encode_sequence(self._subscriber.number()))
        self._batch.clear()
        self._size = 0
        return pieces

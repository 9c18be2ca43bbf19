"""The collector as a process: hears the front's questions and answers them. One rule: it is expendable.

It keeps nothing that outlives it, and ends when its line does.
"""

from __future__ import annotations

import asyncio
import socket
import time
from typing import cast

import msgspec

from common import codec
from common.errors import TaskError
from common.logs import get_logger
from common.messages import CollectionSummary
from procmond import link
from procmond.collect import handlers, records
from procmond.collect.choice import choose
from procmond.collect.digest import supported_algorithms
from procmond.collect.guard import Guard
from procmond.collect.known_answers import KnownAnswers
from procmond.collect.lanes import make_lanes
from procmond.collect.procfs import ProcfsCollector
from procmond.collect.redaction import redact
from procmond.collect.request import Request
from procmond.collect.settings import CollectorSettings
from procmond.collect.sweep import Tools
from procmond.confinement import Confinement
from procmond.events.choice import Opened
from procmond.events.feed import Equipment, Feed
from procmond.link import Hello, Kind, LinkDecoder, LinkMessage, SourceReport

_log = get_logger("procmond.collect")


class _Line(asyncio.Protocol):
    """The line to the front; dull on purpose."""

    def __init__(self, service: CollectorService, max_body: int) -> None:
        self._service = service
        self._decoder = LinkDecoder(max_body + link.QUESTION_OVERHEAD)
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        for message in self._decoder.feed(data):
            self._service.hear(message)

    def connection_lost(self, exc: Exception | None) -> None:
        self._service.stop.set()

    def write(self, kind: Kind, request: int, body: bytes) -> None:
        """One message to the front; nothing when it is gone."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(link.encode(kind, request, body))


class CollectorService:
    """The questions under way, and what they are answered with."""

    def __init__(
        self, settings: CollectorSettings, guard: Guard, confinement: Confinement, opened: Opened
    ) -> None:
        collector, limitations = choose(settings, guard, confinement.capabilities, opened)
        redact_arguments = redact if settings.redact_arguments else None
        self._hello = Hello(
            collector=collector.name,
            boot_id=collector.boot_id(),
            boot_time=collector.boot_time(),
            digests=supported_algorithms(),
            retained_capabilities=confinement.capabilities,
            confined=confinement.filtered,
            limitations=limitations,
        )
        self._engine = make_lanes(
            workers=settings.hash_workers,
            max_file_bytes=settings.hash_max_file_bytes,
            file_deadline_s=settings.hash_file_deadline_s,
            cache_entries=settings.hash_cache_entries,
            memory_device=settings.memory_device,
        )
        equipment = Equipment(
            opened=opened,
            engine=self._engine,
            max_file_bytes=settings.hash_max_file_bytes,
            memory_device=settings.memory_device,
            looker=ProcfsCollector(
                redact_arguments,
                boot_time=settings.boot_time,
                guard=guard,
                environment_names=frozenset(settings.environment_variables),
                held_descriptors=0,
            ),
            sweeper=collector,
            guard=guard,
            boot_time=settings.boot_time,
            redact=redact_arguments,
            environment_names=frozenset(settings.environment_variables),
        )
        self._feed = Feed(equipment, self._report)
        self._tools = Tools(
            collector, self._engine, guard, settings.hash_budget_s, self._feed, KnownAnswers()
        )
        # Made before the transport: uvloop may deliver bytes before create_connection returns.
        self._line = _Line(self, settings.max_frame_size)
        self._open: dict[int, tuple[Request, asyncio.Task[None]]] = {}
        self.stop = asyncio.Event()

    async def serve(self, sock: socket.socket) -> None:
        """Answer until the line ends."""
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            self._group = group
            await loop.create_connection(lambda: self._line, sock=sock)
            self._report(self._feed.now)
            watching = group.create_task(self._feed.run(), name="watch")
            await self.stop.wait()
            watching.cancel()
            for _, running in self._open.values():
                running.cancel()
        await self._engine.close()

    def hear(self, message: LinkMessage) -> None:
        """The line's: the front said something."""
        if message.kind is Kind.ASK:
            self._ask(message)
            return
        entry = self._open.get(message.request)
        if entry is None:
            return  # it ended while this was on its way
        request, running = entry
        if message.kind is Kind.CREDIT:
            request.grant()
        elif message.kind is Kind.CANCEL:
            running.cancel()

    def _report(self, events: SourceReport) -> None:
        self._hello = msgspec.structs.replace(self._hello, events=events)
        self._line.write(Kind.HELLO, 0, link.encode_hello(self._hello))

    def _ask(self, message: LinkMessage) -> None:
        began_ns = time.monotonic_ns()
        question = link.decode_question(message.body)
        task = codec.decode_task(question.task)
        known = handlers.answer_at_once(task, self._tools)
        if known is not None:
            took_us = (time.monotonic_ns() - began_ns) // 1000
            end = records.one_image_hashed(duration_us=took_us, boot_time=self._hello.boot_time)
            self._line.write(Kind.LAST, message.request, known + end)
            return
        request = Request(
            message.request,
            task,
            administrator=question.administrator,
            frame_limit=question.frame_limit,
            write=self._line.write,
            resume=question.resume,
        )
        running = self._group.create_task(self._answer(request, began_ns), name=f"request-{request.number}")
        self._open[request.number] = (request, running)
        running.add_done_callback(lambda done: self._ended(request, done, began_ns))

    async def _answer(self, request: Request, began_ns: int) -> None:
        try:
            body = await handlers.TABLE[request.task.task_type](request, self._tools)
            await request.last(body, self._summary(request, began_ns))
        except TaskError as error:
            _log.info("request_refused", task_id=request.task.task_id, error=str(error))
            request.refuse(error, self._summary(request, began_ns))

    def _ended(self, request: Request, running: asyncio.Task[None], began_ns: int) -> None:
        del self._open[request.number]
        if running.cancelled():  # said here: a task cancelled before its first step runs nothing of its own
            request.stopped(self._summary(request, began_ns))
        elif (error := running.exception()) is not None:
            # Our own fault. It ends this collector, and the front asks the next one or says INTERNAL.
            _log.error("request_failed", task_id=request.task.task_id, exc_info=error)

    def _summary(self, request: Request, began_ns: int) -> CollectionSummary:
        return request.tally.summary(
            duration_us=(time.monotonic_ns() - began_ns) // 1000, boot_time=self._hello.boot_time
        )


async def serve(
    line: socket.socket,
    settings: CollectorSettings,
    guard: Guard,
    confinement: Confinement,
    opened: Opened,
) -> None:
    """Be the collector until the line ends; `opened` are the event sources it may read."""
    await CollectorService(settings, guard, confinement, opened).serve(line)

"""One connection of a peer. One rule: a well-formed frame always gets a typed answer, a bad one ends it.

Refusals are written by the reader itself, so a peer that asks and never reads is not read any further.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Final

from common import codec, limits, validate
from common.channel import Channel
from common.credentials import PeerCredentials
from common.errors import (
    Busy,
    Cancelled,
    ConnectionLost,
    DeadlineExceeded,
    InternalError,
    NotFound,
    PeerError,
    ProtocolViolation,
    ShuttingDown,
    TaskError,
    TaskIdError,
)
from common.logs import get_logger
from common.messages import (
    CollectionSummary,
    DetectionResult,
    DetectionTask,
    ErrorCode,
    Permission,
)
from procmond.front import answers, dispatch
from procmond.front.admission import Admission
from procmond.front.dispatch import Handler
from procmond.front.relay import Exchange, Relay
from procmond.link import Kind, LinkMessage, Question

_MAX_CANCELS: Final = limits.MAX_TASKS_PER_CONNECTION
"""CANCEL_TASKs waiting for their targets on one connection; they are exempt from the other limits."""


class Flight:
    """One task in flight on this connection."""

    def __init__(self, task: DetectionTask) -> None:
        self.task = task
        self.exchange: Exchange | None = None
        self.running: asyncio.Task[None] | None = None
        """What answers it; None while the collector has not answered, and where one look will do."""
        self.deadline: float | None = None
        """On the loop's clock; None where the answer has no end."""
        self.ended_by: TaskError | None = None
        """Why it was told to stop; the first reason stands."""
        self.stopped = False
        """Whether it ended for that reason, rather than complete just before."""
        self._done = False
        self._waiting: list[asyncio.Future[None]] = []

    def stop(self, reason: TaskError) -> None:
        """End the answer early, with a typed last frame."""
        if self.ended_by is None:
            self.ended_by = reason
            if self.exchange is not None:
                self.exchange.cancel()

    def finish(self) -> None:
        """It has ended: nobody works on it any more."""
        self._done = True
        if self.exchange is not None:
            self.exchange.close()
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    async def wait(self) -> None:
        """Returns when it has ended."""
        if not self._done:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            await future


class Session:
    """Reads tasks from one admitted peer and answers them until the connection ends."""

    def __init__(
        self,
        channel: Channel,
        peer: PeerCredentials,
        permission: Permission,
        admission: Admission,
        relay: Relay,
    ) -> None:
        self._channel = channel
        self._permission = permission
        self._admission = admission
        self._relay = relay
        self._settings = admission.settings
        self._loop = asyncio.get_running_loop()
        self._flights: dict[str, Flight] = {}
        self._timer: asyncio.TimerHandle | None = None
        """Of the next deadline, or an earlier one that nobody waits for any more."""
        self._counted = 0
        self._ending = False
        self._over = False
        """Whether the connection failed under a sender: `run` is about to end everything."""
        self._log = get_logger("procmond.front").bind(peer_uid=peer.uid, peer_pid=peer.pid)
        self.answered = 0
        """Tasks ended on this connection."""

    async def run(self) -> None:
        """Serve until the peer leaves, breaks the contract, stalls, or `end` was called and all is said."""
        try:
            async with asyncio.TaskGroup() as group:
                try:
                    await self._read(group)
                finally:
                    if self._timer is not None:
                        self._timer.cancel()
                    for flight in tuple(self._flights.values()):
                        if flight.running is None:
                            self._finish(flight)
                        else:
                            flight.running.cancel()
        except* ConnectionLost:
            pass
        except* PeerError as errors:
            error = errors.exceptions[0]
            self._log.warning("peer_broke_contract", error=str(error), kind=type(error).__name__)
            self._channel.post(codec.encode_result(answers.failure("", ProtocolViolation(str(error)))))
        finally:
            self._channel.close()
            # A peer that does not take its last words counts as connected until the stall limit ends it.
            await self._channel.wait_closed()

    async def end(self, reason: TaskError) -> None:
        """Take no new task, end those in flight for `reason`, and return when that is said."""
        self._ending = True
        flights = tuple(self._flights.values())
        for flight in flights:
            flight.stop(reason)
        for flight in flights:
            await flight.wait()
        self._channel.close()
        await self._channel.wait_closed()

    def abort(self) -> None:
        """End the connection now, whatever is unsaid."""
        self._channel.abort()

    # ----------------------------------------------------------------------------------------- reading

    async def _read(self, group: asyncio.TaskGroup) -> None:
        while (payload := await self._channel.receive()) is not None:
            received = self._loop.time()
            task = codec.decode_task(payload)
            validate.check_task_id(task.task_id)
            if task.task_id in self._flights:
                raise TaskIdError(f"task_id {task.task_id!r} is in flight already")
            try:
                handler = self._admit(task)
            except TaskError as error:
                await self._refuse(task, error)
                continue
            if handler is Handler.CAPABILITIES:
                await self._say(answers.capabilities(task, self._relay, self._admission, self._permission))
            elif handler is None:
                await self._say(answers.nothing(task))
            elif handler is Handler.CANCEL:
                target = self._flights.get(task.target_task_id)
                if target is not None and target.exchange is not None:
                    target.stop(Cancelled("cancelled by the client"))  # at once, whatever waits before us
                flight = self._flights[task.task_id] = Flight(task)
                self._run(group, flight, self._cancel(task, target))
            else:
                self._ask(group, task, codec.renew_task(payload), received)

    def _admit(self, task: DetectionTask) -> Handler | None:
        """Who answers; None for the reference's old way to ask for capabilities. Raises: TaskError."""
        if self._ending:
            raise ShuttingDown("procmond is ending; reconnect and ask again")
        hello = self._relay.hello
        algorithms = hello.digests if hello is not None else tuple(validate.DIGEST_HEX)
        validate.check_task(task, algorithms)
        entry = dispatch.look_up(task, self._permission)
        if answers.is_legacy_negotiation(task):
            return None
        if entry.counted:
            self._relay.check_room()
            self._admission.begin(self._counted)
            self._counted += 1
        elif entry.handler is Handler.CANCEL and len(self._flights) - self._counted >= _MAX_CANCELS:
            raise Busy(f"{_MAX_CANCELS} cancellations are under way on this connection; wait for one")
        return entry.handler

    def _ask(self, group: asyncio.TaskGroup, task: DetectionTask, encoded: bytes, received: float) -> None:
        flight = self._flights[task.task_id] = Flight(task)
        live = task.options is not None and task.options.live
        deadline_s = task.deadline_ms / 1000 if task.deadline_ms else self._settings.task_deadline_s
        if task.deadline_ms or not live:
            flight.deadline = received + deadline_s
            self._expire_at(flight.deadline)
        question = Question(
            self._permission is Permission.ADMINISTER,
            self._settings.max_frame_size - answers.OWN_FIELDS_BYTES,
            encoded,
        )
        flight.exchange = self._relay.ask(question, live=live, arrived=lambda: self._arrived(group, flight))

    def _expire_at(self, deadline: float) -> None:
        """Have `_expire` called by then. A timer may outlast its task: most answers come long before, and the
        next task has a later deadline, so one serves for many."""
        if self._timer is not None:
            if self._timer.when() <= deadline:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(deadline, self._expire)

    def _expire(self) -> None:
        """Stop what is late; be called again when the next may be."""
        self._timer = None
        now = self._loop.time()
        for flight in tuple(self._flights.values()):
            if flight.deadline is None or flight.ended_by is not None:
                continue
            if flight.deadline <= now:
                flight.stop(DeadlineExceeded("the deadline passed; what came before it is valid"))
            else:
                self._expire_at(flight.deadline)

    def _run(self, group: asyncio.TaskGroup, flight: Flight, work: Coroutine[None, None, None]) -> None:
        flight.running = group.create_task(work, name=f"answer-{flight.task.task_id}")
        flight.running.add_done_callback(lambda running: self._ran(running, flight))

    def _ran(self, running: asyncio.Task[None], flight: Flight) -> None:
        if not running.cancelled() and running.exception() is not None:
            self._over = True
        self._finish(flight)

    def _finish(self, flight: Flight) -> None:
        del self._flights[flight.task.task_id]
        flight.finish()
        self.answered += 1
        if flight.exchange is not None:
            self._counted -= 1
            self._admission.end()

    # --------------------------------------------------------------------------------------- answering

    def _arrived(self, group: asyncio.TaskGroup, flight: Flight) -> None:
        """The relay's: the collector answered, or will not. An answer of one frame for a peer that reads is
        handed on here and now; a task of its own costs more than all the rest."""
        exchange = flight.exchange
        if flight.running is not None or exchange is None or self._over:
            return
        if self._channel.ready and (message := exchange.take_whole()) is not None:
            body = _last_body(flight, message)
            self._channel.post(answers.complete(body, flight.task.task_id, 0, more=False))
            self._finish(flight)
        else:
            self._run(group, flight, self._answer(flight, exchange))

    async def _answer(self, flight: Flight, exchange: Exchange) -> None:
        sequence = 0
        last = False
        while not last:
            body, last = await self._next(flight, exchange)
            await self._channel.send(answers.complete(body, flight.task.task_id, sequence, more=not last))
            sequence += 1

    async def _next(self, flight: Flight, exchange: Exchange) -> tuple[bytes, bool]:
        """The next frame's bytes and whether it is the last; a lost collector makes one."""
        try:
            message = await exchange.next()
        except InternalError as error:
            flight.stopped = flight.ended_by is not None
            self._log.error("answer_lost", task_id=flight.task.task_id, error=str(error))
            return answers.override(flight.ended_by or error, summary=CollectionSummary()), True
        if message.kind is Kind.PART:
            return message.body, False
        return _last_body(flight, message), True

    async def _cancel(self, task: DetectionTask, target: Flight | None) -> None:
        if target is None or target.exchange is None:
            await self._refuse(task, NotFound(f"task {task.target_task_id!r} is not in flight here"))
            return
        await target.wait()
        if target.stopped and isinstance(target.ended_by, Cancelled):
            await self._say(answers.nothing(task))
        else:
            await self._refuse(task, NotFound(f"task {task.target_task_id!r} had ended already"))

    async def _refuse(self, task: DetectionTask, error: TaskError) -> None:
        self._log.info(
            "task_refused", task_id=task.task_id, code=ErrorCode(error.code).name.lower(), error=str(error)
        )
        await self._say(answers.failure(task.task_id, error))

    async def _say(self, result: DetectionResult) -> None:
        await self._channel.send(codec.encode_result(result))


def _last_body(flight: Flight, message: LinkMessage) -> bytes:
    if message.kind is Kind.STOPPED and flight.ended_by is not None:
        flight.stopped = True
        return message.body + answers.override(flight.ended_by)
    return message.body

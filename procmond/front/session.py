"""One connection of a peer. One rule: a well-formed frame always gets a typed answer, a bad one ends it.

Refusals are written by the reader itself, so a peer that asks and never reads is not read any further.
"""

from __future__ import annotations

import asyncio
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
from procmond.link import Kind, Question

_MAX_CANCELS: Final = limits.MAX_TASKS_PER_CONNECTION
"""CANCEL_TASKs waiting for their targets on one connection; they are exempt from the other limits."""


class Flight:
    """One task in flight on this connection."""

    def __init__(self, task: DetectionTask) -> None:
        self.task = task
        self.exchange: Exchange | None = None
        self.ended_by: TaskError | None = None
        """Why it was told to stop; the first reason stands."""
        self.stopped = False
        """Whether it ended for that reason, rather than complete just before."""
        self.done = asyncio.Event()

    def stop(self, reason: TaskError) -> None:
        """End the answer early, with a typed last frame."""
        if self.ended_by is None:
            self.ended_by = reason
            if self.exchange is not None:
                self.exchange.cancel()


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
        self._flights: dict[str, Flight] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._counted = 0
        self._ending = False
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
                    for task in self._running:
                        task.cancel()
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
            await flight.done.wait()
        self._channel.close()
        await self._channel.wait_closed()

    def abort(self) -> None:
        """End the connection now, whatever is unsaid."""
        self._channel.abort()

    # ----------------------------------------------------------------------------------------- reading

    async def _read(self, group: asyncio.TaskGroup) -> None:
        while (payload := await self._channel.receive()) is not None:
            received = asyncio.get_running_loop().time()
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
            else:
                self._start(group, task, handler, received)

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

    def _start(
        self, group: asyncio.TaskGroup, task: DetectionTask, handler: Handler, received: float
    ) -> None:
        flight = self._flights[task.task_id] = Flight(task)
        work = self._cancel(flight) if handler is Handler.CANCEL else self._answer(flight, received)
        running = group.create_task(work, name=f"answer-{task.task_id}")
        self._running.add(running)
        running.add_done_callback(
            lambda done: self._ended(done, flight, counted=handler is not Handler.CANCEL)
        )

    def _ended(self, running: asyncio.Task[None], flight: Flight, *, counted: bool) -> None:
        self._running.discard(running)
        del self._flights[flight.task.task_id]
        flight.done.set()
        self.answered += 1
        if counted:
            self._counted -= 1
            self._admission.end()

    # --------------------------------------------------------------------------------------- answering

    async def _answer(self, flight: Flight, received: float) -> None:
        task = flight.task
        question = Question(
            self._permission is Permission.ADMINISTER,
            self._settings.max_frame_size - answers.OWN_FIELDS_BYTES,
            codec.encode_task(task),
        )
        exchange = flight.exchange = self._relay.ask(question, live=_is_live(task))
        if flight.ended_by is not None:  # told to stop before this ran
            exchange.cancel()
        sequence = 0
        try:
            while True:
                body, last = await self._next(flight, exchange, self._deadline(task, received))
                await self._channel.send(answers.complete(body, task.task_id, sequence, more=not last))
                sequence += 1
                if last:
                    return
        finally:
            exchange.close()

    async def _next(self, flight: Flight, exchange: Exchange, deadline: float | None) -> tuple[bytes, bool]:
        """The next frame's bytes and whether it is the last; a deadline or lost collector makes one."""
        try:
            if flight.ended_by is None:
                try:
                    message = await exchange.next(deadline)
                except TimeoutError:
                    flight.stop(DeadlineExceeded("the deadline passed; what came before it is valid"))
                    message = await exchange.next(None)
            else:
                message = await exchange.next(None)
        except InternalError as error:
            flight.stopped = flight.ended_by is not None
            self._log.error("answer_lost", task_id=flight.task.task_id, error=str(error))
            return answers.override(flight.ended_by or error, summary=CollectionSummary()), True
        if message.kind is Kind.STOPPED and flight.ended_by is not None:
            flight.stopped = True
            return message.body + answers.override(flight.ended_by), True
        return message.body, message.kind is not Kind.PART

    def _deadline(self, task: DetectionTask, received: float) -> float | None:
        if task.deadline_ms:
            return received + task.deadline_ms / 1000
        if _is_live(task):
            return None
        return received + self._settings.task_deadline_s

    async def _cancel(self, flight: Flight) -> None:
        task = flight.task
        target = self._flights.get(task.target_task_id)
        if target is None or target.exchange is None:
            await self._refuse(task, NotFound(f"task {task.target_task_id!r} is not in flight here"))
            return
        target.stop(Cancelled("cancelled by the client"))
        await target.done.wait()
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


def _is_live(task: DetectionTask) -> bool:
    return task.options is not None and task.options.live

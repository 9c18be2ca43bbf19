"""Tasks and answers on one connection. One rule: whoever asks gets an answer, a typed error or the deadline.

Answers interleave, and one asyncio task reads them all. An asker that lags stops the reading
(agent/waiter.py), so a stream that may lag, and every live one, gets a connection of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from typing import Final, NoReturn, Self

from agent.answer import PARTIAL, failure_of
from agent.pending import Counters, PendingTable, Verdict
from agent.waiter import Waiter
from common import codec, limits
from common.channel import Channel
from common.errors import (
    Cancelled,
    ConnectionLost,
    DaemonEyeError,
    DeadlineExceeded,
    InvalidTask,
    PeerError,
    TaskError,
)
from common.messages import DetectionResult, DetectionTask, TaskType

STEERING: Final = frozenset({TaskType.NEGOTIATE_CAPABILITIES, TaskType.CANCEL_TASK})
"""Tasks about the conversation: no summary, no cancel, no work that could outlast its deadline."""


class Exchange:
    """One connection's tasks. `group` owns the asyncio tasks made here; its owner calls `end` before leaving.

    `name` begins the task ids; `grace_s` are the seconds a task's answer may take beyond its deadline.
    """

    def __init__(
        self, channel: Channel, group: asyncio.TaskGroup, *, name: str, counters: Counters, grace_s: float
    ) -> None:
        self.legacy = False
        """One frame is the whole answer, nothing can be cancelled. Also set by an answer without summary."""
        self._channel = channel
        self._group = group
        self._name = name
        self._grace_s = grace_s
        self._numbers = itertools.count(1)
        self._pending: PendingTable[Waiter] = PendingTable(counters)
        self._delivering: Waiter | None = None
        self._failure: DaemonEyeError | None = None
        self._lost: asyncio.Future[DaemonEyeError] = asyncio.get_running_loop().create_future()
        group.create_task(self._read(), name=f"{name}-read")

    def next_task_id(self) -> str:
        """An id no other task of this connection has."""
        return f"{self._name}-{os.getpid()}-{next(self._numbers)}"

    def open(self, task: DetectionTask, deadline_s: float | None) -> Waiter:
        """Register a task that `send` will write. Who opens ends: by its last frame, or by `abandon`.

        Raises: TaskIdError, Busy as PendingTable.register; the reason the connection ended, if it has.
        """
        if self._failure is not None:
            raise self._failure.with_traceback(None)
        waiter = Waiter(withdrawable=task.task_type not in STEERING)
        loop = asyncio.get_running_loop()
        expiry = None
        if deadline_s is not None:
            expiry = loop.time() + deadline_s + (self._grace_s if waiter.withdrawable else 0.0)
        self._pending.register(task.task_id, waiter, deadline=expiry)
        if expiry is not None:
            waiter.timer = loop.call_at(expiry, self._expire, expiry)
        return waiter

    async def send(self, payload: bytes, waiter: Waiter) -> None:
        """Write an encoded task.

        A connection that fails meanwhile is not reported here but by the waiter, which knows better why: the
        server's last words may be on their way.
        """
        with contextlib.suppress(PeerError, ConnectionLost, TimeoutError):
            async with asyncio.timeout_at(waiter.timer.when() if waiter.timer else None):
                await self._channel.send(payload)

    def abandon(self, task_id: str, waiter: Waiter) -> None:
        """Whoever asked no longer wants the answer: the server is told to end the work, if it has not."""
        waiter.fail(Cancelled("given up by who asked"))
        if self._pending.abandon(task_id):
            self._withdraw(task_id, waiter)

    def end(self, error: DaemonEyeError) -> None:
        """The connection is over, because of `error`; the first reason stays."""
        if self._failure is None:
            self._failure = error
            self._lost.set_result(error)
        for waiter in self._pending.fail_all():
            waiter.fail(error)
        if self._delivering is not None:  # its answer is complete, but the reader still waits for room
            self._delivering.fail(error)
        self._channel.abort()

    async def wait_lost(self) -> NoReturn:
        """Wait until the connection is over. Raises: ConnectionLost or TaskError, the reason."""
        error = await asyncio.shield(self._lost)
        raise error.with_traceback(None)

    async def _read(self) -> None:
        error: DaemonEyeError = ConnectionLost("procmond closed the connection")
        try:
            while (payload := await self._channel.receive()) is not None:
                result = codec.decode_result(payload)
                if not result.task_id:
                    error = failure_of(result)
                    break
                await self._deliver(result, len(payload))
        except ConnectionLost as lost:
            error = lost
        except PeerError as broken:
            error = ConnectionLost(f"procmond broke the protocol: {broken}")
            error.__cause__ = broken
        self.end(error)
        await self._channel.wait_closed()

    async def _deliver(self, result: DetectionResult, size: int) -> None:
        sequence, more = (0, False) if self.legacy else (result.sequence, result.more)
        match = self._pending.match(result.task_id, sequence, more=more)
        waiter = match.waiter
        if waiter is None:
            return
        if match.error is not None:
            waiter.fail(match.error)
            self._withdraw(result.task_id, waiter)
            return
        last = match.verdict is Verdict.COMPLETE
        if last and waiter.withdrawable and result.success and result.summary is None:
            self.legacy = True
        self._delivering = waiter
        await waiter.put(result, size, last=last)
        self._delivering = None

    def _expire(self, deadline: float) -> None:
        # A timer may fire a clock tick early, so its own deadline is the time, not what the clock says.
        for task_id, waiter in self._pending.expire(deadline):
            waiter.fail(
                DeadlineExceeded("procmond sent no complete answer within the deadline and its grace")
            )
            self._withdraw(task_id, waiter)

    def _withdraw(self, task_id: str, waiter: Waiter) -> None:
        if waiter.withdrawable and not self.legacy and self._failure is None:
            self._group.create_task(self._cancel(task_id), name=f"cancel-{task_id}")

    async def _cancel(self, target: str) -> None:
        task = DetectionTask(
            task_id=self.next_task_id(), task_type=TaskType.CANCEL_TASK, target_task_id=target
        )
        # Refused: it had ended already. Else the connection fails, which its reader reports, or the server is
        # silent, which the next task shows.
        with contextlib.suppress(TaskError, PeerError, ConnectionLost):
            async with Stream(self, task, limits.CLIENT_CANCEL_TIMEOUT_S) as frames:
                async for _ in frames:
                    pass


class Stream:
    """An answer frame by frame: `async with client.stream(task) as frames: async for frame in frames: ...`.

    Written with the first frame asked for. Leaving the block, an error and a cancellation end the work on the
    server; without the block, leaving the loop early leaves it running until its deadline, or for ever.

    The last frame has `more` False (on a legacy server there is only one). If the answer ended early by
    deadline, cancel or shutdown, that frame has success False and is still yielded, for its summary.

    Raises, while iterating: the TaskError a server refused with; DeadlineExceeded when it is silent beyond
    deadline and grace; SequenceError when frames are missing or repeated; ConnectionLost; InvalidTask for
    what does not fit the wire; and as `Exchange.open`.
    """

    def __init__(self, exchange: Exchange, task: DetectionTask, deadline_s: float | None) -> None:
        self._exchange = exchange
        self._task = task
        self._deadline_s = deadline_s
        self._waiter: Waiter | None = None
        self._ended = False

    @property
    def received_bytes(self) -> int:
        """Bytes of the payloads received so far."""
        return 0 if self._waiter is None else self._waiter.received_bytes

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> DetectionResult:
        if self._ended or (self._waiter is not None and self._waiter.complete):
            raise StopAsyncIteration
        try:
            if self._waiter is None:
                payload = _encode(self._task)
                self._waiter = self._exchange.open(self._task, self._deadline_s)
                await self._exchange.send(payload, self._waiter)
            frame = await self._waiter.take()
        except BaseException:
            await self.aclose()
            raise
        if self._waiter.complete and not frame.success and frame.error_code not in PARTIAL:
            await self.aclose()
            raise failure_of(frame)
        return frame

    async def aclose(self) -> None:
        """Give up what is still to come. Does not wait for the server."""
        self._ended = True
        if self._waiter is not None:
            self._exchange.abandon(self._task.task_id, self._waiter)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _encode(task: DetectionTask) -> bytes:
    try:
        payload = codec.encode_task(task)
    except (ValueError, TypeError) as error:
        raise InvalidTask("task", "not encodable", str(error)) from error
    if len(payload) > limits.DEFAULT_MAX_FRAME_SIZE:
        bound = f"at most {limits.DEFAULT_MAX_FRAME_SIZE} are allowed"
        raise InvalidTask("task", f"{len(payload)} bytes encoded", bound)
    return payload

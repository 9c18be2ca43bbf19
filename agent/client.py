"""Asks procmond. One rule: it speaks only to the server it was told to trust, in words that server knows.

The conversation itself is agent/exchange.py; who belongs to which answer is agent/pending.py.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection
from types import TracebackType
from typing import Final, NoReturn, Self

import msgspec

from agent import connection
from agent.answer import Answer, Merger
from agent.exchange import Exchange, Stream
from agent.pending import Counters
from common import limits
from common.channel import open_channel
from common.errors import ConnectionLost, DeadlineExceeded, TaskError, TooLarge, Unsupported
from common.messages import (
    CapabilityRequest,
    CapabilityResponse,
    CollectionSummary,
    DetectionTask,
    ErrorCode,
    MonitoringDomain,
    TaskType,
)

_NO_NEGOTIATION: Final = frozenset({ErrorCode.UNSPECIFIED, ErrorCode.UNSUPPORTED, ErrorCode.INVALID})
"""How a server refuses that does not know NEGOTIATE_CAPABILITIES."""

_SPECIFIED: Final = frozenset(kind for kind in TaskType if kind < TaskType.NEGOTIATE_CAPABILITIES)
"""The task types a legacy server knows."""


class Client:
    """One connection to procmond: `async with Client(path) as client:` connects, checks and negotiates.

    `server_uids` are the users whose socket is trusted. `name` (at most 64 bytes) and `version` tell procmond
    who asks. `counters` may be shared, so that they outlive the connection. Seconds: `connect_timeout_s` for
    connecting and again for negotiating, `grace_s` beyond the deadline of each task.
    """

    def __init__(
        self,
        path: str,
        *,
        server_uids: Collection[int] = (0,),
        name: str = "daemoneye",
        version: str | None = None,
        counters: Counters | None = None,
        connect_timeout_s: float = limits.CLIENT_CONNECT_TIMEOUT_S,
        grace_s: float = limits.CLIENT_DEADLINE_GRACE_S,
    ) -> None:
        self.path = path
        self.counters = Counters() if counters is None else counters
        self.capabilities: CapabilityResponse | None = None
        """What the server said of itself; None when it does not negotiate."""
        self.account: CollectionSummary | None = None
        """What the server refused, delivered and lost since it started, as it said together with that."""
        self._server_uids = server_uids
        self._name = name
        self._version = version
        self._connect_timeout_s = connect_timeout_s
        self._grace_s = grace_s
        self._group = asyncio.TaskGroup()
        self._exchange: Exchange | None = None

    async def __aenter__(self) -> Self:
        """Connect, check who listens, negotiate.

        Raises: Unreachable when nobody answers in time, UntrustedServer when somebody else does; Busy when
        the server has too many connections; another TaskError when it refuses for a reason of its own.
        """
        await self._group.__aenter__()
        try:
            await self._open()
            await self._meet()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection; procmond then stops what it still did for it."""
        await self._close()

    @property
    def legacy(self) -> bool:
        """The server knows only the specification: one frame is the whole answer; no stream, options, cancel
        or events; and no start_ticks, so that (pid, start_time) has to do as a weak key."""
        return self._connected.legacy

    def next_task_id(self) -> str:
        """An id no other task of this connection has; a task without id gets one by itself."""
        return self._connected.next_task_id()

    async def ask(self, task: DetectionTask, *, deadline_s: float | None = None) -> Answer:
        """The whole answer, all frames merged; at most CLIENT_MAX_ANSWER_BYTES of them.

        `deadline_s` is the server's; None takes `task.deadline_ms`, and 30 s if that is 0. An answer that
        ended early by deadline, cancel or shutdown is returned, with `error` set. Cancelling `ask` ends the
        work on the server too.

        Raises: as Stream; TooLarge beyond the bound.
        """
        merger = Merger()
        async with self.stream(task, deadline_s=deadline_s) as frames:
            async for frame in frames:
                if frames.received_bytes > limits.CLIENT_MAX_ANSWER_BYTES:
                    bound = limits.CLIENT_MAX_ANSWER_BYTES
                    raise TooLarge(
                        f"the answer has more than {bound} bytes; filter, or take it frame by frame"
                    )
                merger.add(frame)
        return merger.answer()

    def stream(self, task: DetectionTask, *, deadline_s: float | None = None) -> Stream:
        """The answer frame by frame; see Stream. `deadline_s` as for `ask`, but none for live streams.

        Raises: Unsupported for what a legacy server cannot do.
        """
        exchange = self._connected
        live = task.options is not None and task.options.live
        if deadline_s is None and task.deadline_ms:
            deadline_s = task.deadline_ms / 1000
        elif deadline_s is None and not live:
            deadline_s = limits.DEFAULT_TASK_DEADLINE_S
        changes: dict[str, object] = {"task_id": task.task_id or exchange.next_task_id()}
        if not exchange.legacy:
            # At least 1 ms, because 0 means the server's default.
            changes["deadline_ms"] = 0 if deadline_s is None else max(1, math.ceil(deadline_s * 1000))
        elif live or task.task_type not in _SPECIFIED:
            raise Unsupported("this server knows only the specification: no live events, no later task types")
        else:
            changes |= {"stream": False, "options": None, "deadline_ms": 0}
        return Stream(exchange, msgspec.structs.replace(task, **changes), deadline_s)

    async def wait_lost(self) -> NoReturn:
        """Wait until the connection ends. Raises: ConnectionLost or TaskError, the reason."""
        await self._connected.wait_lost()

    @property
    def _connected(self) -> Exchange:
        if self._exchange is None:
            raise RuntimeError("a Client works inside `async with`")
        return self._exchange

    async def _open(self) -> None:
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                sock = await connection.connect(self.path, self._server_uids)
        except TimeoutError:
            raise connection.backlog_full(self.path) from None
        self._exchange = Exchange(
            await open_channel(sock),
            self._group,
            name=self._name,
            counters=self.counters,
            grace_s=self._grace_s,
        )

    async def _close(self) -> None:
        if self._exchange is not None:
            self._exchange.end(ConnectionLost("closed by this client"))
        # The group is not told of an exception, so that the body's own leaves `async with` as it is, not in a
        # group of one.
        await self._group.__aexit__(None, None, None)

    async def negotiate(self) -> None:
        """Ask the server what it is and can; `__aenter__` did already, but it may have changed since.

        Raises: as `ask`.
        """
        request = CapabilityRequest(
            client_id=self._name,
            requested_domains=(MonitoringDomain.PROCESS,),
            client_version=self._version,
            protocol_version=limits.PROTOCOL_VERSION,
        )
        task = DetectionTask(task_type=TaskType.NEGOTIATE_CAPABILITIES, capability_request=request)
        answer = await self.ask(task, deadline_s=self._connect_timeout_s)
        if answer.error is not None:
            raise answer.error
        self.capabilities, self.account = answer.capability_response, answer.summary

    async def _meet(self) -> None:
        try:
            await self.negotiate()
        except DeadlineExceeded as error:
            raise connection.unreachable(self.path, "it accepts connections but does not answer") from error
        except ConnectionLost as error:
            remedy = "it closed the connection unanswered; ask as a user it allows, and read its log"
            raise connection.unreachable(self.path, remedy) from error
        except TaskError as error:
            if error.code not in _NO_NEGOTIATION:
                raise
            self._connected.legacy = True
            return
        response = self.capabilities
        self._connected.legacy = not (
            response is not None and response.negotiation_success and response.protocol_version
        )

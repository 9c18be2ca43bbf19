"""The front's end of the line to the collector. One rule: answers pass through as bytes, never decoded.

A lost collector costs no connection: questions of which nothing was sent yet are asked again once when the
next collector comes, others fail with INTERNAL. Live ones are always asked again, with what the lost
collector said about how far it got; the next one says what is missing and goes on.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections import Counter, deque
from collections.abc import Callable
from typing import Final, cast

from common import limits
from common.errors import Busy, InternalError, PeerError
from procmond import link
from procmond.link import INITIAL_CREDIT, Hello, Kind, LinkDecoder, LinkError, LinkMessage, Question

_REQUEST_IDS: Final = link.MAX_REQUEST
_NOT_LAST: Final = frozenset({Kind.PART, Kind.LIVE})
_CANCEL_GRACE_S: Final = 1.0
"""Seconds a collector has to end a cancelled question with its summary; then it is answered without one."""

_MAX_UNREAD_BYTES: Final = 4 * limits.MIB
"""Bytes of questions a collector may leave unread. Closing a connection frees its tasks, not what is on its
way to a collector that hangs: without a bound, peers that come and go would fill our memory."""


class Exchange:
    """One open question: frames come in, credit goes out."""

    def __init__(
        self, relay: Relay, request: int, question: Question, arrived: Callable[[], None], *, live: bool
    ) -> None:
        self._relay = relay
        self.request = request
        self.question = question
        self._arrived = arrived
        self._live = live
        self.forwarded = False
        """Whether any frame was handed on: then it cannot be asked again, unless it is live."""
        self.final = False
        """Whether it must not be asked again: it was already, or nobody wants the answer any more."""
        self._frames: deque[LinkMessage] = deque()
        self._granted = INITIAL_CREDIT
        """Frames that others follow which the collector may still send."""
        self._arrival: asyncio.Future[None] | None = None
        self._failure: InternalError | None = None

    async def next(self) -> LinkMessage:
        """The next frame, PART, LAST or STOPPED; the one before it counts as taken.

        Raises: InternalError when the collector was lost and the question cannot be asked again.
        """
        if self.forwarded:
            self._granted += 1
            self._relay.credit(self)
        while not self._frames:
            if self._failure is not None:
                raise self._failure
            self._arrival = asyncio.get_running_loop().create_future()
            try:
                await self._arrival
            finally:
                self._arrival = None
        self.forwarded = True
        return self._frames.popleft()

    def take_whole(self) -> LinkMessage | None:
        """The answer, if it has come and is one frame. Else None, and `next` has it piece by piece."""
        if self.forwarded or not self._frames or self._frames[0].kind is Kind.PART:
            return None
        self.forwarded = True
        return self._frames.popleft()

    def cancel(self) -> None:
        """Tell the collector to stop; it still ends the question with its summary."""
        self._relay.cancel(self)

    def close(self) -> None:
        """Forget the question; a collector still at work on it is told to stop."""
        self._arrived = _nothing  # who is called knows us: without this, both would wait for a collection
        self._relay.forget(self)

    def receive(self, message: LinkMessage) -> None:
        """The relay's: a frame of this question came. Raises: LinkError."""
        if message.kind is Kind.LIVE:
            resume, frame = link.decode_live(message.body)
            self.question = self.question._replace(resume=resume)
            message = LinkMessage(Kind.PART, message.request, frame)
        self._granted -= message.kind is Kind.PART
        if len(message.body) > self.question.frame_limit or self._granted < 0:
            raise LinkError(f"a frame of {len(message.body)} bytes, {-min(self._granted, 0)} without credit")
        self._frames.append(message)
        self._wake()

    def restart(self) -> bool:
        """The relay's: its collector is lost. Whether it can be asked again; of a live answer what came
        stands, of any other what was not handed on is void."""
        if self.final or (self.forwarded and not self._live):
            return False
        if not self._live:
            self.final = True
            self._frames.clear()
        self._granted = INITIAL_CREDIT
        return True

    def fail(self, error: InternalError) -> None:
        """The relay's: no further frame will come."""
        self._failure = error
        self._wake()

    def _wake(self) -> None:
        if self._arrival is None:
            self._arrived()
        elif not self._arrival.done():
            self._arrival.set_result(None)


def _nothing() -> None:
    pass


class _Line(asyncio.Protocol):
    """Bytes of one collector; dull on purpose."""

    def __init__(self, relay: Relay, max_body: int) -> None:
        self._relay = relay
        self._decoder = LinkDecoder(max_body + link.LIVE_OVERHEAD)
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            for message in self._decoder.feed(data):
                self._relay.received(self, message)
        except PeerError as error:
            # Only a broken or taken-over collector sends this: drop the line, the supervisor replaces it.
            self._relay.lost(self, str(error))
            self.close()

    def close(self) -> None:
        """Hear and say nothing more."""
        if self.transport is not None:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._relay.lost(self, str(exc) if exc else "it ended")


class Relay:
    """Asks the collector there is, and the next one when that is lost."""

    def __init__(self, max_frame_size: int, on_hello: Callable[[Hello], None]) -> None:
        self._max_body = max_frame_size
        self._on_hello = on_hello
        self._line: _Line | None = None
        self._open: dict[int, Exchange] = {}
        self._waiting: list[Exchange] = []
        self._numbers = itertools.count(1)
        self.hello: Hello | None = None
        """What the collector in charge said of itself; the last one's while there is none."""
        self.losses: Counter[str] = Counter()
        """What was lost, by reason, since the front started."""

    async def attach(self, sock: socket.socket) -> None:
        """A new collector is at the other end of `sock`."""
        loop = asyncio.get_running_loop()
        _, line = await loop.create_connection(lambda: _Line(self, self._max_body), sock=sock)
        before = self._line
        if before is not None:
            # One that hangs in the kernel keeps its end of the line open even when it was killed.
            self.lost(before, "another took its place")
            before.close()
        self._line = line
        waiting, self._waiting = self._waiting, []
        for exchange in waiting:
            if exchange.request in self._open:
                self._ask(exchange)

    def check_room(self) -> None:
        """Raises: Busy while the collector leaves unread what was asked of it."""
        line = self._line
        if line is None or line.transport is None:
            return  # questions wait in their exchanges, of which there are as many as tasks in flight
        if line.transport.get_write_buffer_size() > _MAX_UNREAD_BYTES:
            self.losses["collector_backlog"] += 1
            raise Busy("the collector does not keep up with what it is asked; try again")

    def ask(
        self, question: Question, *, live: bool = False, arrived: Callable[[], None] = _nothing
    ) -> Exchange:
        """Put a question; its frames come from the Exchange, which the caller closes. `live`: the answer has
        no end, and goes on with the next collector. `arrived` is called when a frame or a failure has come
        and nobody waits in `next`; it must not raise.
        """
        request = next(self._numbers) % _REQUEST_IDS
        exchange = self._open[request] = Exchange(self, request, question, arrived, live=live)
        self._ask(exchange)
        return exchange

    def credit(self, exchange: Exchange) -> None:
        """One more frame may come."""
        self._write(Kind.CREDIT, exchange.request)

    def cancel(self, exchange: Exchange) -> None:
        """Stop the work, but end the answer."""
        if exchange in self._waiting:
            self._waiting.remove(exchange)
            exchange.fail(InternalError("no collector was there to answer"))
            return
        exchange.final = True
        self._write(Kind.CANCEL, exchange.request)
        asyncio.get_running_loop().call_later(_CANCEL_GRACE_S, self._give_up, exchange)

    def forget(self, exchange: Exchange) -> None:
        """Nobody waits for this one any more."""
        if self._open.pop(exchange.request, None) is None:
            return
        if exchange in self._waiting:
            self._waiting.remove(exchange)
        else:
            self._write(Kind.CANCEL, exchange.request)

    def received(self, line: _Line, message: LinkMessage) -> None:
        """The line's: a message came. Raises: LinkError."""
        if message.kind is Kind.HELLO:
            self.hello = link.decode_hello(message.body)
            self._on_hello(self.hello)
            return
        exchange = self._open.get(message.request)
        if exchange is None or line is not self._line:
            return  # of a question that was closed meanwhile
        if message.kind not in _NOT_LAST:
            del self._open[message.request]
        exchange.receive(message)

    def lost(self, line: _Line, reason: str) -> None:
        """The line's: its collector is gone."""
        if line is not self._line:
            return
        self._line = None
        self.losses["collector_lost"] += 1
        for exchange in list(self._open.values()):
            if exchange in self._waiting:
                continue
            if exchange.restart():
                self._waiting.append(exchange)
            else:
                del self._open[exchange.request]
                exchange.fail(InternalError(f"the collector was lost in this answer ({reason}); ask again"))

    def _ask(self, exchange: Exchange) -> None:
        if self._line is None:
            self._waiting.append(exchange)
        else:
            self._write(Kind.ASK, exchange.request, *link.question_parts(exchange.question))

    def _give_up(self, exchange: Exchange) -> None:
        if self._open.pop(exchange.request, None) is not None:
            exchange.fail(InternalError("the collector did not end this answer"))

    def _write(self, kind: Kind, request: int, *body: bytes) -> None:
        if self._line is not None and self._line.transport is not None:
            self._line.transport.write(link.encode(kind, request, *body))

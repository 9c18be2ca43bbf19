"""Frames over a Unix stream socket. One rule: no decisions here; common.framing decides, this moves bytes.

Backpressure is the socket. `send` returns when the peer has taken what we wrote down to the low-water
mark, one sender at a time, so a peer that stops reading costs one frame; `receive` feeds from a bounded
queue, and when that is full the socket is not read.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from typing import Final, cast

from common import limits
from common.errors import ConnectionLost, FrameError, FrameTimeout, ReaderStalled
from common.framing import FrameDecoder, FrameTimer, StallTimer, encode_frame

_TICKS_PER_LIMIT: Final = 8
"""How often per limit the timers look: a limit of 30 s is noticed within 34."""


class Channel(asyncio.Protocol):
    """One connection that carries frames. Made by `open_channel`; one consumer, any number of senders."""

    def __init__(self, max_frame_size: int, frame_deadline_s: float, stall_limit_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._max_frame_size = max_frame_size
        self._decoder = FrameDecoder(max_frame_size)
        self._frame_timer = FrameTimer(frame_deadline_s)
        self._stall_timer = StallTimer(stall_limit_s)
        self._tick_s = min(frame_deadline_s, stall_limit_s) / _TICKS_PER_LIMIT
        self._ticker: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self._payloads: deque[bytes] = deque()
        self._queued_bytes = 0
        self._reading = True
        self._arrival: asyncio.Future[None] | None = None
        self._ended = False
        self._read_error: FrameError | None = None
        self._failure: Exception | None = None
        self._send_lock = asyncio.Lock()
        self._drained: asyncio.Future[None] | None = None
        self._writable = True
        self._closed: asyncio.Future[None] = self._loop.create_future()

    # ------------------------------------------------------------------------------------ for its owner

    async def receive(self) -> bytes | None:
        """The next payload, or None when the peer ended the stream between frames.

        Raises: FrameError for bytes that are no frame, an end inside one, or one that came too slowly;
        ReaderStalled when the peer took nothing for too long; ConnectionLost when the socket failed or
        was closed on our side.
        """
        while not self._payloads:
            if self._read_error is not None:
                raise self._read_error
            if self._failure is not None:
                raise self._failure
            if self._ended:
                return None
            self._arrival = self._loop.create_future()
            try:
                await self._arrival
            finally:
                self._arrival = None
        payload = self._payloads.popleft()
        self._queued_bytes -= len(payload)
        if not self._reading and not self._queue_over(2):
            self._resume_reading()
        return payload

    async def send(self, payload: bytes) -> None:
        """Write one frame and wait until the peer has taken it, but for the low-water mark.

        Raises: FrameEmpty, FrameTooLarge before a byte is written; ReaderStalled, ConnectionLost after.
        """
        frame = encode_frame(payload, self._max_frame_size)
        async with self._send_lock:
            await self._drain()  # of what a cancelled sender or `post` left
            self._write(frame)
            await self._drain()

    def post(self, payload: bytes) -> None:
        """Write one frame without waiting: last words before `close`, or an answer while the channel is
        `ready`, which keeps what is buffered bounded. Never raises for a dead peer.
        """
        if self._failure is None and self._transport is not None and not self._transport.is_closing():
            self._write(encode_frame(payload, self._max_frame_size))

    @property
    def ready(self) -> bool:
        """Whether a frame posted now follows what was sent before it, and finds room: no sender waits, and
        what is buffered is below the high-water mark."""
        return self._writable and not self._send_lock.locked()

    @property
    def buffered(self) -> int:
        """Bytes written that the kernel has not taken yet."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def close(self) -> None:
        """End the connection once what was written is taken; the stall limit still holds."""
        if self._transport is not None:
            self._transport.close()

    def abort(self, reason: Exception | None = None) -> None:
        """End the connection now; waiters get `reason`, or ConnectionLost."""
        self._fail(reason or ConnectionLost("connection closed"))

    async def wait_closed(self) -> None:
        """Returns when the socket is closed."""
        await asyncio.shield(self._closed)

    # ---------------------------------------------------------------------------- asyncio calls these

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the interface of asyncio.Transport without inheriting from it.
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(limits.WRITE_HIGH_WATER_BYTES, limits.WRITE_LOW_WATER_BYTES)

    def data_received(self, data: bytes) -> None:
        if self._read_error is not None:
            return
        try:
            payloads = self._decoder.feed(data)
            if self._decoder.failed:
                self._queue(payloads)
                self._decoder.finish()  # raises what is owed, now that the good frames are queued
        except FrameError as error:
            self._stop_reading(error)
            return
        self._frame_timer.received(
            self._loop.time(), completed=bool(payloads), mid_frame=self._decoder.mid_frame
        )
        if self._frame_timer.running:
            self._start_ticker()
        if payloads:
            self._queue(payloads)
            if self._reading and self._queue_over(1):
                self._pause_reading()
            self._wake()

    def eof_received(self) -> bool:
        self._frame_timer.suspend()
        if self._read_error is None:
            try:
                self._decoder.finish()
            except FrameError as error:
                self._read_error = error
        self._ended = True
        self._wake()
        return True  # half-closed: answers under way may still be written

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._failure is None and not (self._ended and exc is None):
            self._failure = ConnectionLost(str(exc) if exc else "connection closed")
        self._transport = None  # asyncio's own must not even be aborted from here on
        self._release()
        if not self._closed.done():
            self._closed.set_result(None)

    # ------------------------------------------------------------------------------------------ inside

    def _queue(self, payloads: list[bytes]) -> None:
        self._payloads.extend(payloads)
        self._queued_bytes += sum(map(len, payloads))

    def _queue_over(self, divisor: int) -> bool:
        """Whether the queue has reached its bounds divided by `divisor`."""
        return (
            len(self._payloads) * divisor >= limits.READ_QUEUE_FRAMES
            or self._queued_bytes * divisor >= limits.READ_QUEUE_BYTES
        )

    async def _drain(self) -> None:
        if not self._writable and self._failure is None:
            self._drained = self._loop.create_future()
            try:
                await self._drained
            finally:
                self._drained = None

    def _write(self, frame: bytes) -> None:
        if self._failure is not None:
            raise self._failure
        transport = self._transport
        if transport is None or transport.is_closing():
            raise ConnectionLost("connection closed")
        # Before it grows again: a peer that takes as much as we add is not stalled.
        self._stall_timer.observed(self._loop.time(), transport.get_write_buffer_size())
        transport.write(frame)
        waiting = transport.get_write_buffer_size()
        if waiting:
            self._stall_timer.wrote(self._loop.time(), waiting)
            self._start_ticker()

    def _start_ticker(self) -> None:
        if self._ticker is None:
            self._ticker = self._loop.call_later(self._tick_s, self._tick)

    def _tick(self) -> None:
        self._ticker = None
        now = self._loop.time()
        self._stall_timer.observed(now, self.buffered)
        try:
            self._stall_timer.check(now)
        except ReaderStalled as error:
            self._fail(error)
            return
        try:
            self._frame_timer.check(now)
        except FrameTimeout as error:
            self._stop_reading(error)
        if self._stall_timer.running or self._frame_timer.running:
            self._start_ticker()

    def _pause_reading(self) -> None:
        self._reading = False
        self._frame_timer.suspend()
        if self._transport is not None:
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        self._reading = True
        if self._transport is None or self._transport.is_closing():
            return
        if self._failure is not None or self._read_error is not None:
            return
        self._frame_timer.received(self._loop.time(), completed=True, mid_frame=self._decoder.mid_frame)
        self._transport.resume_reading()

    def _stop_reading(self, error: FrameError) -> None:
        """No further byte can be trusted, but last words may still be written: the owner closes."""
        self._frame_timer.suspend()
        if self._reading and self._transport is not None:
            self._reading = False
            self._transport.pause_reading()
        self._read_error = error
        self._wake()

    def _fail(self, error: Exception) -> None:
        if self._failure is None:
            self._failure = error
        if self._transport is not None:
            self._transport.abort()
        self._release()

    def _release(self) -> None:
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None
        self._wake()
        if self._drained is not None and not self._drained.done():
            self._drained.set_exception(self._failure or ConnectionLost("connection closed"))

    def _wake(self) -> None:
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)


async def open_channel(
    sock: socket.socket,
    *,
    max_frame_size: int = limits.DEFAULT_MAX_FRAME_SIZE,
    frame_deadline_s: float = limits.FRAME_DEADLINE_S,
    stall_limit_s: float = limits.STALL_LIMIT_S,
) -> Channel:
    """A channel over a connected, non-blocking Unix stream socket, which it owns from here on."""
    loop = asyncio.get_running_loop()
    _, channel = await loop.create_connection(
        lambda: Channel(max_frame_size, frame_deadline_s, stall_limit_s), sock=sock
    )
    return channel

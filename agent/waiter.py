"""Frames of one answer on their way to who asked. One rule: a bounded queue; while full, the reader waits.

The reader of the connection puts, the asker takes. While it waits for room the socket is not read, so a slow
asker slows the server down instead of filling memory, and holds up the other answers of its connection.
"""

from __future__ import annotations

import asyncio
from collections import deque

from common.limits import CLIENT_QUEUE_FRAMES
from common.messages import DetectionResult


class Waiter:
    """One asker. `withdrawable` is False for tasks that steer the connection: those are never cancelled."""

    def __init__(self, *, withdrawable: bool, limit: int = CLIENT_QUEUE_FRAMES) -> None:
        self.withdrawable = withdrawable
        self.timer: asyncio.TimerHandle | None = None
        """What fails this waiter at its deadline."""
        self.received_bytes = 0
        """Payload bytes put so far."""
        self.complete = False
        """The last frame was taken."""
        self._limit = limit
        self._frames: deque[tuple[DetectionResult, bool]] = deque()
        self._error: Exception | None = None
        self._arrival = asyncio.Event()
        self._room = asyncio.Event()

    async def put(self, frame: DetectionResult, size: int, *, last: bool) -> None:
        """Queue a frame of `size` payload bytes, after waiting for room. After `fail` it is dropped."""
        if last:
            self._stop_timer()
        while len(self._frames) >= self._limit and self._error is None:
            self._room.clear()
            await self._room.wait()
        if self._error is None:
            self.received_bytes += size
            self._frames.append((frame, last))
            self._arrival.set()

    async def take(self) -> DetectionResult:
        """The next frame. Raises: what `fail` was given, once the frames before it are taken."""
        while not self._frames:
            if self._error is not None:
                # Several waiters may share the error: without this, each would add to one traceback.
                raise self._error.with_traceback(None)
            self._arrival.clear()
            await self._arrival.wait()
        self._room.set()
        frame, self.complete = self._frames.popleft()
        return frame

    def fail(self, error: Exception) -> None:
        """No frame comes any more, and `error` says why. The first reason stays."""
        self._stop_timer()
        if self._error is None:
            self._error = error
        self._arrival.set()
        self._room.set()

    def _stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

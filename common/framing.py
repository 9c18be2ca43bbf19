"""Frames: length, CRC-32C, payload. One rule: pure, and the length is judged before memory is spent.

u32 little-endian  length of the payload, 1 .. max_frame_size
u32 little-endian  CRC-32C (Castagnoli, RFC 3720 B.4) of the payload
payload            one encoded message
"""

from __future__ import annotations

import struct
from typing import Final

import google_crc32c

from common import limits
from common.errors import (
    ChecksumMismatch,
    FrameEmpty,
    FrameError,
    FrameTimeout,
    FrameTooLarge,
    FrameTruncated,
    ReaderStalled,
)

_HEADER: Final = struct.Struct("<II")


def encode_frame(payload: bytes, max_frame_size: int = limits.DEFAULT_MAX_FRAME_SIZE) -> bytes:
    """One frame around `payload`.

    Raises: FrameEmpty, FrameTooLarge when the payload is not 1 to `max_frame_size` bytes.
    """
    length = len(payload)
    if not length:
        raise FrameEmpty
    if length > max_frame_size:
        raise FrameTooLarge(length, max_frame_size)
    return _HEADER.pack(length, google_crc32c.value(payload)) + payload


class FrameDecoder:
    """Takes the bytes of a stream in any portions and gives back whole payloads.

    Holds at most one incomplete frame and what `feed` was given. After an error it stays failed: the
    stream has no further frame that could be trusted.
    """

    def __init__(self, max_frame_size: int = limits.DEFAULT_MAX_FRAME_SIZE) -> None:
        self.max_frame_size = max_frame_size
        self._buffer = bytearray()
        self._needed = limits.FRAME_HEADER_BYTES
        self._checksum = 0
        self._failure: FrameError | None = None

    @property
    def mid_frame(self) -> bool:
        """Whether a frame began that is not complete."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """The payloads completed by `data`, in order.

        Raises: FrameEmpty, FrameTooLarge, ChecksumMismatch. Payloads completed before the bad frame in the
        same `data` are not lost: they are returned, and the error is raised by the next call.
        """
        if self._failure is not None:
            raise self._failure
        if not self._buffer and (payload := self._whole(data)) is not None:
            return [payload]
        self._buffer += data
        payloads: list[bytes] = []
        try:
            while (payload := self._next()) is not None:
                payloads.append(payload)
        except FrameError as error:
            self._failure = error
            self._buffer.clear()
            if not payloads:
                raise
        return payloads

    @property
    def failed(self) -> bool:
        """Whether a bad frame was met; the next `feed` raises."""
        return self._failure is not None

    def finish(self) -> None:
        """The stream ended. Raises: FrameTruncated inside a frame, or the error still owed."""
        if self._failure is not None:
            raise self._failure
        if self._buffer:
            raise FrameTruncated(len(self._buffer), self._needed)

    def _whole(self, data: bytes) -> bytes | None:
        """The payload when `data` is one sound frame, no more and no less, as it mostly is; else None."""
        payload = data[limits.FRAME_HEADER_BYTES :]
        if not payload or len(payload) > self.max_frame_size:
            return None
        length, checksum = _HEADER.unpack_from(data)
        return payload if length == len(payload) and google_crc32c.value(payload) == checksum else None

    def _next(self) -> bytes | None:
        buffer = self._buffer
        if len(buffer) < self._needed:
            return None
        if self._needed == limits.FRAME_HEADER_BYTES:
            length, self._checksum = _HEADER.unpack_from(buffer)
            if not length:
                raise FrameEmpty
            if length > self.max_frame_size:
                raise FrameTooLarge(length, self.max_frame_size)
            self._needed += length
            if len(buffer) < self._needed:
                return None
        payload = bytes(memoryview(buffer)[limits.FRAME_HEADER_BYTES : self._needed])
        del buffer[: self._needed]
        self._needed = limits.FRAME_HEADER_BYTES
        actual = google_crc32c.value(payload)
        if actual != self._checksum:
            raise ChecksumMismatch(self._checksum, actual)
        return payload


class FrameTimer:
    """The total-frame deadline: a frame that began is complete within `limit_s` seconds.

    The clock runs from a frame's first byte and is not restarted by bytes that trickle in.
    """

    def __init__(self, limit_s: float = limits.FRAME_DEADLINE_S) -> None:
        self.limit_s = limit_s
        self._began: float | None = None

    def received(self, now: float, *, completed: bool, mid_frame: bool) -> None:
        """Bytes came at `now`: `completed` if they ended a frame, `mid_frame` if one is open."""
        if not mid_frame:
            self._began = None
        elif completed or self._began is None:
            self._began = now

    @property
    def running(self) -> bool:
        """Whether a frame is open and the clock runs."""
        return self._began is not None

    def suspend(self) -> None:
        """We stopped reading: what is late from here on is not the peer's fault."""
        self._began = None

    def check(self, now: float) -> None:
        """Raises: FrameTimeout when the open frame is late."""
        if self._began is not None and now - self._began >= self.limit_s:
            raise FrameTimeout(self.limit_s)


class StallTimer:
    """The stalled-reader rule: a peer takes something within `limit_s` seconds while we have bytes for it."""

    def __init__(self, limit_s: float = limits.STALL_LIMIT_S) -> None:
        self.limit_s = limit_s
        self._pending = 0
        self._since: float | None = None

    def observed(self, now: float, pending: int) -> None:
        """`pending` bytes wait to be taken at `now`; fewer than before means that the peer took some."""
        if not pending:
            self._since = None
        elif self._since is None or pending < self._pending:
            self._since = now
        self._pending = pending

    def wrote(self, now: float, pending: int) -> None:
        """We added bytes at `now`: `pending` wait. More than before is no sign of life of the peer."""
        if pending and self._since is None:
            self._since = now
        self._pending = pending

    @property
    def running(self) -> bool:
        """Whether something waits to be taken and the clock runs."""
        return self._since is not None

    def check(self, now: float) -> None:
        """Raises: ReaderStalled when the peer took nothing for `limit_s` seconds."""
        if self._since is not None and now - self._since >= self.limit_s:
            raise ReaderStalled(self.limit_s)

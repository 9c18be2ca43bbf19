"""The line between front and collector. One rule: pure framing, and neither side trusts a length.

    u32 little-endian  length of the body, at most the decoder's bound
    u8                 kind
    u32 little-endian  request, chosen by the front, never re-used while it is open
    body

The front asks and gives credit; the collector answers no faster than it has credit for, so a client that
stops reading costs the frames already credited and the collector never buffers an answer.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, NamedTuple

import msgspec

from common.errors import FrameTooLarge, MessageError

_HEADER: Final = struct.Struct("<IBI")
_QUESTION: Final = struct.Struct("<BI")

INITIAL_CREDIT: Final = 2
"""Frames the collector may send unasked: one on its way to the client while it makes the next."""

MAX_REQUEST: Final = 2**32 - 1


class LinkError(MessageError):
    """Bytes on the line that the other process cannot have meant."""


class Kind(IntEnum):
    """What a line message is."""

    ASK = 1
    CANCEL = 2
    CREDIT = 3
    PART = 4
    LAST = 5
    STOPPED = 6
    """The last frame of an answer that was cancelled before it was complete."""
    HELLO = 7


class LinkMessage(NamedTuple):
    """One message of the line."""

    kind: Kind
    request: int
    body: bytes


class Question(NamedTuple):
    """The body of an ASK: a validated task and what the asker may see of it."""

    administrator: bool
    frame_limit: int
    """Bytes an answer's frame may have, before the front adds its own fields."""
    task: bytes
    """An encoded, validated DetectionTask."""


class Hello(msgspec.Struct, frozen=True):
    """What a collector says once, when it is ready."""

    collector: str
    boot_id: str
    boot_time: int
    digests: tuple[str, ...]
    retained_capabilities: tuple[str, ...] = ()
    confined: bool = False
    limitations: tuple[str, ...] = ()


def encode(kind: Kind, request: int, body: bytes = b"") -> bytes:
    """One message for the line."""
    return _HEADER.pack(len(body), kind, request) + body


def encode_question(question: Question) -> bytes:
    """The body of an ASK."""
    return _QUESTION.pack(question.administrator, question.frame_limit) + question.task


def decode_question(body: bytes) -> Question:
    """The question in an ASK's body. Raises: LinkError."""
    if len(body) < _QUESTION.size:
        raise LinkError(f"question of {len(body)} bytes")
    administrator, frame_limit = _QUESTION.unpack_from(body)
    return Question(bool(administrator), frame_limit, body[_QUESTION.size :])


def encode_hello(hello: Hello) -> bytes:
    """The body of a HELLO."""
    return msgspec.json.encode(hello)


def decode_hello(body: bytes) -> Hello:
    """The greeting in a HELLO's body. Raises: LinkError."""
    try:
        return msgspec.json.decode(body, type=Hello)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise LinkError(f"greeting: {error}") from None


class LinkDecoder:
    """Takes the line's bytes in any portions and gives back whole messages."""

    def __init__(self, max_body: int) -> None:
        self._max_body = max_body
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[LinkMessage]:
        """The messages completed by `data`. Raises: FrameTooLarge, LinkError."""
        buffer = self._buffer
        buffer += data
        found: list[LinkMessage] = []
        start = 0
        while len(buffer) - start >= _HEADER.size:
            length, kind, request = _HEADER.unpack_from(buffer, start)
            if length > self._max_body:
                raise FrameTooLarge(length, self._max_body)
            end = start + _HEADER.size + length
            if len(buffer) < end:
                break
            body = bytes(memoryview(buffer)[start + _HEADER.size : end])
            try:
                found.append(LinkMessage(Kind(kind), request, body))
            except ValueError:
                raise LinkError(f"message of kind {kind}") from None
            start = end
        if start:
            del buffer[:start]
        return found

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
from common.messages import EventSource, ProcessEventKind

_HEADER: Final = struct.Struct("<IBI")
_QUESTION: Final = struct.Struct("<BIB")
_RESUME: Final = struct.Struct("<B")

INITIAL_CREDIT: Final = 2
"""Frames the collector may send unasked: one on its way to the client while it makes the next."""

MAX_REQUEST: Final = 2**32 - 1

MAX_RESUME_BYTES: Final = 128
"""Of what a collector says about how far a live answer got: a few counters. Less than the room that the front
keeps for its own fields in every frame."""


QUESTION_OVERHEAD: Final = _QUESTION.size + MAX_RESUME_BYTES
"""What an ASK's body may have beside the task, which may fill a peer's frame."""
LIVE_OVERHEAD: Final = _RESUME.size + MAX_RESUME_BYTES
"""What a LIVE's body may have beside the frame."""


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
    """What the collector says of itself: first of all, and again when it has changed."""
    LIVE = 8
    """A PART of an answer without an end, with what the next collector needs to go on from there."""


_KINDS: Final[dict[int, Kind]] = {kind.value: kind for kind in Kind}


_SOURCES: Final = frozenset(EventSource)
_EVENT_KINDS: Final = frozenset(ProcessEventKind)


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
    resume: bytes = b""
    """What the last LIVE message of the answer said, when its collector was lost; else empty."""


class SourceReport(msgspec.Struct, frozen=True):
    """Where live events come from, and what became of them since the collector started to count."""

    source: int = 0
    """EventSource."""
    reason: str = ""
    """Why not a better one, and what it does not see."""
    delivered: int = 0
    """Events handed to subscribers, counted once for each of them."""
    losses: tuple[tuple[str, int, int], ...] = ()
    """(reason, ProcessEventKind, count) of what is missing, by the kernel's count and by subscribers'."""


class Hello(msgspec.Struct, frozen=True):
    """What a collector says once, when it is ready."""

    collector: str
    boot_id: str
    boot_time: int
    digests: tuple[str, ...]
    retained_capabilities: tuple[str, ...] = ()
    confined: bool = False
    limitations: tuple[str, ...] = ()
    events: SourceReport = SourceReport()


def encode(kind: Kind, request: int, *body: bytes) -> bytes:
    """One message for the line, its body in pieces: a question may be large, and is copied once."""
    return b"".join((_HEADER.pack(sum(map(len, body)), kind, request), *body))


def question_parts(question: Question) -> tuple[bytes, bytes, bytes]:
    """The body of an ASK, for `encode`."""
    resume = question.resume
    head = _QUESTION.pack(question.administrator, question.frame_limit, len(resume))
    return head, resume, question.task


def encode_question(question: Question) -> bytes:
    """The body of an ASK in one piece."""
    return b"".join(question_parts(question))


def decode_question(body: bytes) -> Question:
    """The question in an ASK's body. Raises: LinkError."""
    if len(body) < _QUESTION.size:
        raise LinkError(f"question of {len(body)} bytes")
    administrator, frame_limit, length = _QUESTION.unpack_from(body)
    task = _QUESTION.size + length
    if task > len(body):
        raise LinkError(f"question of {len(body)} bytes")
    return Question(bool(administrator), frame_limit, body[task:], body[_QUESTION.size : task])


def encode_live(resume: bytes, frame: bytes) -> bytes:
    """The body of a LIVE; `resume` has at most MAX_RESUME_BYTES."""
    return _RESUME.pack(len(resume)) + resume + frame


def decode_live(body: bytes) -> tuple[bytes, bytes]:
    """(resume, frame) of a LIVE's body. Raises: LinkError."""
    length = body[0] if body else len(body)
    if length >= len(body) or length > MAX_RESUME_BYTES:
        raise LinkError(f"live message of {len(body)} bytes")
    return body[1 : length + 1], body[length + 1 :]


def encode_hello(hello: Hello) -> bytes:
    """The body of a HELLO."""
    return msgspec.json.encode(hello)


def decode_hello(body: bytes) -> Hello:
    """The greeting in a HELLO's body. Raises: LinkError."""
    try:
        hello = msgspec.json.decode(body, type=Hello)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise LinkError(f"greeting: {error}") from None
    kinds = {kind for _, kind, _ in hello.events.losses}
    if hello.events.source not in _SOURCES or not kinds <= _EVENT_KINDS:
        raise LinkError(f"greeting: event source {hello.events.source}, losses of kinds {sorted(kinds)}")
    return hello


class LinkDecoder:
    """Takes the line's bytes in any portions and gives back whole messages."""

    def __init__(self, max_body: int) -> None:
        self._max_body = max_body
        self._rest = b""

    def feed(self, data: bytes) -> list[LinkMessage]:
        """The messages completed by `data`. Raises: FrameTooLarge, LinkError."""
        rest = self._rest + data if self._rest else data
        found: list[LinkMessage] = []
        start = 0
        while len(rest) - start >= _HEADER.size:
            length, number, request = _HEADER.unpack_from(rest, start)
            if length > self._max_body:
                raise FrameTooLarge(length, self._max_body)
            begin = start + _HEADER.size
            end = begin + length
            if len(rest) < end:
                break
            kind = _KINDS.get(number)
            if kind is None:
                raise LinkError(f"message of kind {number}")
            found.append(LinkMessage(kind, request, rest[begin:end]))
            start = end
        self._rest = rest[start:]
        return found

"""Streams from strangers. One rule: FrameError is the only error, and where portions end changes nothing."""

from __future__ import annotations

from common.errors import FrameError
from common.framing import FrameDecoder, encode_frame
from tests.fuzz.corpus import RESULTS, TASKS

SEEDS = (
    encode_frame(TASKS[0]),
    encode_frame(TASKS[1]) + encode_frame(TASKS[2]),
    b"".join(map(encode_frame, (*TASKS, *RESULTS))),
    encode_frame(b"x"),
    encode_frame(bytes(4096)),
)

_LIMIT = 4096


def target(data: bytes) -> None:
    """The bytes as a stream, whole and in portions; then as the payload of a frame of ours."""
    whole = _decoded([data])
    size = 1 + data[0] if data else 1
    for step in {1, size}:
        if _decoded([data[n : n + step] for n in range(0, len(data), step)]) != whole:
            raise AssertionError(f"portions of {step} bytes give something else")
    payload = data[:_LIMIT] or b"\0"
    if FrameDecoder(_LIMIT).feed(encode_frame(payload, _LIMIT)) != [payload]:
        raise AssertionError("a frame of ours is not read back")


def _decoded(portions: list[bytes]) -> tuple[list[bytes], str]:
    """The payloads, and the error that the stream ends with."""
    decoder = FrameDecoder(_LIMIT)
    found: list[bytes] = []
    try:
        for portion in portions:
            found += decoder.feed(portion)
        decoder.finish()
    except FrameError as error:
        return found, str(error)
    return found, ""

"""Results from a server that may be anyone's. One rule: DecodeError is the only error."""

from __future__ import annotations

from common.codec import decode_result, encode_result
from common.errors import DecodeError, error_for
from tests.fuzz.corpus import RESULTS

SEEDS = RESULTS


def target(data: bytes) -> None:
    """As a client takes a payload."""
    try:
        result = decode_result(data)
    except DecodeError:
        return
    again = encode_result(result)
    # Bytes, because a float that is not a number equals nothing.
    if encode_result(decode_result(again)) != again:
        raise AssertionError("something was lost on the way back")
    message = result.error_message or ""
    if str(error_for(result.error_code, message)) != message:
        raise AssertionError("the sentence was changed")

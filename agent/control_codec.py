"""The control socket's messages: bytes to frozen values and back. One rule: only a typed error comes out.

The only module that imports the code generated from proto/control.proto.
"""

from __future__ import annotations

from typing import Final

from agent import control_messages as messages
from common.conversion import Conversion
from common.pb import control_pb2 as pb

_CONVERSION: Final = Conversion(messages, pb)

decode_request: Final = _CONVERSION.decoder(messages.ControlRequest)
"""The request in a frame's payload. Raises: DecodeError."""

decode_response: Final = _CONVERSION.decoder(messages.ControlResponse)
"""The response in a frame's payload. Raises: DecodeError."""


def encode(value: messages.ControlRequest | messages.ControlResponse) -> bytes:
    """The wire bytes. Raises: ValueError, TypeError when a value does not fit its field."""
    return _CONVERSION.encode(value)

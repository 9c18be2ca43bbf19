"""The wire's messages: bytes to frozen values and back. One rule: only a typed error comes out.

Beside `procmond/collect/records.py`, which builds records at speed, the only module that imports the code
generated from proto/ipc.proto.
"""

from __future__ import annotations

from typing import Final, TypeVar

from common import messages
from common.conversion import Conversion
from common.pb import ipc_pb2 as pb

_M = TypeVar("_M", bound=messages.Message)

# In messages a client sends, an unknown number is kept and answered; see common.messages.
_CONVERSION: Final = Conversion(
    messages,
    pb,
    kept_as_integer=(
        "DetectionTask.task_type",
        "CollectionOptions.event_kinds",
        "CapabilityRequest.requested_domains",
    ),
)

_TASK_ID_TAG: Final = bytes([pb.DetectionResult.TASK_ID_FIELD_NUMBER << 3 | 2])
_ONE_BYTE_LENGTH: Final = 128
"""Lengths below it take one byte (https://protobuf.dev/programming-guides/encoding)."""

_decode_task: Final = _CONVERSION.decoder(messages.DetectionTask)
_renew_task: Final = _CONVERSION.renewer(messages.DetectionTask)
_decode_result: Final = _CONVERSION.decoder(messages.DetectionResult)


def encode_task(task: messages.DetectionTask) -> bytes:
    """The wire bytes of a task. Raises: ValueError, TypeError when a value does not fit its field."""
    return _CONVERSION.encode(task)


def decode_task(payload: bytes) -> messages.DetectionTask:
    """The task in a frame's payload; its bounds are `common.validate`'s to check.

    Raises: DecodeError.
    """
    return _decode_task(payload)


def renew_task(payload: bytes) -> bytes:
    """The bytes of the task in a frame's payload, written anew: no field in them but the schema's.

    Raises: DecodeError.
    """
    return _renew_task(payload)


def encode_result(result: messages.DetectionResult) -> bytes:
    """The wire bytes of a result. Raises: ValueError, TypeError when a value does not fit its field."""
    return _CONVERSION.encode(result)


def decode_result(payload: bytes) -> messages.DetectionResult:
    """The result in a frame's payload. Raises: DecodeError."""
    return _decode_result(payload)


def encode_envelope(task_id: str, sequence: int, *, more: bool) -> bytes:
    """The three fields of a result that the front adds to the collector's bytes: cheap, once a frame."""
    name = task_id.encode()
    if not sequence and not more and len(name) < _ONE_BYTE_LENGTH:  # most answers are one frame
        return _TASK_ID_TAG + bytes((len(name),)) + name
    return pb.DetectionResult(task_id=task_id, sequence=sequence, more=more).SerializeToString()


def encode(value: messages.Message) -> bytes:
    """The wire bytes of any one message of the schema."""
    return _CONVERSION.encode(value)


def decode(value_type: type[_M], payload: bytes) -> _M:
    """Any one message of the schema from its bytes. Raises: DecodeError."""
    return _CONVERSION.decode(value_type, payload)

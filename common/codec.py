"""Bytes to frozen values and back. One rule: nothing is lost, and only a typed error comes out.

The tables below are derived from the schema's own descriptors at import, so that a field which
common.messages and proto/ipc.proto do not both have stops the import instead of vanishing in silence.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from operator import attrgetter
from typing import Any, Final, NamedTuple, TypeVar, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError as ProtobufDecodeError
from google.protobuf.message import Message as ProtobufMessage

from common import messages
from common.errors import DecodeError
from common.pb import ipc_pb2 as pb

_M = TypeVar("_M", bound=messages.Message)

_ENUMS: Final[dict[str, type[IntEnum]]] = {
    kind.__name__: kind
    for kind in (
        messages.ErrorCode,
        messages.ProcessStatus,
        messages.HashState,
        messages.Provenance,
        messages.HashVerdict,
        messages.ProcessEventKind,
        messages.MonitoringDomain,
        messages.EventSource,
        messages.Permission,
        messages.TaskType,
    )
}

# In messages a client sends, an unknown number is kept and answered; see common.messages.
_KEPT_AS_INTEGER: Final = frozenset(
    {"DetectionTask.task_type", "CollectionOptions.event_kinds", "CapabilityRequest.requested_domains"}
)


class _Field(NamedTuple):
    name: str
    number: int
    unset: object
    """The value that is not written; None where presence is told apart from the zero value."""
    decode: Callable[[Any], Any] | None
    build: Callable[[Any], Any] | None


class _Plan:
    """How one message is converted: its two classes and its fields."""

    def __init__(self, value_type: type[messages.Message], wire_type: type[ProtobufMessage]) -> None:
        self.value_type = value_type
        self.wire_type = wire_type
        self.fields: list[_Field] = []
        self.decoders: dict[int, tuple[str, Callable[[Any], Any] | None]] = {}
        # All fields in one call, in the order of `fields`; a message of one field would give no tuple.
        self._values_of: Callable[[messages.Message], tuple[Any, ...]] = attrgetter(
            *(field.name for field in wire_type.DESCRIPTOR.fields)
        )

    def decode(self, wire: ProtobufMessage) -> Any:
        """The frozen value of a parsed message."""
        decoders = self.decoders
        values = {}
        for descriptor, value in wire.ListFields():
            name, convert = decoders[descriptor.number]
            values[name] = value if convert is None else convert(value)
        return self.value_type(**values)

    def build(self, value: messages.Message) -> ProtobufMessage:
        """The protobuf message of a frozen value.

        Raises: ValueError, TypeError when a field's value does not fit its wire type.
        """
        wire = {}
        for item, (name, _, unset, _, build) in zip(self._values_of(value), self.fields, strict=True):
            if item is None or item == unset:
                continue
            wire[name] = item if build is None else build(item)
        return self.wire_type(**wire)


def _enum_decoder(kind: type[IntEnum], *, repeated: bool) -> Callable[[Any], Any]:
    members = {member.value: member for member in kind}
    if repeated:
        return lambda values: tuple(members[value] for value in values if value in members)
    unspecified = members[0]
    return lambda value: members.get(value, unspecified)


def _repeated_decoder(plan: _Plan) -> Callable[[Any], Any]:
    decode = plan.decode
    return lambda items: tuple([decode(item) for item in items])


def _repeated_builder(plan: _Plan) -> Callable[[Any], Any]:
    build = plan.build
    return lambda items: [build(item) for item in items]


def _field(
    owner: str, descriptor: FieldDescriptor, plan_of: Callable[[Descriptor], _Plan], default: object
) -> _Field:
    repeated = descriptor.is_repeated
    decode: Callable[[Any], Any] | None = None
    build: Callable[[Any], Any] | None = None
    if descriptor.message_type is not None:
        nested = plan_of(descriptor.message_type)
        decode = _repeated_decoder(nested) if repeated else nested.decode
        build = _repeated_builder(nested) if repeated else nested.build
    elif descriptor.enum_type is not None and f"{owner}.{descriptor.name}" not in _KEPT_AS_INTEGER:
        decode = _enum_decoder(_ENUMS[descriptor.enum_type.name], repeated=repeated)
    elif repeated:
        decode = tuple
    unset = None if descriptor.has_presence and not repeated else default
    return _Field(descriptor.name, descriptor.number, unset, decode, build)


_plans: dict[str, _Plan] = {}


def _plan_of(descriptor: Descriptor) -> _Plan:
    """The plan of a message, made once. Raises: RuntimeError when value type and schema differ."""
    name = descriptor.name
    if name in _plans:
        return _plans[name]
    value_type: type[messages.Message] = getattr(messages, name)
    plan = _plans[name] = _Plan(value_type, getattr(pb, name))
    names = tuple(field.name for field in descriptor.fields)
    if set(names) != set(value_type.__struct_fields__):
        raise RuntimeError(f"{name}: common/messages.py and proto/ipc.proto disagree on its fields")
    default = value_type()
    for field in descriptor.fields:
        entry = _field(name, field, _plan_of, getattr(default, field.name))
        plan.fields.append(entry)
        plan.decoders[field.number] = (entry.name, entry.decode)
    return plan


_TASK: Final = _plan_of(cast(Descriptor, pb.DetectionTask.DESCRIPTOR))
_RESULT: Final = _plan_of(cast(Descriptor, pb.DetectionResult.DESCRIPTOR))


def encode_task(task: messages.DetectionTask) -> bytes:
    """The wire bytes of a task. Raises: ValueError, TypeError when a value does not fit its field."""
    return _TASK.build(task).SerializeToString()


def decode_task(payload: bytes) -> messages.DetectionTask:
    """The task in a frame's payload; its bounds are `common.validate`'s to check.

    Raises: DecodeError.
    """
    task: messages.DetectionTask = _decode(_TASK, payload)
    return task


def encode_result(result: messages.DetectionResult) -> bytes:
    """The wire bytes of a result. Raises: ValueError, TypeError when a value does not fit its field."""
    return _RESULT.build(result).SerializeToString()


def decode_result(payload: bytes) -> messages.DetectionResult:
    """The result in a frame's payload. Raises: DecodeError."""
    result: messages.DetectionResult = _decode(_RESULT, payload)
    return result


def encode_envelope(task_id: str, sequence: int, *, more: bool) -> bytes:
    """The three fields of a result that the front adds to the collector's bytes: cheap, once a frame."""
    return pb.DetectionResult(task_id=task_id, sequence=sequence, more=more).SerializeToString()


def encode(value: messages.Message) -> bytes:
    """The wire bytes of any one message of the schema."""
    return _plans[type(value).__name__].build(value).SerializeToString()


def decode(value_type: type[_M], payload: bytes) -> _M:
    """Any one message of the schema from its bytes. Raises: DecodeError."""
    value: _M = _decode(_plans[value_type.__name__], payload)
    return value


def _decode(plan: _Plan, payload: bytes) -> Any:
    wire = plan.wire_type()
    try:
        wire.ParseFromString(payload)
    except ProtobufDecodeError as error:
        raise DecodeError(plan.value_type.__name__, str(error)) from None
    return plan.decode(wire)

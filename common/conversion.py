"""Protobuf messages to frozen values and back, by the schema's own descriptors. One rule: nothing is lost.

The tables are made when a Conversion is, so that a field which the value types and the .proto file do not
both have stops the import instead of vanishing in silence. The generated module is handed in by the one
module that imports it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from enum import IntEnum
from operator import attrgetter
from types import ModuleType
from typing import Any, Final, NamedTuple, TypeVar, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError as ProtobufDecodeError
from google.protobuf.message import Message as ProtobufMessage

from common.errors import DecodeError
from common.messages import Message

_M = TypeVar("_M", bound=Message)


class _Field(NamedTuple):
    name: str
    number: int
    unset: object
    """The value that is not written; None where presence is told apart from the zero value."""
    decode: Callable[[Any], Any] | None
    build: Callable[[Any], Any] | None


class _Plan:
    """How one message is converted: its two classes and its fields."""

    def __init__(self, value_type: type[Message], wire_type: type[ProtobufMessage]) -> None:
        self.value_type = value_type
        self.wire_type = wire_type
        self.fields: list[_Field] = []
        self.decoders: dict[int, tuple[str, Callable[[Any], Any] | None]] = {}
        # All fields in one call, in the order of `fields`; a message of one field would give no tuple.
        self._values_of: Callable[[Message], tuple[Any, ...]] = attrgetter(
            *(field.name for field in wire_type.DESCRIPTOR.fields)
        )

    def parse(self, payload: bytes) -> ProtobufMessage:
        """The protobuf message in `payload`. Raises: DecodeError."""
        wire = self.wire_type()
        try:
            wire.ParseFromString(payload)
        except ProtobufDecodeError as error:
            raise DecodeError(self.value_type.__name__, str(error)) from None
        return wire

    def decode(self, wire: ProtobufMessage) -> Any:
        """The frozen value of a parsed message."""
        decoders = self.decoders
        values = {}
        for descriptor, value in wire.ListFields():
            name, convert = decoders[descriptor.number]
            values[name] = value if convert is None else convert(value)
        return self.value_type(**values)

    def build(self, value: Message) -> ProtobufMessage:
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


class Conversion:
    """One schema: `values` holds its value types and enums, `generated` is protoc's module, with one's names.

    An enum's number that `values` does not know reads as its zero, and is left out of a list; the fields
    named in `kept_as_integer` (`Message.field`) keep it. Raises: RuntimeError when the two disagree on a
    field.
    """

    def __init__(
        self, values: ModuleType, generated: ModuleType, *, kept_as_integer: Collection[str] = ()
    ) -> None:
        self._values = values
        self._generated = generated
        self._kept_as_integer: Final = frozenset(kept_as_integer)
        self._plans: dict[str, _Plan] = {}
        for descriptor in generated.DESCRIPTOR.message_types_by_name.values():
            self._plan_of(cast(Descriptor, descriptor))

    def encode(self, value: Message) -> bytes:
        """The wire bytes of a message. Raises: ValueError, TypeError when a value does not fit its field."""
        return self._plans[type(value).__name__].build(value).SerializeToString()

    def decode(self, value_type: type[_M], payload: bytes) -> _M:
        """A message from its bytes. Raises: DecodeError."""
        return self.decoder(value_type)(payload)

    def decoder(self, value_type: type[_M]) -> Callable[[bytes], _M]:
        """What decodes one kind of message, for those who decode many. It raises DecodeError."""
        plan = self._plans[value_type.__name__]
        return lambda payload: cast(_M, plan.decode(plan.parse(payload)))

    def renewer(self, value_type: type[Message]) -> Callable[[bytes], bytes]:
        """What writes one kind of message anew, without fields the schema does not have. It raises
        DecodeError.
        """
        plan = self._plans[value_type.__name__]

        def renew(payload: bytes) -> bytes:
            wire = plan.parse(payload)
            wire.DiscardUnknownFields()
            return wire.SerializeToString()

        return renew

    def _plan_of(self, descriptor: Descriptor) -> _Plan:
        """The plan of a message, made once."""
        name = descriptor.name
        if name in self._plans:
            return self._plans[name]
        value_type: type[Message] = getattr(self._values, name)
        plan = self._plans[name] = _Plan(value_type, getattr(self._generated, name))
        names = {field.name for field in descriptor.fields}
        if names != set(value_type.__struct_fields__):
            raise RuntimeError(
                f"{name}: {self._values.__name__} and {descriptor.file.name} disagree on its fields"
            )
        default = value_type()
        for field in descriptor.fields:
            entry = self._field(name, field, getattr(default, field.name))
            plan.fields.append(entry)
            plan.decoders[field.number] = (entry.name, entry.decode)
        return plan

    def _field(self, owner: str, descriptor: FieldDescriptor, default: object) -> _Field:
        repeated = descriptor.is_repeated
        decode: Callable[[Any], Any] | None = None
        build: Callable[[Any], Any] | None = None
        if descriptor.message_type is not None:
            nested = self._plan_of(descriptor.message_type)
            decode = _repeated_decoder(nested) if repeated else nested.decode
            build = _repeated_builder(nested) if repeated else nested.build
        elif descriptor.enum_type is not None and f"{owner}.{descriptor.name}" not in self._kept_as_integer:
            decode = _enum_decoder(getattr(self._values, descriptor.enum_type.name), repeated=repeated)
        elif repeated:
            decode = tuple
        unset = None if descriptor.has_presence and not repeated else default
        return _Field(descriptor.name, descriptor.number, unset, decode, build)

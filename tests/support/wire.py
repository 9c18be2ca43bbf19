"""Any value the contract allows, drawn by hypothesis. One rule: derived from the schema, field by field."""

from __future__ import annotations

from typing import Any, Final, TypeVar, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import strategies as st

from common import messages
from common.pb import ipc_pb2 as pb

_M = TypeVar("_M", bound=messages.Message)

_INTEGERS: Final = {
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63 - 1),
}

MESSAGE_TYPES: Final[tuple[type[messages.Message], ...]] = tuple(
    getattr(messages, name) for name in sorted(pb.DESCRIPTOR.message_types_by_name)
)
"""Every message of the schema, as a value type."""


def integers(field: FieldDescriptor) -> st.SearchStrategy[int]:
    """Any number the field's wire type holds, its two ends often."""
    least, most = _INTEGERS[field.type]
    return st.sampled_from((0, 1, least, most)) | st.integers(least, most)


def scalars(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    """Any value of a field that is neither a message nor an enum."""
    if field.type in _INTEGERS:
        return integers(field)
    if field.type == FieldDescriptor.TYPE_STRING:
        return st.text(max_size=12)
    if field.type == FieldDescriptor.TYPE_BOOL:
        return st.booleans()
    assert field.type == FieldDescriptor.TYPE_DOUBLE, f"{field.full_name}: no strategy for its type"
    return st.floats(allow_nan=False)


def values(value_type: type[_M], *, known: bool = True) -> st.SearchStrategy[_M]:
    """Any value of a message. `known`: enums only hold members this version knows."""
    descriptor = cast(Descriptor, getattr(pb, value_type.__name__).DESCRIPTOR)
    fields = {field.name: _field(field, known=known) for field in descriptor.fields}
    # A field left out has its default, so that examples stay small though messages have fifty fields.
    return st.fixed_dictionaries({}, optional=fields).map(lambda chosen: value_type(**chosen))


def _field(field: FieldDescriptor, *, known: bool) -> st.SearchStrategy[Any]:
    one: st.SearchStrategy[Any]
    if field.message_type is not None:
        nested = getattr(messages, field.message_type.name)
        one = st.deferred(lambda: values(nested, known=known))
    elif field.enum_type is not None:
        kind = getattr(messages, field.enum_type.name)
        one = st.sampled_from(tuple(kind)) if known else st.integers(-(2**31), 2**31 - 1)
    else:
        one = scalars(field)
    if field.is_repeated:
        return st.lists(one, max_size=3).map(tuple)
    return st.none() | one if field.has_presence else one

"""proto/ipc.proto against the contract as released, and against a peer that knows only the specification."""

from __future__ import annotations

from enum import IntEnum
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.message import Message as ProtobufMessage
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common import codec, messages
from common.messages import DetectionResult, DetectionTask, Message
from common.pb import ipc_pb2 as pb
from tests.common.contract import CONTRACT
from tests.common.specification import specification_classes
from tests.support.wire import scalars, values

SPECIFIED = specification_classes()

_large = settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow], deadline=None)

# ------------------------------------------------------------------------------------------- as released

_TYPES = {
    getattr(FieldDescriptor, name): name.removeprefix("TYPE_").lower()
    for name in vars(FieldDescriptor)
    if name.startswith("TYPE_")
}


def rendered(file: FileDescriptor) -> str:
    """The schema in the notation of tests/common/contract.py."""
    declared = FileDescriptorProto()
    file.CopyToProto(declared)
    lines = []
    for name, message in file.message_types_by_name.items():
        lines.append(f"message {name}")
        reserved = next(entry for entry in declared.message_type if entry.name == name).reserved_range
        lines += [f"    reserved {span.start} {span.end - 1}" for span in reserved]
        lines += [f"    {rendered_field(field)}" for field in message.fields]
    for name, enum in file.enum_types_by_name.items():
        lines.append(f"enum {name}")
        spans = next(entry for entry in declared.enum_type if entry.name == name).reserved_range
        lines += [f"    reserved {span.start} {span.end}" for span in spans]
        lines += [f"    {value.number} {value.name}" for value in enum.values]
    return "\n".join(lines) + "\n"


def rendered_field(field: FieldDescriptor) -> str:
    label = "repeated " if field.is_repeated else "optional " if field.has_presence else ""
    kind = field.message_type or field.enum_type
    return f"{field.number} {label}{kind.name if kind else _TYPES[field.type]} {field.name}"


def test_no_number_name_type_or_label_has_changed() -> None:
    assert rendered(pb.DESCRIPTOR).splitlines() == CONTRACT.splitlines()


def test_package_and_registered_name_clash_with_nobodys() -> None:
    assert pb.DESCRIPTOR.package == "daemoneye.ipc.v1"
    assert pb.DESCRIPTOR.name == "common/pb/ipc.proto"


def test_the_proto_folder_holds_schemas_only() -> None:
    folder = Path(__file__).parents[2] / "proto"
    assert {path.suffix for path in folder.iterdir()} == {".proto"}


@pytest.mark.parametrize("name", sorted(pb.DESCRIPTOR.enum_types_by_name))
def test_native_enums_have_the_schemas_numbers_and_its_names_without_prefix(name: str) -> None:
    native: type[IntEnum] = getattr(messages, name)
    prefix = (
        "".join(f"_{letter}" if letter.isupper() else letter for letter in name).lstrip("_").upper() + "_"
    )
    declared = pb.DESCRIPTOR.enum_types_by_name[name].values_by_name
    assert {member.name: member.value for member in native} == {
        text.removeprefix(prefix): value.number for text, value in declared.items()
    }


# ------------------------------------------------------------------- a peer that knows the specification


def specified_values(descriptor: Descriptor) -> st.SearchStrategy[Any]:
    """Any message of the specification, as its own class."""
    fields = {field.name: specified_field(field) for field in descriptor.fields}
    return st.fixed_dictionaries({}, optional=fields).map(lambda chosen: SPECIFIED[descriptor.name](**chosen))


def specified_field(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.message_type is not None:
        one = specified_values(field.message_type)
    elif field.enum_type is not None:
        one = st.sampled_from(sorted(field.enum_type.values_by_number))
    else:
        one = scalars(field)
    return st.lists(one, max_size=3) if field.is_repeated else one


def assert_same(specified: ProtobufMessage, value: Message) -> None:
    """Every field of the specification is the same on both sides, unset ones included."""
    for field in specified.DESCRIPTOR.fields:
        theirs, ours = getattr(specified, field.name), getattr(value, field.name)
        if field.is_repeated:
            assert len(theirs) == len(ours)
            pairs = list(zip(theirs, ours, strict=True))
        elif field.has_presence and not specified.HasField(field.name):
            assert ours is None, field.full_name
            pairs = []
        else:
            pairs = [(theirs, ours)]
        for one, other in pairs:
            if field.message_type is not None:
                assert_same(one, other)
            else:
                assert one == other, field.full_name


def test_the_specifications_numbers_names_and_types_are_ours() -> None:
    for name, kind in SPECIFIED.items():
        theirs = {rendered_field(field) for field in kind.DESCRIPTOR.fields}
        assert theirs <= {rendered_field(field) for field in pb.DESCRIPTOR.message_types_by_name[name].fields}


@_large
@given(data=st.data())
def test_a_task_of_the_specification_is_the_same_task_here(data: st.DataObject) -> None:
    task = data.draw(specified_values(SPECIFIED["DetectionTask"].DESCRIPTOR))
    decoded = codec.decode_task(task.SerializeToString())
    assert_same(task, decoded)
    assert (decoded.stream, decoded.deadline_ms, decoded.options) == (False, 0, None)


@_large
@given(data=st.data())
def test_a_result_of_the_specification_is_the_same_result_here(data: st.DataObject) -> None:
    result = data.draw(specified_values(SPECIFIED["DetectionResult"].DESCRIPTOR))
    decoded = codec.decode_result(result.SerializeToString())
    assert_same(result, decoded)
    assert (decoded.more, decoded.summary, decoded.boot_id) == (False, None, "")


@_large
@given(task=values(DetectionTask))
def test_our_task_is_the_same_task_to_a_peer_of_the_specification(task: DetectionTask) -> None:
    assert_same(SPECIFIED["DetectionTask"].FromString(codec.encode_task(task)), task)


@_large
@given(result=values(DetectionResult))
def test_our_result_is_the_same_result_to_a_peer_of_the_specification(result: DetectionResult) -> None:
    assert_same(SPECIFIED["DetectionResult"].FromString(codec.encode_result(result)), result)

"""common.codec: round trips that lose nothing, and one error for bytes that are no message."""

from __future__ import annotations

import pytest
from google.protobuf import unknown_fields
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common import codec
from common.codec import decode_result, decode_task, encode_result, encode_task
from common.errors import DecodeError
from common.messages import (
    CapabilityRequest,
    CapabilityResponse,
    CollectionCapabilities,
    CollectionOptions,
    DetectionResult,
    DetectionTask,
    ErrorCode,
    HashState,
    Loss,
    Message,
    MonitoringDomain,
    ProcessEventKind,
    ProcessRecord,
    TaskType,
)
from common.pb import ipc_pb2 as pb
from tests.support.wire import MESSAGE_TYPES, values

# Messages nest and have up to fifty fields: drawing one takes longer than hypothesis likes.
_large = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)


@pytest.mark.parametrize("kind", MESSAGE_TYPES, ids=lambda kind: kind.__name__)
@_large
@given(data=st.data())
def test_nothing_is_lost_on_the_way(kind: type[Message], data: st.DataObject) -> None:
    value = data.draw(values(kind))
    again = codec.decode(kind, codec.encode(value))
    assert again == value
    assert type(again) is kind


@_large
@given(task=values(DetectionTask, known=False))
def test_a_task_keeps_enum_numbers_this_version_does_not_know(task: DetectionTask) -> None:
    assert decode_task(encode_task(task)) == task


@_large
@given(task=values(DetectionTask), result=values(DetectionResult))
def test_the_two_messages_of_the_wire_are_those_of_the_generic_functions(
    task: DetectionTask, result: DetectionResult
) -> None:
    assert decode_task(encode_task(task)) == codec.decode(DetectionTask, codec.encode(task)) == task
    assert (
        decode_result(encode_result(result)) == codec.decode(DetectionResult, codec.encode(result)) == result
    )


@pytest.mark.parametrize(
    "record",
    [
        ProcessRecord(
            ppid=0, executable_path="", cpu_usage=0.0, memory_usage=0, reparented=False, login_uid=0
        ),
        ProcessRecord(
            start_ticks=2**64 - 1, login_uid=2**32 - 1, start_time=-(2**63), collection_time=2**63 - 1
        ),
        ProcessRecord(name="\U0001f980\x00\n\x1b[31m", command_line=("", "\\xff", "", "é", "\U0010ffff")),
        ProcessRecord(cpu_usage=float("inf"), cwd="/" * 4096),
        ProcessRecord(),
    ],
    ids=["zero is not unset", "largest numbers", "text", "odd values", "empty"],
)
def test_records_that_are_easily_got_wrong(record: ProcessRecord) -> None:
    assert codec.decode(ProcessRecord, codec.encode(record)) == record


def test_an_empty_message_is_no_bytes() -> None:
    assert encode_task(DetectionTask()) == b""
    assert decode_task(b"") == DetectionTask()


@pytest.mark.parametrize("number", [4, 99, 102, -1, 2**31 - 1])
def test_an_unknown_task_type_reaches_the_validator(number: int) -> None:
    payload = pb.DetectionTask(task_id="t", task_type=number).SerializeToString()  # type: ignore[arg-type]  # not a member on purpose
    assert decode_task(payload).task_type == number


def test_unknown_numbers_in_a_tasks_lists_are_kept() -> None:
    task = DetectionTask(
        options=CollectionOptions(event_kinds=(1, 77)),
        capability_request=CapabilityRequest(requested_domains=(0, 5)),
    )
    assert decode_task(encode_task(task)) == task


def test_an_unknown_number_in_a_result_reads_as_unspecified() -> None:
    wire = pb.DetectionResult(error_code=99)  # type: ignore[arg-type]  # not a member on purpose
    wire.processes.add(hash_state=77)
    wire.summary.losses.add(reason="new", kind=55)
    result = decode_result(wire.SerializeToString())
    assert result.error_code is ErrorCode.UNSPECIFIED
    assert result.processes[0].hash_state is HashState.UNSPECIFIED
    assert result.summary is not None
    assert result.summary.losses == (Loss(reason="new", kind=ProcessEventKind.UNSPECIFIED),)


def test_an_unknown_number_in_a_results_list_is_left_out_rather_than_taken_for_zero() -> None:
    wire = pb.CapabilityResponse(task_types=[0, 55, 101])  # type: ignore[list-item]  # not a member on purpose
    wire.capabilities.supported_domains.extend([9, 3])  # type: ignore[list-item]  # not a member on purpose
    assert codec.decode(CapabilityResponse, wire.SerializeToString()) == CapabilityResponse(
        task_types=(TaskType.ENUMERATE_PROCESSES, TaskType.CANCEL_TASK),
        capabilities=CollectionCapabilities(supported_domains=(MonitoringDomain.PERFORMANCE,)),
    )


def test_enums_of_a_result_are_members() -> None:
    result = decode_result(encode_result(DetectionResult(error_code=ErrorCode.BUSY)))
    assert isinstance(result.error_code, ErrorCode)


def test_unknown_fields_are_ignored() -> None:
    # Field 6 (reserved) as a varint, field 999 as bytes: what a newer client may say.
    payload = (
        encode_task(DetectionTask(task_id="t1")) + bytes.fromhex("3001") + bytes.fromhex("ba3e03") + b"new"
    )
    wire = pb.DetectionTask.FromString(payload)
    unknown = unknown_fields.UnknownFieldSet(wire)
    assert [unknown[n].field_number for n in range(len(unknown))] == [6, 999]
    assert decode_task(payload) == DetectionTask(task_id="t1")


def test_of_a_field_given_twice_the_last_counts_and_lists_grow() -> None:
    parts = [DetectionTask(task_id="a", deadline_ms=1), DetectionTask(task_id="b")]
    assert decode_task(b"".join(map(encode_task, parts))) == DetectionTask(task_id="b", deadline_ms=1)
    results = [DetectionResult(processes=(ProcessRecord(pid=n),)) for n in (1, 2)]
    merged = decode_result(b"".join(map(encode_result, results)))
    assert [record.pid for record in merged.processes] == [1, 2]


@pytest.mark.parametrize(
    "payload",
    ["0a", "0a05", "0a02ff", "0a01ff", "07", "0b", "ff" * 11, "1a01", "22020a05", "00"],
)
@pytest.mark.parametrize(
    ("decode", "name"), [(decode_task, "DetectionTask"), (decode_result, "DetectionResult")]
)
def test_bytes_that_are_no_message_are_one_error(payload: str, decode: object, name: str) -> None:
    assert callable(decode)
    with pytest.raises(DecodeError, match=f"^not a {name}: ") as caught:
        decode(bytes.fromhex(payload))
    assert caught.value.message == name


def test_nesting_without_end_is_refused() -> None:
    # A group within a group, 100,000 deep: field 15, wire type 3.
    with pytest.raises(DecodeError):
        decode_task(b"\x7b" * 100_000)


@_large
@given(payload=st.binary(max_size=200))
def test_any_bytes_decode_or_are_a_decode_error(payload: bytes) -> None:
    for decode in (decode_task, decode_result):
        try:
            value = decode(payload)
        except DecodeError:
            continue
        assert codec.decode(type(value), codec.encode(value)) == value


@pytest.mark.parametrize(
    "value",
    [
        DetectionTask(task_id="\ud800"),
        DetectionTask(deadline_ms=-1),
        DetectionTask(deadline_ms=2**32),
        DetectionTask(task_type=2**31),
    ],
    ids=["lone surrogate", "negative", "too large", "enum too large"],
)
def test_what_does_not_fit_its_field_is_refused_by_the_encoder(value: DetectionTask) -> None:
    with pytest.raises((ValueError, TypeError)):
        encode_task(value)

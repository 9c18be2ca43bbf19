"""Encoded records."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.messages import HashState, ProcessEventKind, ProcessStatus
from common.pb import ipc_pb2 as pb
from procmond.collect.procfs_parse import MalformedProc
from procmond.collect.records import (
    Facts,
    encode_hash_facts,
    encode_life,
    encode_moment,
    encode_record,
    encode_time,
)


def test_every_fact_is_a_field_of_the_schema() -> None:
    assert Facts.__annotations__.keys() <= set(pb.ProcessRecord.DESCRIPTOR.fields_by_name)


def test_a_value_its_field_cannot_hold_is_malformed() -> None:
    with pytest.raises(MalformedProc):
        encode_record({"pid": 7, "threads": 2**32})


def test_parts_put_together_are_one_record() -> None:
    payload = (
        encode_record({"pid": 7, "command_line": ("a", "b"), "status": ProcessStatus.IDLE}, {"cwd": "denied"})
        + encode_record({}, environment={"LD_PRELOAD": "x"})
        + encode_moment(12.5, encode_time(1_700_000_000_123))
        + encode_hash_facts(
            {"md5": "aa"}, executable_hash="ff", hash_algorithm="sha256", hash_state=HashState.OK
        )
    )
    expected = pb.ProcessRecord(
        pid=7,
        command_line=["a", "b"],
        status=pb.PROCESS_STATUS_IDLE,
        exceptions=[pb.FieldProvenance(field=113, provenance=pb.PROVENANCE_MISSING, reason="denied")],
        environment=[pb.EnvironmentVariable(name="LD_PRELOAD", value="x")],
        cpu_usage=12.5,
        collection_time=1_700_000_000_123,
        executable_hash="ff",
        hash_algorithm="sha256",
        hash_state=pb.HASH_STATE_OK,
        digests=[pb.Digest(algorithm="md5", value="aa")],
    )
    assert pb.ProcessRecord.FromString(payload) == expected


def test_what_is_none_is_unset() -> None:
    record = pb.ProcessRecord.FromString(encode_record({"ppid": None, "login_uid": 0}))
    assert not record.HasField("ppid")
    assert record.HasField("login_uid")


@given(st.floats(allow_nan=False, min_value=0), st.integers(0, 2**63 - 1))
def test_what_differs_in_every_sweep_is_encoded_as_protobuf_does(usage: float, milliseconds: int) -> None:
    record = pb.ProcessRecord.FromString(encode_moment(usage, encode_time(milliseconds)))
    assert record.HasField("cpu_usage")
    assert math.isclose(record.cpu_usage, usage)
    assert record.collection_time == milliseconds


def test_an_event_of_a_life_tells_nothing_of_the_one_before() -> None:
    exited = encode_life(
        ProcessEventKind.EXIT, 5, 6, (7, 8), (1, 2), reparented=True, forker=(3, 4), ended=(9, 10)
    )
    assert pb.ProcessEvent.FromString(exited) == pb.ProcessEvent(
        kind=pb.PROCESS_EVENT_KIND_EXIT,
        boot_time_ns=5,
        wall_time_ms=6,
        pid=7,
        start_ticks=8,
        parent_pid=3,
        parent_start_ticks=4,
        exit_signal=9,
        run_time_ns=10,
        process=pb.ProcessRecord(pid=7, start_ticks=8, ppid=1, parent_start_ticks=2, reparented=True),
    )
    forked = encode_life(ProcessEventKind.FORK, 50, 60, (70, 80), None, reparented=None)
    assert pb.ProcessEvent.FromString(forked) == pb.ProcessEvent(
        kind=pb.PROCESS_EVENT_KIND_FORK,
        boot_time_ns=50,
        wall_time_ms=60,
        pid=70,
        start_ticks=80,
        process=pb.ProcessRecord(pid=70, start_ticks=80),
    )


@pytest.mark.parametrize(("status", "code"), [(0, 0), (3 << 8, 3), (255 << 8, 255)])
def test_a_status_without_a_signal_is_an_exit_code(status: int, code: int) -> None:
    event = pb.ProcessEvent.FromString(
        encode_life(ProcessEventKind.EXIT, 1, 1, (1, 1), None, reparented=None, ended=(status, 1))
    )
    assert (event.exit_code, event.HasField("exit_signal")) == (code, False)

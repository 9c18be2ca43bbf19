"""Encoded records."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.messages import HashState, ProcessStatus
from common.pb import ipc_pb2 as pb
from procmond.collect.procfs_parse import MalformedProc
from procmond.collect.records import (
    Facts,
    encode_hash_facts,
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

"""Programs get the schema's names, the exact values, and text that is one document."""

from __future__ import annotations

import csv
import io
import json

from hypothesis import given
from hypothesis import strategies as st

from agent.cli.columns import FIELD_NUMBERS
from agent.cli.formats import RECORD_FIELDS, SPECIFIED_FIELDS, csv_text, json_lines, json_text, plain
from common.messages import CapabilityResponse, DetectionResult, Digest, EventSource, ProcessRecord, TaskType
from common.pb import ipc_pb2
from tests.agent.cli.records import record


def test_the_names_and_numbers_are_the_schemas() -> None:
    fields = ipc_pb2.ProcessRecord.DESCRIPTOR.fields
    assert {field.name: field.number for field in fields} == FIELD_NUMBERS
    assert set(SPECIFIED_FIELDS) == {field.name for field in fields if field.number < 100}


def test_enums_are_short_and_lower_case() -> None:
    message = CapabilityResponse(
        event_source=EventSource.PROCESS_CONNECTOR, task_types=(TaskType.CANCEL_TASK,)
    )
    assert plain(message)["event_source"] == "process_connector"
    assert plain(message)["task_types"] == ["cancel_task"]


def test_unset_optional_fields_are_left_out_and_zeros_are_not() -> None:
    assert "ppid" not in plain(ProcessRecord(pid=1))
    assert plain(ProcessRecord(pid=1))["threads"] == 0
    assert plain(ProcessRecord(pid=1, ppid=0))["ppid"] == 0


def test_messages_nest() -> None:
    answer = DetectionResult(processes=(ProcessRecord(digests=(Digest(algorithm="md5", value="00"),)),))
    (process,) = json.loads(json_text(plain(answer)))["processes"]
    assert process["digests"] == [{"algorithm": "md5", "value": "00"}]


def test_large_integers_are_numbers() -> None:
    assert json.loads(json_text(plain(ProcessRecord(start_ticks=2**64 - 1))))["start_ticks"] == 2**64 - 1


@given(st.text(st.characters(codec="utf-8")))
def test_json_keeps_every_text_and_acts_on_no_terminal(text: str) -> None:
    written = json_text(plain(ProcessRecord(name=text)))
    assert json.loads(written)["name"] == text
    assert all(" " <= character <= "~" for character in written[:-1])


def test_json_lines_are_one_document_each() -> None:
    lines = json_lines([{"name": "a\nb"}, {"name": "c"}]).splitlines()
    assert [json.loads(line)["name"] for line in lines] == ["a\nb", "c"]


def test_csv_has_a_cell_per_field_empty_where_unset() -> None:
    row = plain(record(7, ppid=None, name='a,"b', cwd="/x\n\x1b", command_line=("a b", "c")))
    (header, cells) = csv.reader(io.StringIO(csv_text(RECORD_FIELDS, [row])))
    got = dict(zip(header, cells, strict=True))
    assert got["ppid"] == ""
    assert got["name"] == 'a,"b'
    assert got["cwd"] == "/x\\n\\x1b"
    assert json.loads(got["command_line"]) == ["a b", "c"]
    assert got["accessible"] == "true"
    assert got["status"] == "sleeping"
    assert got["start_ticks"] == "700"

"""Columns made for people, and any field of the schema."""

from __future__ import annotations

from datetime import UTC

import pytest

from agent.cli.columns import (
    ALIASES,
    DEFAULT_COLUMNS,
    View,
    columns_named,
    command,
    marks,
    sort_records,
    user,
)
from agent.cli.formats import RECORD_FIELDS
from common.errors import ConfigError
from common.messages import (
    EnvironmentVariable,
    FieldProvenance,
    HashState,
    ProcessRecord,
    ProcessStatus,
    Provenance,
)
from tests.agent.cli.records import NOW, kernel_thread, record

VIEW = View(now=NOW, zone=UTC)
EXHAUSTED = FieldProvenance(field=2, provenance=Provenance.MISSING, reason="exhausted")


def texts(process: ProcessRecord, *names: str, view: View = VIEW) -> list[str]:
    return [column.cell(process, view).text for column in columns_named(names)]


def test_the_default_columns_read_well() -> None:
    process = record(42, memory_usage=3 * 1024**2, cpu_usage=12.345)
    assert texts(process, *DEFAULT_COLUMNS) == [
        "42",
        "alice",
        "07:00:42",
        "12.3",
        "3.0M",
        "000000000000",
        "",
        "/usr/bin/worker42 --serve",
    ]


def test_a_full_view_shows_the_whole_digest() -> None:
    assert texts(record(42), "hash", view=VIEW._replace(full=True)) == [f"{42:064x}"]


@pytest.mark.parametrize("name", [*ALIASES, *RECORD_FIELDS])
def test_every_column_has_a_text_for_an_empty_record(name: str) -> None:
    (text,) = texts(ProcessRecord(), name)
    assert isinstance(text, str)


@pytest.mark.parametrize("name", [*ALIASES, *RECORD_FIELDS])
def test_every_column_sorts_set_and_unset_values(name: str) -> None:
    records = [
        ProcessRecord(pid=2),
        record(1, reparented=True, environment=(EnvironmentVariable(name="A", value="b"),)),
    ]
    assert len(sort_records(records, columns_named([name]))) == 2


def test_what_was_not_obtained_does_not_look_like_nothing() -> None:
    missing = FieldProvenance(field=113, provenance=Provenance.MISSING, reason="denied")
    assert texts(record(1, cwd="", exceptions=(missing,)), "cwd") == ["?"]
    assert texts(record(1, cwd=""), "cwd") == ["-"]
    assert texts(record(1, memory_usage=None, start_time=None), "mem", "started", "age") == ["?", "?", "?"]


def test_without_a_hash_the_reason_stands_there() -> None:
    assert texts(record(1, executable_hash=None, hash_state=HashState.TOO_LARGE), "hash") == ["too large"]
    assert texts(kernel_thread(2), "hash", "exe", "command") == ["-", "-", "[kworker/0:1]"]


def test_users_without_a_name_show_their_number() -> None:
    assert user(record(1, user_name="")) == "1000"
    assert user(record(1, user_name="", user_id=None)) == "?"


def test_schema_fields_show_their_value() -> None:
    process = record(5, status=ProcessStatus.DISK_SLEEP, command_line=("a", "b c"))
    assert texts(process, "status", "command_line", "accessible", "start_ticks") == [
        "disk_sleep",
        "a 'b c'",
        "true",
        "500",
    ]


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, ()),
        ({"on_disk_mismatch": True, "file_exists": False}, ("deleted",)),
        ({"on_disk_mismatch": True}, ("replaced",)),
        ({"on_disk_mismatch": True, "file_exists": False, "memory_backed": True}, ("memory",)),
        ({"accessible": False}, ("denied",)),
        ({"accessible": False, "exceptions": (EXHAUSTED,)}, ("unread",)),
        ({"command_line_blocked": True}, ("blocked",)),
        ({"redacted": True, "command_line_length": 99999}, ("redacted", "cut")),
        ({"status": ProcessStatus.ZOMBIE}, ("zombie",)),
    ],
)
def test_marks_say_what_to_notice(facts: dict[str, object], expected: tuple[str, ...]) -> None:
    assert marks(record(1, **facts)) == expected


def test_no_arguments_show_the_name_in_brackets() -> None:
    assert command(record(1, command_line=(), name="sleepy")) == "[sleepy]"


def test_an_unknown_column_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"no column 'nope'; there are pid, .*mount_namespace"):
        columns_named(["pid", "nope"])


def test_sizes_sort_largest_first_and_names_from_a() -> None:
    processes = [record(1, memory_usage=5), record(2, memory_usage=None), record(3, memory_usage=9)]
    assert [p.pid for p in sort_records(processes, columns_named(["mem"]))] == [3, 1, 2]
    named = [record(1, user_name="zoe"), record(2, user_name="bob"), record(3, user_name="bob")]
    assert [p.pid for p in sort_records(named, columns_named(["user"]))] == [2, 3, 1]


def test_later_columns_decide_between_equals_and_reverse_turns_all_around() -> None:
    processes = [
        record(1, user_name="a", memory_usage=1),
        record(2, user_name="a", memory_usage=2),
        record(3),
    ]
    columns = columns_named(["user", "mem"])
    assert [p.pid for p in sort_records(processes, columns)] == [2, 1, 3]
    assert [p.pid for p in sort_records(processes, columns, reverse=True)] == [3, 1, 2]

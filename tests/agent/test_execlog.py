"""agent.execlog: one entry per exec, whose size no process decides."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.execlog import exec_entry, exit_entry, hash_provenance
from common.limits import EXEC_ENTRY_BYTES
from common.messages import FieldProvenance, HashState, Provenance
from tests.support.stories import exited, process

unhurried = settings(deadline=None)  # a busy machine is no failure

JOURNALD_LINE_BYTES = 48 * 1024
"""LineMax= of journald.conf(5); a longer line is cut, and is no JSON then."""


def test_an_exec_is_told_with_who_what_where_and_from_whom() -> None:
    record = process(
        9,
        name="curl",
        command_line=("curl", "-s", "http://x"),
        cwd="/tmp",
        container_id="c" * 64,
        invoked_path="./curl",
        login_uid=1000,
        effective_uid=0,
    )
    entry = exec_entry(record, process(7, name="bash"))
    assert entry == {
        "pid": 9,
        "start_ticks": 9,
        "ppid": 1,
        "user": "alice",
        "uid": 1000,
        "effective_uid": 0,
        "login_uid": 1000,
        "image": "/usr/bin/curl",
        "invoked": "./curl",
        "arguments": ["curl", "-s", "http://x"],
        "sha256": record.executable_hash,
        "hash_provenance": "kernel",
        "parent_image": "/usr/bin/bash",
        "cwd": "/tmp",
        "container": "c" * 64,
    }


def test_a_hash_that_is_missing_gives_its_reason_and_so_do_facts() -> None:
    record = process(
        9,
        executable_hash=None,
        hash_state=HashState.GONE,
        exceptions=(FieldProvenance(field=113, provenance=Provenance.MISSING, reason="exited"),),
    )
    entry = exec_entry(record, None)
    assert (entry["sha256"], entry["hash_provenance"], entry["hash_state"]) == (None, None, "gone")
    assert entry["missing"] == {"cwd": "exited"}
    assert entry["parent_image"] is None


def test_a_hash_from_elsewhere_than_the_record_says_so() -> None:
    exceptions = (FieldProvenance(field=9, provenance=Provenance.FILE),)
    assert hash_provenance(process(9, exceptions=exceptions)) == "file"
    assert hash_provenance(process(9)) == "kernel"


def test_arguments_cut_by_procmond_or_here_are_marked() -> None:
    entry = exec_entry(process(9, command_line_length=70_000), None)
    assert (entry["arguments_cut"], entry["arguments_bytes"]) == (True, 70_000)
    entry = exec_entry(process(9, command_line=("a", "b" * EXEC_ENTRY_BYTES, "c")), None)
    assert entry["arguments_cut"] is True
    assert isinstance(entry["arguments"], list)
    first, second = entry["arguments"]
    assert first == "a"
    assert second.endswith("b...")


hostile = st.text(st.sampled_from('a"\\\x00\x1b\u202e\U0001f600'), max_size=6)


@unhurried
@given(unit=hostile, times=st.integers(0, 4000), number=st.integers(0, 3000))
def test_no_process_makes_an_entry_that_journald_cuts(unit: str, times: int, number: int) -> None:
    text = unit * times
    record = process(
        9,
        executable_path=text,
        command_line=(text, *([unit] * number)),
        cwd=text,
        invoked_path=text + "x",
        script_path=text,
    )
    entry = exec_entry(record, process(7, executable_path=text))
    assert len(json.dumps(entry)) < JOURNALD_LINE_BYTES - 2048  # room for time, logger and the like


@unhurried
@given(st.lists(st.text(max_size=20), max_size=50))
def test_what_fits_is_told_whole(arguments: list[str]) -> None:
    entry = exec_entry(process(9, command_line=tuple(arguments)), None)
    assert entry["arguments"] == arguments
    assert "arguments_cut" not in entry


def test_an_exit_is_told_with_its_code_or_signal() -> None:
    event = exited(process(9), exit_code=None, exit_signal=9, run_time_ns=1_500_000_000)
    assert exit_entry(event, None) == {
        "pid": 9,
        "start_ticks": 9,
        "image": None,
        "exit_code": None,
        "exit_signal": 9,
        "run_time_ms": 1500,
    }
    assert exit_entry(exited(process(9)), process(9))["image"] == "/usr/bin/sh"

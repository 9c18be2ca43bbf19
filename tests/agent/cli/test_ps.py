"""`ps` and `tree` against a procmond that follows a script."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable

import pytest

from agent.cli.formats import RECORD_FIELDS, SPECIFIED_FIELDS
from common.messages import (
    CollectionSummary,
    DetectionResult,
    DetectionTask,
    ErrorCode,
    HashState,
    Loss,
    ProcessRecord,
    TaskType,
)
from tests.agent.cli.records import kernel_thread, record
from tests.agent.cli.server import Answers, Cli

HOSTILE = "\x1b[31mroot\n"


def answering(*records: ProcessRecord, **summary: object) -> Answers:
    def answers(task: DetectionTask) -> Iterable[DetectionResult]:
        yield DetectionResult(more=True, processes=records[:1], boot_id="b0")
        yield DetectionResult(
            success=True,
            processes=records[1:],
            boot_id="b0",
            summary=CollectionSummary(processes_seen=len(records), **summary),  # type: ignore[arg-type]  # its fields
        )

    return answers


def failing(code: ErrorCode, message: str = "because", **fields: object) -> Answers:
    return lambda task: [DetectionResult(error_code=code, error_message=message, **fields)]  # type: ignore[arg-type]  # its fields


def test_a_table_lists_every_process(cli: Cli) -> None:
    outcome = cli.ask(answering(record(42), kernel_thread(2)), "ps")
    lines = outcome.out.splitlines()
    assert outcome.status == 0
    assert outcome.err == ""
    assert lines[0].split() == ["PID", "USER", "STARTED", "CPU%", "MEM", "SHA256", "MARKS", "COMMAND"]
    assert lines[1].endswith("[kworker/0:1]")
    assert lines[2].endswith("/usr/bin/worker42 --serve")


def test_names_are_escaped_for_people_and_exact_for_programs(cli: Cli) -> None:
    hostile = record(1, name=HOSTILE, command_line=(HOSTILE, "x"))
    assert "\\x1b[31mroot\\n x" in cli.ask(answering(hostile), "ps").out
    (process,) = json.loads(cli.ask(answering(hostile), "ps", "--format", "json").out)["processes"]
    assert process["name"] == HOSTILE
    assert process["command_line"] == [HOSTILE, "x"]


def test_json_is_one_document_in_the_schemas_words(cli: Cli) -> None:
    document = json.loads(cli.ask(answering(record(7), record(3)), "ps", "--format", "json").out)
    assert document["success"] is True
    assert document["boot_id"] == "b0"
    assert document["summary"]["processes_seen"] == 2
    assert [process["pid"] for process in document["processes"]] == [3, 7]
    assert set(document["processes"][0]) <= set(RECORD_FIELDS)
    assert document["processes"][0]["hash_state"] == "ok"
    assert document["processes"][0]["start_ticks"] == 300


def test_json_lines_are_a_record_each(cli: Cli) -> None:
    lines = cli.ask(answering(record(7), record(3)), "ps", "--format", "jsonl").out.splitlines()
    assert [json.loads(line)["pid"] for line in lines] == [7, 3]


def test_csv_has_one_header_over_all_batches(cli: Cli) -> None:
    rows = list(
        csv.DictReader(io.StringIO(cli.ask(answering(record(7), record(3)), "ps", "--format", "csv").out))
    )
    assert [row["pid"] for row in rows] == ["7", "3"]
    assert list(rows[0]) == list(RECORD_FIELDS)


def test_columns_and_order_are_the_callers(cli: Cli) -> None:
    processes = (record(1, memory_usage=5), record(2, memory_usage=9))
    outcome = cli.ask(answering(*processes), "ps", "--columns", "pid,threads,memory_usage", "--sort", "mem")
    assert [line.split() for line in outcome.out.splitlines()] == [
        ["PID", "THREADS", "MEMORY_USAGE"],
        ["2", "1", "9"],
        ["1", "1", "5"],
    ]
    assert (
        cli.ask(answering(*processes), "ps", "--sort", "mem", "--reverse").out.split("\n")[1].split()[0]
        == "1"
    )


def test_columns_name_the_fields_of_csv_and_json(cli: Cli) -> None:
    odd = record(9, redacted=True)
    out = cli.ask(answering(odd), "ps", "--columns", "pid,user,marks", "--format", "csv").out
    assert out.splitlines() == ["pid,user_name,marks", "9,alice,redacted"]
    out = cli.ask(answering(odd), "ps", "--columns", "pid,mem", "--format", "jsonl").out
    assert json.loads(out) == {"pid": 9, "memory_usage": 9 * 1024}


def test_filters_are_procmonds_and_the_user_is_ours(cli: Cli) -> None:
    with cli.server(answering(record(1), record(2, user_name="bob", user_id="7"))) as server:
        arguments = [
            "ps",
            "--name",
            "a",
            "--name",
            "b",
            "--pid",
            "1",
            "--exe",
            "/usr/*",
            "--user",
            "7",
            "--no-hashes",
        ]
        outcome = cli.run(*server.arguments(), *arguments)
    (task,) = server.tasks
    assert task.task_type == TaskType.ENUMERATE_PROCESSES
    assert task.process_filter is not None
    assert task.process_filter.process_names == ("a", "b")
    assert task.process_filter.pids == (1,)
    assert task.process_filter.executable_pattern == "/usr/*"
    assert task.options is not None
    assert task.options.skip_hashes
    assert task.stream
    assert [line.split()[0] for line in outcome.out.splitlines()] == ["PID", "2"]


def test_no_filter_sends_none(cli: Cli) -> None:
    with cli.server(answering(record(1))) as server:
        cli.run("ps", *server.arguments())
    assert server.tasks[0].process_filter is None


def test_a_deadline_keeps_what_came_and_says_so(cli: Cli) -> None:
    def answers(task: DetectionTask) -> Iterable[DetectionResult]:
        yield DetectionResult(more=True, processes=(record(1),), boot_id="b0")
        yield DetectionResult(
            error_code=ErrorCode.DEADLINE, error_message="30 s are over", summary=CollectionSummary()
        )

    outcome = cli.ask(answers, "ps", "--format", "json")
    document = json.loads(outcome.out)
    assert outcome.status == 4
    assert outcome.err == "daemoneye: the answer ended early: 30 s are over\n"
    assert (document["success"], document["error_code"], len(document["processes"])) == (False, "deadline", 1)


def test_pending_hashes_count_only_for_those_who_want_hashes(cli: Cli) -> None:
    pending = answering(record(1, executable_hash=None, hash_state=HashState.PENDING), executables_pending=3)
    outcome = cli.ask(pending, "ps")
    assert outcome.status == 4
    assert "3 executables not hashed" in outcome.err
    assert "pending" in outcome.out
    assert cli.ask(pending, "ps", "--no-hashes").status == 0


def test_losses_are_said(cli: Cli) -> None:
    outcome = cli.ask(answering(record(1), losses=(Loss(reason="collector_lost", count=2),)), "ps")
    assert (outcome.status, outcome.err) == (4, "daemoneye: lost: 2 (collector_lost)\n")


def test_an_old_procmond_is_served_in_its_own_words(cli: Cli) -> None:
    def answers(task: DetectionTask) -> Iterable[DetectionResult]:
        assert not task.stream
        assert task.options is None
        yield DetectionResult(success=True, processes=(record(5),))

    outcome = cli.ask(answers, "ps", "--format", "json", capabilities=None)
    (process,) = json.loads(outcome.out)["processes"]
    assert outcome.status == 4
    assert "knows only the specification" in outcome.err
    assert set(process) <= set(SPECIFIED_FIELDS)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (ErrorCode.INVALID, 2),
        (ErrorCode.UNSUPPORTED, 2),
        (ErrorCode.DENIED, 3),
        (ErrorCode.BUSY, 3),
        (ErrorCode.NOT_FOUND, 4),
        (ErrorCode.INTERNAL, 4),
    ],
)
def test_a_refusal_is_one_line_and_its_status(cli: Cli, code: ErrorCode, status: int) -> None:
    outcome = cli.ask(failing(code, "pattern: unclosed\x1b[; close it"), "ps")
    assert outcome.status == status
    assert outcome.out == ""
    assert outcome.err.startswith("daemoneye: ")
    assert outcome.err.count("\n") == 1
    assert "\x1b" not in outcome.err


@pytest.mark.parametrize(
    "command", [("ps",), ("ps", "--format", "jsonl"), ("ps", "--format", "csv"), ("tree",)]
)
def test_pids_that_name_no_process_are_said_and_the_answer_is_partial(
    cli: Cli, command: tuple[str, ...]
) -> None:
    asked = ("--pid", "5", "--pid", "1", "--pid", "7", "--pid", "5")
    outcome = cli.ask(answering(record(1)), *command, *asked)
    assert outcome.status == 4
    assert outcome.err == "daemoneye: no such process: 5, 7\n"
    assert "1" in outcome.out


def test_a_pid_that_another_filter_may_have_left_out_is_not_said_to_be_gone(cli: Cli) -> None:
    outcome = cli.ask(answering(), "ps", "--pid", "5", "--name", "cat")
    assert (outcome.status, outcome.err) == (0, "")
    assert cli.ask(answering(record(5)), "ps", "--pid", "5", "--user", "nobody").status == 0


def test_a_tree_is_drawn_parents_first(cli: Cli) -> None:
    processes = (record(30, ppid=20), record(1, ppid=0), record(20, ppid=1))
    with cli.server(answering(*processes)) as server:
        outcome = cli.run(*server.arguments(), "tree", "--pid", "1")
    assert server.tasks[0].task_type == TaskType.MONITOR_PROCESS_TREE
    assert server.tasks[0].process_filter is not None
    assert server.tasks[0].process_filter.pids == (1,)
    assert [line.split("  ", 5)[-1].strip()[:20] for line in outcome.out.splitlines()[1:]] == [
        "/usr/bin/worker1 --s",
        "└─ /usr/bin/worker20",
        "└─ /usr/bin/worker30",
    ]


def test_a_tree_for_programs_keeps_the_order(cli: Cli) -> None:
    out = cli.ask(answering(record(20, ppid=1), record(1, ppid=0)), "tree", "--format", "json").out
    assert [process["pid"] for process in json.loads(out)["processes"]] == [1, 20]

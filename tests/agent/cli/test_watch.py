"""`daemoneye watch` and `tree --live` against a scripted procmond: what is asked, shown, and how it ends."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import pytest

from agent.cli.render import Screen
from agent.cli.treelive import picture_lines
from common.messages import (
    DetectionResult,
    DetectionTask,
    ErrorCode,
    EventSource,
    ProcessEvent,
    ProcessEventKind,
    ProcessFilter,
    TaskType,
)
from tests.agent.cli.server import Cli, Server, popen
from tests.support.peer import CAPABILITIES
from tests.support.stories import (
    BOOT_ID,
    credentials,
    execution,
    exited,
    fork,
    lost,
    numbered,
    process,
    snapshot,
    snapshot_end,
)

PATIENCE_S = 20.0
LEAVE = b"\x1b[?1049l"  # the alternate screen

INIT = process(1, name="init", ppid=0, parent_start_ticks=None)
SHELL = process(7, name="bash", ppid=1, parent_start_ticks=1)
EVIL = process(9, name="e\x1b]0;x\x07", command_line=("evil\nfork 1", "\u202e"), ppid=7, parent_start_ticks=7)

SNAPSHOT = numbered(snapshot(INIT), snapshot(SHELL), snapshot_end(5))
CHANGES = numbered(
    fork(process(9), SHELL),
    execution(EVIL),
    credentials(process(9, effective_uid=0)),
    lost("kernel_ring_full", count=12),
    exited(EVIL),
    first=4,
)


def frame(*events: ProcessEvent, **more: object) -> DetectionResult:
    return msgspec.structs.replace(
        DetectionResult(success=True, more=True, events=events, boot_id=BOOT_ID), **more
    )


def story(_task: DetectionTask) -> Iterable[DetectionResult]:
    """A snapshot and what follows; the stream stays open."""
    yield frame(*SNAPSHOT)
    yield frame(*CHANGES)


def ended(task: DetectionTask) -> Iterable[DetectionResult]:
    yield from story(task)
    yield frame(success=False, more=False, error_code=ErrorCode.SHUTTING_DOWN, error_message="ending")


class Running:
    """The command as a process, and its lines."""

    def __init__(self, server: Server, *argv: str) -> None:
        self.process = popen(
            *server.arguments(), *argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
        )

    def lines(self, number: int) -> list[str]:
        """That many lines, as soon as they are there."""
        assert self.process.stdout is not None
        found: list[str] = []
        while len(found) < number:
            ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE_S)
            assert ready, f"only {found}"
            line = self.process.stdout.readline()
            assert line, f"ended after {found}: {self.process.communicate()}"
            found.append(line.decode().rstrip("\n"))
        return found

    def end(self, number: signal.Signals) -> tuple[int, str, str]:
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, out.decode(), err.decode()


@pytest.fixture
def started(cli: Cli) -> Iterator[list[Running]]:
    running: list[Running] = []
    yield running
    for one in running:
        one.process.kill()
        one.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_events_come_as_they_happen_and_a_signal_ends_it_cleanly(
    cli: Cli, started: list[Running], number: signal.Signals
) -> None:
    with cli.server(story) as server:
        started.append(Running(server, "watch", "--format", "jsonl"))
        documents = [json.loads(line) for line in started[0].lines(5)]
        status, out, err = started[0].end(number)
    assert [one["kind"] for one in documents] == ["fork", "exec", "credentials", "gap", "exit"]
    assert documents[1]["process"]["command_line"] == list(EVIL.command_line)
    assert documents[1]["boot_id"] == BOOT_ID
    assert documents[3]["gap"]["reason"] == "kernel_ring_full"
    assert documents[4]["exit_code"] == 0
    assert "exit_signal" not in documents[4]
    assert (status, out, err) == (0, "", "")


def test_lines_for_a_person_are_safe_and_gaps_stand_out(cli: Cli, started: list[Running]) -> None:
    with cli.server(story) as server:
        started.append(Running(server, "watch"))
        lines = started[0].lines(5)
        assert started[0].end(signal.SIGINT)[0] == 0
    assert [line.split()[1] for line in lines] == ["fork", "exec", "creds", "***", "exit"]
    assert "init─bash─evil\\nfork 1" in lines[1]
    assert "\\u202e" in lines[1]
    assert "12 events lost: kernel ring full" in lines[3]
    assert all(line.isprintable() for line in lines)


def test_the_snapshot_is_shown_when_asked_for(cli: Cli, started: list[Running]) -> None:
    with cli.server(story) as server:
        started.append(Running(server, "watch", "--snapshot"))
        lines = started[0].lines(8)
        assert started[0].end(signal.SIGINT)[0] == 0
    assert "init─bash" in lines[1]
    assert "2 processes before; live from here" in lines[2]


def test_filters_are_procmonds_and_gaps_come_with_every_kind(cli: Cli) -> None:
    with cli.server(ended) as server:
        arguments = ("--kind", "exec", "--pid", "7", "--name", "curl", "--exe", "/usr/*", "--no-hashes")
        outcome = cli.run(*server.arguments(), "watch", *arguments)
    (task,) = [task for task in server.tasks if task.task_type == TaskType.MONITOR_PROCESS_TREE]
    assert task.process_filter == ProcessFilter(
        process_names=("curl",), pids=(7,), executable_pattern="/usr/*"
    )
    assert task.stream
    assert task.deadline_ms == 0
    assert task.options is not None
    assert (task.options.live, task.options.skip_hashes) == (True, True)
    assert set(task.options.event_kinds) >= {ProcessEventKind.EXEC, ProcessEventKind.GAP}
    assert ProcessEventKind.FORK not in task.options.event_kinds
    assert [line.split()[1] for line in outcome.out.splitlines()] == ["exec", "***"]


def test_without_a_kind_all_are_asked_for(cli: Cli) -> None:
    with cli.server(ended) as server:
        cli.run(*server.arguments(), "watch")
    task = server.tasks[0]
    assert task.options is not None
    assert task.options.event_kinds == ()
    assert task.process_filter is None


def test_a_stream_that_ends_by_itself_has_failed(cli: Cli) -> None:
    outcome = cli.ask(ended, "watch")
    assert outcome.status == 3
    assert outcome.err == "daemoneye: ending\n"
    assert len(outcome.out.splitlines()) == 5


def test_a_hole_nobody_explained_is_shown_as_a_gap(cli: Cli) -> None:
    def holed(_task: DetectionTask) -> Iterable[DetectionResult]:
        yield frame(*SNAPSHOT)
        yield frame(*numbered(exited(SHELL), first=14))
        yield frame(success=False, more=False, error_code=ErrorCode.SHUTTING_DOWN, error_message="ending")

    lines = cli.ask(holed, "watch").out.splitlines()
    assert "10 events lost: sequence hole" in lines[0]
    document = json.loads(cli.ask(holed, "watch", "--format", "jsonl").out.splitlines()[0])
    assert (document["gap"]["from_sequence"], document["gap"]["to_sequence"]) == (4, 13)


def test_polling_is_confessed_before_anything_else(cli: Cli) -> None:
    known = msgspec.structs.replace(
        CAPABILITIES, event_source=EventSource.POLLING, event_source_reason="no BTF"
    )
    outcome = cli.ask(ended, "watch", capabilities=known)
    assert outcome.err.splitlines()[0] == "daemoneye: events come from polling: no BTF"


def test_an_old_procmond_cannot_be_watched(cli: Cli) -> None:
    outcome = cli.ask(ended, "watch", capabilities=None)
    assert outcome.status == 2
    assert "no live events" in outcome.err


def test_a_format_with_an_end_is_refused(cli: Cli) -> None:
    assert cli.run("watch", "--format", "json").status == 2
    assert cli.ask(ended, "tree", "--live", "--format", "csv").status == 2


def test_a_reader_that_leaves_ends_it_without_a_word(cli: Cli, started: list[Running]) -> None:
    def endless(_task: DetectionTask) -> Iterable[DetectionResult]:
        yield frame(*SNAPSHOT)
        for number in range(4, 4000, 100):
            yield frame(*numbered(*[execution(EVIL)] * 100, first=number))

    with cli.server(endless) as server:
        started.append(Running(server, "watch"))
        process = started[0].process
        started[0].lines(1)
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(PATIENCE_S) == 0
        assert process.stderr.read() == b""


def test_a_reader_that_stops_does_not_keep_a_signal_from_ending_it(cli: Cli, started: list[Running]) -> None:
    def endless(_task: DetectionTask) -> Iterable[DetectionResult]:
        yield frame(*SNAPSHOT)
        for number in range(4, 40_000, 100):
            yield frame(*numbered(*[execution(EVIL)] * 100, first=number))

    with cli.server(endless) as server:
        started.append(Running(server, "watch"))
        started[0].lines(1)
        pipe = Path(f"/proc/{started[0].process.pid}/wchan")
        deadline = time.monotonic() + PATIENCE_S
        while "pipe" not in pipe.read_text() and time.monotonic() < deadline:  # it blocks in its write
            time.sleep(0.01)
        started[0].process.send_signal(signal.SIGTERM)
        assert started[0].process.wait(PATIENCE_S) == 0


# ------------------------------------------------------------------------------------------- tree --live


def test_on_a_pipe_the_tree_is_drawn_once_and_changes_follow(cli: Cli) -> None:
    outcome = cli.ask(ended, "tree", "--live")
    lines = outcome.out.splitlines()
    assert lines[0].split()[0] == "PID"
    assert "init" in lines[1]
    assert "└─ bash" in lines[2]
    assert [line.split()[1] for line in lines[3:]] == ["fork", "exec", "creds", "***", "exit"]
    assert outcome.status == 3


def test_as_json_lines_the_snapshot_comes_too(cli: Cli) -> None:
    lines = cli.ask(ended, "tree", "--live", "--format", "jsonl", "--pid", "7").out.splitlines()
    kinds = [json.loads(line)["kind"] for line in lines]
    assert kinds[:3] == ["snapshot", "snapshot", "snapshot_end"]


def test_on_a_terminal_it_is_drawn_anew_and_the_screen_given_back(cli: Cli) -> None:
    with cli.server(story) as server:
        leader, follower = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "20"}
        with popen(
            *server.arguments(),
            *("tree", "--live"),
            stdout=follower,
            stderr=subprocess.PIPE,
            env=environment,
        ) as command:
            os.close(follower)
            try:
                shown = read_until(leader, b"GAP")
                command.send_signal(signal.SIGINT)
                shown += read_until(leader, LEAVE)
                command.wait(timeout=PATIENCE_S)  # by itself: a second signal would find no handler
            finally:
                command.terminate()
                _, err = command.communicate(timeout=PATIENCE_S)
                os.close(leader)
    assert command.returncode == 0, err
    assert shown.startswith(b"\x1b[?1049h")
    assert b"bash" in shown
    assert b"12 events lost" in err


def read_until(leader: int, mark: bytes) -> bytes:
    """What a terminal shows, up to and with `mark`."""
    shown = b""
    while mark not in shown:
        ready, _, _ = select.select([leader], [], [], PATIENCE_S)
        assert ready, shown
        try:
            shown += os.read(leader, 65_536)
        except OSError:  # EIO: nobody has it open any more
            raise AssertionError(shown) from None
    return shown


def test_a_picture_has_as_many_lines_as_the_terminal() -> None:
    records = [process(pid) for pid in range(1, 101)]
    screen = Screen(width=80, colour=False, unicode=True)
    lines = picture_lines(records, ["gap"], 0.0, screen, 20, full=False)
    assert len(lines) == 20
    assert lines[0] == "100 processes"
    assert lines[1] == "gap"
    assert lines[-1] == "84 more do not fit"

"""Nothing watched can hurt the watcher: hostile processes, and what a running procmond says of them."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator

import pytest

from common.messages import (
    CollectionOptions,
    DetectionResult,
    DetectionTask,
    ErrorCode,
    HashCheck,
    HashState,
    ProcessFilter,
    ProcessRecord,
    ProcessStatus,
    TaskType,
    new_enumerate_task,
    new_hash_check_task,
)
from procmond.watch import MAX_ABANDONED
from tests.support import hostile
from tests.support.agents import AGENT_UID, one_sweep
from tests.support.attacks import NOBODY
from tests.support.daemons import Client, Procmond, eventually
from tests.support.fuse_server import Stall
from tests.support.privilege import needs_root

pytestmark = [
    needs_root,
    pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="needs FUSE: no /dev/fuse here"),
]

MOST_TRIES = 12
"""Each stall may cost the answer it was in, which then says INTERNAL; so many culprits at most are met."""


@pytest.fixture
def procmond() -> Iterator[Procmond]:
    with Procmond() as running:
        yield running


def sweep(client: Client) -> list[DetectionResult]:
    return client.ask(new_enumerate_task("sweep", stream=True, options=CollectionOptions(environment=True)))


def until_complete(client: Client) -> dict[int, ProcessRecord]:
    """Sweep until an answer is complete: every try within its deadline, or a typed failure."""
    for _ in range(MOST_TRIES):
        frames = sweep(client)
        if frames[-1].success:
            return {record.pid: record for frame in frames for record in frame.processes}
        assert frames[-1].error_code is ErrorCode.INTERNAL
    pytest.fail("no sweep was complete")


def limitations(client: Client) -> tuple[str, ...]:
    task = DetectionTask(task_id="c", task_type=TaskType.NEGOTIATE_CAPABILITIES)
    response = client.ask(task)[0].capability_response
    assert response is not None
    return response.limitations


def processes_of(procmond: Procmond) -> list[int]:
    """Supervisor, children, and what is left hanging, by parentage."""
    with open(f"/proc/{procmond.pid}/task/{procmond.pid}/children") as file:
        return [procmond.pid, *map(int, file.read().split())]


@contextlib.contextmanager
def innocent() -> Iterator[int]:
    process = subprocess.Popen(["/bin/sleep", "4711"])
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def test_a_command_line_that_never_answers_is_marked_and_the_rest_is_complete(procmond: Procmond) -> None:
    with innocent() as bystander, hostile.blocked_command_line() as culprit, procmond.connect() as client:
        records = until_complete(client)
        assert records[culprit].command_line_blocked
        assert records[culprit].command_line == ()
        assert records[culprit].executable_hash
        assert records[bystander].command_line == ("/bin/sleep", "4711")
        assert not records[bystander].command_line_blocked
        (stall,) = procmond.log("collector_stalled")
        assert (stall["pid"], stall["uid"], stall["read"]) == (culprit, NOBODY, "arguments")
        again = until_complete(client)
        assert again[culprit].command_line_blocked
        assert len(procmond.log("collector_stalled")) == 1, "the quarantine holds"


@pytest.mark.parametrize("stall", [Stall.READ, Stall.OPEN | Stall.READ])
def test_an_executable_on_a_file_system_that_never_answers(procmond: Procmond, stall: Stall) -> None:
    with innocent() as bystander, contextlib.ExitStack() as stack:
        culprit, *_ = [stack.enter_context(hostile.silent_executable(stall)) for _ in range(3)]
        with procmond.connect() as client:
            records = until_complete(client)
            assert records[bystander].executable_hash
            assert culprit.pid in records
            assert records[culprit.pid].executable_hash is None
            assert records[culprit.pid].hash_state in {HashState.PENDING, HashState.TIMED_OUT}
            assert until_complete(client)[bystander].executable_hash, "hashing goes on for the others"
        assert procmond.stop() == 0


@pytest.mark.parametrize("known", [False, True], ids=["asked for the first time", "known"])
def test_a_path_that_does_not_answer_after_all_costs_the_question_not_the_service(
    procmond: Procmond, known: bool
) -> None:
    with hostile.overlay_over_fuse() as mounted, procmond.connect() as client:
        task = new_hash_check_task("path", HashCheck(executable_path=mounted.path))
        if known:
            assert client.ask(task)[0].success
        mounted.switch.stall(Stall.GETATTR)
        assert client.ask(task)[-1].error_code is ErrorCode.INTERNAL
        assert {stall["read"] for stall in procmond.log("collector_stalled")} == {"image"}
        assert client.ask(new_hash_check_task("other", HashCheck(executable_path=hostile.SLEEP)))[0].success


@pytest.mark.parametrize("first", ["question", "sweep"])
def test_what_stalled_a_question_is_left_alone_by_sweeps_and_the_reverse(
    procmond: Procmond, first: str
) -> None:
    with hostile.silent_executable(Stall.GETATTR) as silent, procmond.connect() as client:
        task = DetectionTask(
            task_id="verify",
            task_type=TaskType.VERIFY_EXECUTABLE,
            process_filter=ProcessFilter(pids=(silent.pid,)),
        )
        if first == "sweep":
            until_complete(client)
        (report,) = client.ask(task)[0].executables
        assert report.hash_state is HashState.TIMED_OUT
        assert silent.pid in until_complete(client)
        (stall,) = procmond.log("collector_stalled")
        assert (stall["pid"], stall["read"]) == (silent.pid, "image")


def test_collectors_that_could_not_be_killed_are_forgiven_once_they_end(procmond: Procmond) -> None:
    with innocent() as bystander, procmond.connect() as client:
        with contextlib.ExitStack() as stack:
            for _ in range(MAX_ABANDONED):
                stack.enter_context(hostile.silent_executable(Stall.GETATTR))
            assert until_complete(client)[bystander].command_line_blocked, "nothing is read of anybody"
            assert len(procmond.log("child_abandoned")) == MAX_ABANDONED
        eventually(lambda: len(procmond.log("abandoned_child_ended")) == MAX_ABANDONED)
        record = until_complete(client)[bystander]
        assert record.command_line == ("/bin/sleep", "4711")
        assert record.executable_hash


def test_sigterm_ends_procmond_while_a_collector_hangs_in_the_kernel() -> None:
    with hostile.blocked_command_line(), Procmond() as procmond, procmond.connect() as client:
        client.send(new_enumerate_task("hangs", stream=True, options=CollectionOptions()))
        assert procmond.process is not None
        procmond.process.terminate()
        assert procmond.process.wait(timeout=5) == 0


def test_many_culprits_of_one_user_cost_a_bounded_time(procmond: Procmond) -> None:
    with contextlib.ExitStack() as stack:
        culprits = [stack.enter_context(hostile.blocked_command_line()) for _ in range(12)]
        bystander = stack.enter_context(innocent())
        client = stack.enter_context(procmond.connect())
        records = until_complete(client)
        assert all(records[culprit].command_line_blocked for culprit in culprits)
        assert records[bystander].command_line == ("/bin/sleep", "4711")
        assert len(procmond.log("collector_stalled")) <= 4
        assert len(processes_of(procmond)) <= 3 + 2 + 4, "two that stand for groups, four abandoned at most"


def test_processes_in_flux_are_read_or_have_vanished(procmond: Procmond) -> None:
    with hostile.reexecuting() as one, hostile.rewriting_arguments() as other, procmond.connect() as client:
        for _ in range(5):
            records = until_complete(client)
            assert records[one].name == "sh"
            assert other in records
    assert not procmond.log("child_ended")


def test_64_at_once_of_one_uid_that_execute_themselves_again_and_again(procmond: Procmond) -> None:
    with contextlib.ExitStack() as stack:
        pids = {stack.enter_context(hostile.reexecuting()) for _ in range(64)}
        with procmond.connect() as client:
            records = until_complete(client)
        assert pids <= records.keys()
    assert not procmond.log("child_ended")


def test_a_stopped_process_and_4096_threads_and_many_descriptors(procmond: Procmond) -> None:
    each = min(100_000, hostile.most_descriptors() - 200)
    with (
        hostile.stopped() as still,
        hostile.many_threads(4096) as threads,
        contextlib.ExitStack() as stack,
        procmond.connect() as client,
    ):
        # One process where it may have so many; where it may not, several that have as many together.
        holders = [stack.enter_context(hostile.many_descriptors(each)) for _ in range(-(-100_000 // each))]
        assert sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in holders) >= 100_000
        records = until_complete(client)
        assert records[still].status is ProcessStatus.STOPPED
        assert records[threads].threads == 4096
        assert records.keys() >= set(holders)
        with open(f"/proc/{procmond.children()['collector']}/status") as file:
            count = next(int(line.split()[1]) for line in file if line.startswith("Threads:"))
        assert count <= 8


def test_deep_namespaces_and_names_of_control_characters(procmond: Procmond) -> None:
    with (
        hostile.deep_namespaces() as deep,
        hostile.control_characters() as rude,
        procmond.connect() as client,
    ):
        records = until_complete(client)
        assert records[deep].pid_namespace
        assert "\x1b[31m" in records[rude].name
        assert records[rude].command_line[0] == "\x1b]0;title\x07\r\n" + r"\xff\xfe"


def test_the_agent_completes_its_sweep_past_a_culprit() -> None:
    with (
        hostile.blocked_command_line() as culprit,
        Procmond("--allow-user", str(AGENT_UID), "--allow-group", str(AGENT_UID)) as procmond,
    ):
        records = one_sweep(procmond)
    assert records[culprit].command_line_blocked
    assert len(records) > 1

"""How much runs at once on the running daemon, and that ending an answer ends the work behind it.

A stopped collector keeps tasks in flight for as long as a test wants; what the collector does is counted by
its read(2) calls (/proc/PID/io), of which it makes some per process it looks at and none at rest.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator

import pytest

from common.messages import (
    CollectionOptions,
    DetectionResult,
    DetectionTask,
    ErrorCode,
    HashCheck,
    TaskType,
    new_enumerate_task,
    new_hash_check_task,
)
from tests.support.children import become, child_of, reap
from tests.support.daemons import Client, Procmond, eventually, sleepers
from tests.support.privilege import needs_root

NEGOTIATE = DetectionTask(task_id="negotiate", task_type=TaskType.NEGOTIATE_CAPABILITIES)
OTHERS = 54_321
"""A group whose members may ask."""
MANY = 3000
"""Processes whose facts are more than the sockets and the frames under way hold (some 1.5 MB)."""


def small(task_id: str) -> DetectionTask:
    return new_hash_check_task(task_id, HashCheck(executable_path=os.path.realpath("/bin/true")))


def cancel(target: str) -> DetectionTask:
    return DetectionTask(task_id=f"end-{target}", task_type=TaskType.CANCEL_TASK, target_task_id=target)


def everything(task_id: str, deadline_ms: int = 0) -> DetectionTask:
    return new_enumerate_task(task_id, stream=True, options=CollectionOptions(), deadline_ms=deadline_ms)


def next_of(client: Client) -> DetectionResult:
    result = client.receive()
    assert result is not None
    return result


def is_served(procmond: Procmond) -> bool:
    with procmond.connect() as client:
        return next_answer(client, NEGOTIATE).success


def next_answer(client: Client, task: DetectionTask) -> DetectionResult:
    with contextlib.suppress(
        BrokenPipeError
    ):  # turned away before it could ask; what was said is still there
        client.send(task)
    return next_of(client)


@contextlib.contextmanager
def stopped_collector(procmond: Procmond) -> Iterator[None]:
    collector = procmond.children()["collector"]
    os.kill(collector, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(collector, signal.SIGCONT)


@contextlib.contextmanager
def peer_of(uid: int, body: Callable[[], object]) -> Iterator[None]:
    """A process of `uid` that runs `body`, and then stays, with what it has open, until the block ends."""
    done, told = os.pipe()
    stay, go = os.pipe()

    def run() -> None:
        os.close(done)
        os.close(go)
        become(uid)
        body()
        os.write(told, b"x")
        os.read(stay, 1)

    pid = child_of(run)
    os.close(told)
    os.close(stay)
    try:
        with os.fdopen(done, "rb") as stream:
            assert stream.read(1), f"the peer of uid {uid} failed"
        yield
    finally:
        os.close(go)
        reap(pid)


@needs_root
def test_tasks_in_flight_are_limited_over_all_connections_and_users() -> None:
    environment = {"PROCMOND_LIMITS__TASKS_IN_FLIGHT": "4", "PROCMOND_LIMITS__TASKS_PER_CONNECTION": "3"}
    with Procmond("--allow-group", str(OTHERS), environment=environment) as procmond:

        def ask_for_two() -> None:
            peer = procmond.connect()
            peer.send(small("c"), small("d"), small("e"))
            refusal = next_of(peer)
            assert (refusal.task_id, refusal.error_code) == ("e", ErrorCode.BUSY)
            assert "4 tasks are in flight here" in (refusal.error_message or "")
            kept.append(peer)

        kept: list[Client] = []
        with procmond.connect() as first, procmond.connect() as third:
            with stopped_collector(procmond):
                first.send(small("a"), small("b"))
                assert first.ask(NEGOTIATE)[0].success  # so both are in flight
                with peer_of(OTHERS, ask_for_two):
                    assert third.ask(small("f"))[0].error_code is ErrorCode.BUSY
                    assert third.ask(NEGOTIATE)[0].success, "exempt"
                    assert third.ask(cancel("nothing"))[0].error_code is ErrorCode.NOT_FOUND, "exempt"
                # The two of the peer that is gone count no more.
                eventually(lambda: _is_admitted(third))
            assert {next_of(first).task_id, next_of(first).task_id} == {"a", "b"}
            assert third.answer()[0].success
            assert third.ask(small("g"))[0].success


def _is_admitted(client: Client) -> bool:
    """Whether a small task is in flight afterwards, rather than refused at once."""
    client.send(small("probe"), NEGOTIATE)
    result = next_of(client)
    if result.task_id == NEGOTIATE.task_id:
        return True
    assert result.error_code is ErrorCode.BUSY
    assert next_of(client).task_id == NEGOTIATE.task_id
    return False


@needs_root
def test_connections_are_limited_per_user_and_in_all() -> None:
    environment = {"PROCMOND_LIMITS__CONNECTIONS": "5", "PROCMOND_LIMITS__CONNECTIONS_PER_UID": "2"}
    others = (OTHERS, OTHERS + 1)
    with Procmond("--allow-user", "0", *map(str, others), environment=environment) as procmond:
        os.chmod(procmond.socket, 0o666)
        kept: list[Client] = []

        def connect(count: int, refusal: str) -> None:
            for _ in range(count):
                kept.append(procmond.connect())
                assert kept[-1].ask(NEGOTIATE)[0].success
            _is_turned_away(procmond, refusal)

        with procmond.connect() as first, procmond.connect() as second:
            for client in (first, second):
                assert client.ask(NEGOTIATE)[0].success
            _is_turned_away(procmond, "2 connections of uid 0")
            with (
                peer_of(others[0], lambda: connect(2, f"2 connections of uid {others[0]}")),
                peer_of(others[1], lambda: connect(1, "5 connections are open")),
            ):
                assert first.ask(NEGOTIATE)[0].success, "those that are in stay"
        eventually(lambda: is_served(procmond))
        with procmond.connect() as client:
            summary = client.ask(NEGOTIATE)[0].summary
        assert summary is not None
        losses = {loss.reason: loss.count for loss in summary.losses}
        assert losses["too_many_connections"] == 1
        assert losses["too_many_connections_of_uid"] >= 2


def _is_turned_away(procmond: Procmond, words: str) -> None:
    with procmond.connect() as client:
        result = next_answer(client, NEGOTIATE)
        assert (result.task_id, result.error_code) == ("", ErrorCode.BUSY)
        assert words in (result.error_message or "")
        assert client.receive() is None


def reads_of(pid: int) -> int:
    """read(2) calls so far; proc(5), /proc/PID/io."""
    with open(f"/proc/{pid}/io") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("syscr:"))


def open_files(pid: int) -> set[str]:
    """What a process has open, by name."""
    found = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found.add(os.readlink(f"/proc/{pid}/fd/{name}"))
    return found


@pytest.mark.parametrize("how", ["cancelled", "deadline", "closed"])
def test_ending_an_answer_ends_the_work(how: str) -> None:
    with sleepers(MANY), Procmond() as procmond, procmond.connect() as other:
        collector = procmond.children()["collector"]
        before = reads_of(collector)
        assert other.ask(everything("whole"))[-1].success
        whole = reads_of(collector) - before
        assert whole > MANY

        client = procmond.connect()
        before = reads_of(collector)
        client.send(everything("part", deadline_ms=1 if how == "deadline" else 0))
        if how != "deadline":
            assert next_of(client).more  # it is under way; nobody takes the rest
        if how == "closed":
            client.close()
        elif how == "cancelled":
            client.send(cancel("part"))
        if how != "closed":
            frames = client.answer()
            expected = ErrorCode.CANCELLED if how == "cancelled" else ErrorCode.DEADLINE
            assert frames[-1].error_code is expected
            assert frames[-1].summary is not None
            assert frames[-1].summary.processes_seen < MANY
        # The line to the collector is in order: what was said before this question was heard before it.
        assert other.ask(small("then"))[0].success
        after = reads_of(collector)
        assert after - before < whole, "the sweep went on to its end"
        for number in range(20):
            assert other.ask(small(f"{number}"))[0].success
        assert reads_of(collector) - after < whole / 10, "the sweep still goes on"
        client.close()


def test_a_cancelled_hash_is_not_computed_to_the_end(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("large") / "executable"
    path.touch(0o755)
    size = 256 << 30  # a hole: nothing on disk, minutes of hashing
    os.truncate(path, size)
    environment = {
        "PROCMOND_HASHING__MAX_FILE_SIZE": str(size),
        "PROCMOND_HASHING__FILE_DEADLINE": "600",
    }
    with Procmond(environment=environment) as procmond, procmond.connect() as client:
        collector = procmond.children()["collector"]
        client.send(new_hash_check_task("large", HashCheck(executable_path=str(path))))
        eventually(lambda: str(path) in open_files(collector) and reads_of(collector) > 100)
        client.send(cancel("large"))
        ended, cancelled = next_of(client), next_of(client)
        assert (ended.task_id, ended.error_code) == ("large", ErrorCode.CANCELLED)
        assert cancelled.success
        eventually(lambda: str(path) not in open_files(collector))  # to its end it takes far longer


def test_a_small_question_is_answered_while_others_stream() -> None:
    with sleepers(MANY), Procmond() as procmond, contextlib.ExitStack() as stack:
        streams = [stack.enter_context(procmond.connect()) for _ in range(4)]
        for stream in streams:
            stream.send(everything("long"))
            assert next_of(stream).more
        with procmond.connect() as client:
            assert client.ask(small("short"))[0].success
        for stream in streams:
            frames = stream.answer()
            assert len(frames) > 1, "they were all still to be taken"
            assert frames[-1].success

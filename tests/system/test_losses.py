"""Parts of procmond that die, and readers that stop. One rule: one loss, one victim, and it is said."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from common.messages import (
    CollectionOptions,
    DetectionTask,
    ErrorCode,
    HashCheck,
    TaskType,
    new_enumerate_task,
    new_hash_check_task,
)
from tests.support.daemons import Client, Procmond, eventually, sleepers

MIB_IN_KIB = 1024
PROCESSES = 5000


def _cheap(task_id: str = "cheap") -> DetectionTask:
    return new_hash_check_task(task_id, HashCheck(executable_path=os.path.realpath("/bin/true")))


def test_a_collector_killed_in_an_answer_fails_that_task_alone() -> None:
    with sleepers(3000), Procmond() as procmond, procmond.connect() as victim, procmond.connect() as other:
        assert other.ask(_cheap("before"))[0].success
        victim.send(new_enumerate_task("half", stream=True, options=CollectionOptions()))
        first = victim.receive()
        assert first is not None
        assert first.more
        before = procmond.children()
        os.kill(before["collector"], signal.SIGKILL)
        rest = victim.answer()
        assert rest[-1].error_code is ErrorCode.INTERNAL
        assert rest[-1].summary is not None
        assert victim.ask(_cheap("again"))[0].success, "the connection lives"
        assert other.ask(_cheap("after"))[0].success, "so do the others"
        after = procmond.children()
        assert after["front"] == before["front"]
        assert after["collector"] != before["collector"]
        summary = other.ask(DetectionTask(task_id="n", task_type=TaskType.NEGOTIATE_CAPABILITIES))[0].summary
        assert summary is not None
        assert {loss.reason: loss.count for loss in summary.losses} == {"collector_lost": 1}


def test_a_task_of_which_nothing_was_sent_is_asked_again_of_the_next_collector() -> None:
    with Procmond() as procmond, procmond.connect() as client:
        collector = procmond.children()["collector"]
        os.kill(collector, signal.SIGSTOP)
        client.send(_cheap("patient"))
        # The question is on its way once the front, which answers this itself, has read both.
        assert client.ask(DetectionTask(task_id="n", task_type=TaskType.NEGOTIATE_CAPABILITIES))[0].success
        os.kill(collector, signal.SIGKILL)
        (result,) = client.answer()
        assert (result.task_id, result.success) == ("patient", True)


def test_a_front_that_dies_is_replaced_and_the_socket_never_refuses() -> None:
    with Procmond() as procmond, procmond.connect() as client:
        assert client.ask(_cheap())[0].success
        os.kill(procmond.children()["front"], signal.SIGKILL)
        assert client.receive() is None
        with procmond.connect() as next_client:
            assert next_client.ask(_cheap())[0].success


def test_sigterm_ends_streams_with_a_reason_and_everything_within_five_seconds() -> None:
    with sleepers(3000), Procmond() as procmond, procmond.connect() as client:
        client.send(new_enumerate_task("long", stream=True, options=CollectionOptions()))
        first = client.receive()
        assert first is not None
        assert first.more
        children = procmond.children()
        assert procmond.process is not None
        procmond.process.terminate()
        assert client.answer()[-1].error_code is ErrorCode.SHUTTING_DOWN
        assert client.receive() is None
        assert procmond.process.wait(timeout=5) == 0
        assert not [pid for pid in children.values() if os.path.exists(f"/proc/{pid}")]


def test_sigterm_ends_procmond_though_the_collector_hangs() -> None:
    with Procmond() as procmond:
        children = procmond.children()
        os.kill(children["collector"], signal.SIGSTOP)
        assert procmond.process is not None
        procmond.process.terminate()
        assert procmond.process.wait(timeout=6) == 0
        eventually(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in children.values()))


def test_children_end_when_the_supervisor_is_killed() -> None:
    with Procmond() as procmond:
        children = procmond.children()
        os.kill(procmond.pid, signal.SIGKILL)
        assert procmond.process is not None
        procmond.process.wait()
        eventually(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in children.values()))


@pytest.mark.skipif(
    os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") < 4 << 30, reason="needs 4 GiB of memory"
)
def test_four_readers_that_stop_cost_little_and_are_closed() -> None:
    environment = {"PROCMOND_LIMITS__STALL_LIMIT": "3"}
    with sleepers(PROCESSES), Procmond(environment=environment) as procmond:
        with procmond.connect() as client:
            whole = client.ask(new_enumerate_task("warm", stream=True, options=CollectionOptions()))
            assert sum(len(frame.processes) for frame in whole) >= PROCESSES
        before = procmond.memory_kib()
        readers = [procmond.connect() for _ in range(4)]
        peak = [0]
        done = threading.Event()

        def watch() -> None:
            while not done.wait(0.05):
                peak[0] = max(peak[0], procmond.memory_kib())

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            began = time.monotonic()
            for reader in readers:
                reader.send(new_enumerate_task("stalled", stream=True, options=CollectionOptions()))
                first = reader.receive()
                assert first is not None
                assert first.more
            with procmond.connect() as client:
                assert client.ask(_cheap())[0].success, "others are served meanwhile"
            eventually(lambda: len(procmond.log("peer_broke_contract")) == 4, timeout_s=30)
            assert time.monotonic() - began >= 3, "not before the stall limit"
            # The work ended too: nothing is in flight, or 64 tasks at once would not all be admitted.
            with procmond.connect() as client:
                _fills(client)
        finally:
            done.set()
            watcher.join()
            for reader in readers:
                reader.close()
        assert {line["kind"] for line in procmond.log("peer_broke_contract")} == {"ReaderStalled"}
        assert peak[0] - before < 8 * MIB_IN_KIB


def _fills(client: Client) -> None:
    client.send(*(_cheap(f"c{number}") for number in range(16)))
    for _ in range(16):
        result = client.receive()
        assert result is not None
        assert result.success

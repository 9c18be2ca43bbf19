"""Peers, allowed ones, that want procmond to hold more than it should. One rule: all of it is bounded."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import subprocess
import termios
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from common.limits import KIB, MIB
from common.messages import (
    DetectionTask,
    ErrorCode,
    ProcessFilter,
    TaskType,
    new_enumerate_task,
)
from tests.support.daemons import Client, Procmond, eventually
from tests.support.live import live_task

STEADY = 30
"""Equal readings in a row, a hundredth of a second apart: what is written has come to a stop."""
ANSWER_BYTES = 100_000
NEGOTIATE = DetectionTask(task_id="negotiate", task_type=TaskType.NEGOTIATE_CAPABILITIES)


def _cancel(target: str) -> DetectionTask:
    return DetectionTask(task_id=f"end-{target}", task_type=TaskType.CANCEL_TASK, target_task_id=target)


def _resident_kib(pid: int) -> int:
    with open(f"/proc/{pid}/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


@contextmanager
def _wordy_processes(count: int) -> Iterator[list[int]]:
    """Processes whose records are large: 30,000 bytes of arguments each."""
    command = ["/bin/cat", "-", "x" * 30_000]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE) for _ in range(count)]
    try:
        yield [process.pid for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def _half_read(procmond: Procmond, pids: list[int]) -> Client:
    """A peer with more of an answer on its way than the socket holds, and reading none of it."""
    client = procmond.connect()
    wanted = ProcessFilter(pids=tuple(pids))
    client.send(*(new_enumerate_task(f"big-{number}", wanted, stream=True) for number in range(4)))
    readings: deque[int] = deque(maxlen=STEADY)

    def no_longer_grows() -> bool:
        readings.append(_waiting_bytes(client))
        return len(readings) == STEADY and min(readings) == max(readings) > ANSWER_BYTES

    eventually(no_longer_grows)
    return client


def _waiting_bytes(client: Client) -> int:
    (count,) = struct.unpack("i", fcntl.ioctl(client.sock, termios.FIONREAD, bytes(4)))
    return int(count)


def _is_served(procmond: Procmond) -> bool:
    with procmond.connect() as client:
        return client.ask(NEGOTIATE)[0].success


def test_a_peer_whose_last_words_are_not_taken_still_counts_as_connected() -> None:
    environment = {"PROCMOND_LIMITS__CONNECTIONS_PER_UID": "2"}
    with _wordy_processes(20) as pids, Procmond(environment=environment) as procmond:
        with _half_read(procmond, pids) as first, _half_read(procmond, pids) as second:
            for client in (first, second):
                client.sock.sendall(bytes(8))
            eventually(lambda: len(procmond.log("peer_broke_contract")) == 2)
            with procmond.connect() as third:
                result = third.receive()
                assert result is not None
                assert (result.task_id, result.error_code) == ("", ErrorCode.BUSY)
        eventually(lambda: _is_served(procmond))


def test_peers_that_come_and_go_fill_no_memory_while_the_collector_hangs() -> None:
    names = tuple(f"{number:0250}" for number in range(4000))
    question = new_enumerate_task("large", ProcessFilter(process_names=names))
    with Procmond() as procmond:
        children = procmond.children()
        os.kill(children["collector"], signal.SIGSTOP)
        before = _resident_kib(children["front"])
        refused = 0
        for _ in range(40):
            with procmond.connect() as client:
                client.send(question, NEGOTIATE)
                result = client.receive()
                assert result is not None
                refused += result.error_code is ErrorCode.BUSY
        assert refused > 30
        assert (_resident_kib(children["front"]) - before) * KIB < 20 * MIB
        os.kill(children["collector"], signal.SIGCONT)
        with procmond.connect() as client:
            (result,) = client.ask(NEGOTIATE)
            assert result.summary is not None
            assert ("collector_backlog", refused) in {
                (loss.reason, loss.count) for loss in result.summary.losses
            }


def test_a_task_and_its_cancel_in_one_write_end_with_the_collectors_summary() -> None:
    with Procmond() as procmond, procmond.connect() as client:
        for number in range(20):
            # One without an end of its own: any other may be complete before its cancellation is read.
            task = msgspec.structs.replace(live_task(), task_id=f"{number}")
            client.send(task, _cancel(f"{number}"))
            ended, cancelled = client.answer()[-1], client.receive()
            assert cancelled is not None
            assert (ended.task_id, ended.error_code) == (f"{number}", ErrorCode.CANCELLED)
            assert ended.summary is not None
            assert ended.summary.boot_time
            assert cancelled.success


def test_a_cancelled_task_of_a_lost_collector_is_not_asked_again() -> None:
    with Procmond() as procmond, procmond.connect() as client:
        collector = procmond.children()["collector"]
        os.kill(collector, signal.SIGSTOP)
        client.send(new_enumerate_task("unwanted"), _cancel("unwanted"), NEGOTIATE)
        result = client.receive()
        assert result is not None
        assert result.task_id == NEGOTIATE.task_id  # all three were read
        os.kill(collector, signal.SIGKILL)
        result = client.receive()
        assert result is not None
        assert (result.task_id, result.error_code) == ("unwanted", ErrorCode.CANCELLED)
        (lost,) = procmond.log("answer_lost")
        assert "the collector was lost" in lost["error"]

"""procmond.selfcheck, against a front that answers as the test says, over real sockets."""

from __future__ import annotations

import os
import selectors
import socket
from collections.abc import Callable, Iterator
from typing import Final

import pytest

from common import codec
from common.errors import Busy
from common.framing import FrameDecoder, encode_frame
from common.messages import (
    CapabilityResponse,
    CollectionSummary,
    DetectionResult,
    DetectionTask,
    EventSource,
    Loss,
    ProcessRecord,
    TaskType,
    failure,
)
from common.service import Notifier
from procmond.selfcheck import SelfCheck

INTERVAL_S: Final = 7.5
Answer = Callable[[DetectionTask], DetectionResult]


def right(task: DetectionTask) -> DetectionResult:
    """What a front that works says."""
    if task.task_type == TaskType.NEGOTIATE_CAPABILITIES:
        return DetectionResult(
            task_id=task.task_id,
            success=True,
            capability_response=CapabilityResponse(event_source=EventSource.EBPF),
            summary=CollectionSummary(losses=(Loss(reason="peer_denied", count=3),)),
        )
    assert task.process_filter is not None
    records = tuple(ProcessRecord(pid=pid) for pid in task.process_filter.pids)
    return DetectionResult(task_id=task.task_id, success=True, processes=records)


class Stage:
    """A self-check with a manager and a front that the test plays."""

    def __init__(self, directory: str) -> None:
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.manager.bind(f"{directory}/notify")
        self.manager.setblocking(False)
        self.notifier = Notifier({"NOTIFY_SOCKET": f"{directory}/notify"})
        self.selector = selectors.DefaultSelector()
        self.fronts: list[socket.socket] = []
        self.check = SelfCheck(self.notifier, self.selector, self._accept, INTERVAL_S)

    def _accept(self, descriptor: int) -> None:
        self.fronts.append(socket.socket(fileno=os.dup(descriptor)))

    def asked(self) -> list[DetectionTask]:
        """The questions that lie at the latest front."""
        payloads = FrameDecoder().feed(self.fronts[-1].recv(65536))
        return [codec.decode_task(payload) for payload in payloads]

    def hear(self, *payloads: bytes) -> None:
        """Send `payloads` as frames and let the loop turn once for each."""
        for payload in payloads:
            self.send(encode_frame(payload))

    def send(self, data: bytes) -> None:
        """Send raw bytes and let the loop turn."""
        self.fronts[-1].sendall(data)
        self.turn()

    def turn(self) -> None:
        """One turn of the supervisor's loop."""
        for key, _ in self.selector.select(5):
            key.data()

    def answer(self, answer: Answer) -> None:
        """Answer everything that was asked."""
        self.hear(*(codec.encode_result(answer(task)) for task in self.asked()))

    def told(self) -> list[str]:
        """What the service manager has heard since the last call."""
        states: list[str] = []
        try:
            while True:
                states.append(self.manager.recv(4096).decode())
        except BlockingIOError:
            return states

    def close(self) -> None:
        self.check.drop()
        self.notifier.close()
        self.selector.close()
        for sock in (self.manager, *self.fronts):
            sock.close()


@pytest.fixture
def stage(tmp_path: object) -> Iterator[Stage]:
    made = Stage(str(tmp_path))
    yield made
    made.close()


def test_two_right_answers_feed_the_watchdog_and_describe_the_state(stage: Stage) -> None:
    stage.check.clients = 2
    stage.check.turn(0.0)
    stage.answer(right)
    (state,) = stage.told()
    feed, status = state.split("\n")
    assert feed == "WATCHDOG=1"
    assert status.startswith("STATUS=")
    assert status.endswith(" processes, 2 clients, eBPF, 3 lost or refused")


def test_one_answer_of_the_two_feeds_nothing(stage: Stage) -> None:
    stage.check.turn(0.0)
    first, _ = stage.asked()
    stage.hear(codec.encode_result(right(first)))
    assert stage.told() == []


def test_it_asks_again_after_the_interval_and_on_the_same_connection(stage: Stage) -> None:
    stage.check.turn(0.0)
    stage.answer(right)
    stage.check.turn(INTERVAL_S - 0.1)
    assert stage.check.due == INTERVAL_S
    stage.check.turn(INTERVAL_S)
    stage.answer(right)
    assert (len(stage.told()), len(stage.fronts)) == (2, 1)


def test_a_question_without_an_answer_is_not_repeated(stage: Stage) -> None:
    stage.check.turn(0.0)
    stage.asked()
    stage.check.turn(INTERVAL_S)
    stage.fronts[0].setblocking(False)
    with pytest.raises(BlockingIOError):
        stage.fronts[0].recv(1)
    assert stage.told() == []


def test_a_late_answer_still_counts(stage: Stage) -> None:
    stage.check.turn(0.0)
    tasks = stage.asked()
    stage.check.turn(INTERVAL_S)
    stage.hear(*(codec.encode_result(right(task)) for task in tasks))
    assert len(stage.told()) == 1


def refused(task: DetectionTask) -> DetectionResult:
    return failure(task.task_id, str(Busy("too much to do")))


def nobody(task: DetectionTask) -> DetectionResult:
    return DetectionResult(
        task_id=task.task_id, success=True, capability_response=CapabilityResponse(), processes=()
    )


def somebody_else(task: DetectionTask) -> DetectionResult:
    return DetectionResult(
        task_id=task.task_id,
        success=True,
        capability_response=CapabilityResponse(),
        processes=(ProcessRecord(pid=os.getpid() + 1),),
    )


def unfinished(task: DetectionTask) -> DetectionResult:
    return DetectionResult(
        task_id=task.task_id,
        success=True,
        more=True,
        capability_response=CapabilityResponse(),
        processes=(ProcessRecord(pid=os.getpid()),),
    )


def not_asked_for(_task: DetectionTask) -> DetectionResult:
    return DetectionResult(task_id="another", success=True)


def without_capabilities(task: DetectionTask) -> DetectionResult:
    return DetectionResult(task_id=task.task_id, success=True, processes=(ProcessRecord(pid=os.getpid()),))


@pytest.mark.parametrize(
    "wrong", [refused, nobody, somebody_else, unfinished, not_asked_for, without_capabilities]
)
def test_a_wrong_answer_feeds_nothing_and_the_next_question_takes_a_new_connection(
    stage: Stage, wrong: Answer
) -> None:
    stage.check.turn(0.0)
    payloads = [codec.encode_result(wrong(task)) for task in stage.asked()]
    stage.send(b"".join(encode_frame(payload) for payload in payloads))
    assert stage.told() == []
    stage.check.turn(INTERVAL_S)
    assert len(stage.fronts) == 2
    stage.answer(right)
    assert len(stage.told()) == 1


@pytest.mark.parametrize("data", [b"\0" * 8, b"\xff" * 64, encode_frame(b"\xff")])
def test_bytes_that_are_no_answer_feed_nothing(stage: Stage, data: bytes) -> None:
    stage.check.turn(0.0)
    stage.asked()
    stage.send(data)
    assert stage.told() == []
    stage.check.turn(INTERVAL_S)
    assert len(stage.fronts) == 2


def test_a_front_that_ends_is_asked_no_more_and_its_successor_is(stage: Stage) -> None:
    stage.check.turn(0.0)
    stage.fronts[0].close()
    stage.turn()
    stage.check.turn(INTERVAL_S)
    stage.answer(right)
    assert len(stage.told()) == 1


def test_a_dropped_connection_forgets_what_was_asked_on_it(stage: Stage) -> None:
    stage.check.turn(0.0)
    stage.check.drop()
    stage.check.turn(INTERVAL_S)
    stage.answer(right)
    assert (len(stage.fronts), len(stage.told())) == (2, 1)

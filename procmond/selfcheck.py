"""Whether procmond really answers, asked as a client would. One rule: only a right answer feeds the watchdog.

The supervisor can connect to nobody once it is confined, so it makes a pair of sockets and gives one end to
the front, which treats it as a peer that was let in: the question passes decoding, validation, dispatch, the
collector and /proc, and the answer comes back in frames. It speaks of the supervisor's own process, whose pid
is known. Accepting is not part of it; that runs on the same event loop, and the front ends when it fails.

Everything here happens in the supervisor's poll loop: nothing waits, and an answer that never comes is never
an error here, only a watchdog that is not fed.
"""

from __future__ import annotations

import os
import selectors
import socket
from collections.abc import Callable
from typing import Final

from common import codec, limits
from common.errors import PeerError
from common.framing import FrameDecoder, encode_frame
from common.logs import get_logger
from common.messages import (
    CollectionOptions,
    DetectionResult,
    DetectionTask,
    EventSource,
    ProcessFilter,
    TaskType,
)
from common.service import Notifier

CHECKS_PER_WATCHDOG: Final = 4
"""Questions in the time after which the service manager would act: one may be slow and one may fail."""
DEFAULT_INTERVAL_S: Final = 10.0
"""Seconds between questions where no watchdog waits for them, only a person for the status."""
MAX_ANSWER_BYTES: Final = 64 * 1024
"""Of one frame. An answer about one process is a tenth of it, its arguments included."""
_READ_BYTES: Final = 64 * 1024

_CAPABILITIES: Final = "selfcheck-capabilities"
_PROCESS: Final = "selfcheck-process"
_SOURCES: Final = {
    EventSource.UNSPECIFIED: "no live events",
    EventSource.EBPF: "eBPF",
    EventSource.PROCESS_CONNECTOR: "process connector",
    EventSource.POLLING: "polling",
}

_log = get_logger("procmond.selfcheck")


class SelfCheck:
    """Asks every `interval_s` seconds; tells the service manager when the answer is right.

    `hand_over` gives the front a descriptor, which stays the caller's. Times are the monotonic clock's.
    """

    def __init__(
        self,
        notifier: Notifier,
        selector: selectors.BaseSelector,
        hand_over: Callable[[int], None],
        interval_s: float = DEFAULT_INTERVAL_S,
    ) -> None:
        self.due = 0.0
        """When `turn` has something to do; at once for the first time."""
        self.clients = 0
        """Connections, as the front last reported them; for the status."""
        self._notifier = notifier
        self._selector = selector
        self._hand_over = hand_over
        self._interval_s = interval_s
        self._connection: socket.socket | None = None
        self._decoder = FrameDecoder(MAX_ANSWER_BYTES)
        self._missing: set[str] = set()
        """Of the questions under way, those without an answer."""
        self._status = ""

    def turn(self, now: float) -> None:
        """Ask if it is time and the last question has been answered."""
        if now < self.due:
            return
        self.due = now + self._interval_s
        if self._missing:
            _log.warning("selfcheck_unanswered", waiting_for=sorted(self._missing))
            return
        if self._connection is None:
            self._connect()
        self._ask()

    def drop(self) -> None:
        """The front is gone, and with it the connection and what was asked on it."""
        if self._connection is not None:
            self._selector.unregister(self._connection)
            self._connection.close()
            self._connection = None
        self._missing = set()

    def close_in_child(self) -> None:
        """In a forked child, which must not hold the connection open; its selector is closed otherwise."""
        if self._connection is not None:
            self._connection.close()

    # ----------------------------------------------------------------------------------------- asking

    def _connect(self) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._hand_over(theirs.fileno())
        theirs.close()
        self._connection = ours
        self._decoder = FrameDecoder(MAX_ANSWER_BYTES)
        self._selector.register(ours, selectors.EVENT_READ, self._hear)

    def _ask(self) -> None:
        if self._connection is None:
            return
        tasks = (
            DetectionTask(task_id=_CAPABILITIES, task_type=TaskType.NEGOTIATE_CAPABILITIES),
            DetectionTask(
                task_id=_PROCESS,
                task_type=TaskType.ENUMERATE_PROCESSES,
                process_filter=ProcessFilter(pids=(os.getpid(),)),
                options=CollectionOptions(skip_hashes=True),
                deadline_ms=int(limits.DEFAULT_TASK_DEADLINE_S * 1000),
            ),
        )
        try:
            # Some 100 bytes on an empty socket: they fit whole or the other end is gone.
            self._connection.send(b"".join(encode_frame(codec.encode_task(task)) for task in tasks))
        except OSError as error:
            self._fail(f"the front does not take the question: {error.strerror}")
            return
        self._missing = {_CAPABILITIES, _PROCESS}

    # ---------------------------------------------------------------------------------------- hearing

    def _hear(self) -> None:
        if self._connection is None:
            return
        try:
            data = self._connection.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(f"the connection failed: {error.strerror}")
            return
        if not data:
            self._fail("the front ended the connection")
            return
        try:
            for payload in self._decoder.feed(data):
                self._judge(codec.decode_result(payload))
        except PeerError as error:
            self._fail(f"the answer is none: {error}")

    def _judge(self, answer: DetectionResult) -> None:
        if answer.task_id not in self._missing or (wrong := _what_is_wrong(answer)):
            self._fail(
                f"the answer is wrong: {wrong if answer.task_id in self._missing else 'not asked for'}"
            )
            return
        self._missing.discard(answer.task_id)
        if answer.task_id == _CAPABILITIES:
            self._status = _describe(answer)
        if not self._missing:
            status = f"{count_processes():,} processes, {self.clients:,} clients, {self._status}"
            self._notifier.send(f"WATCHDOG=1\nSTATUS={status}")

    def _fail(self, reason: str) -> None:
        _log.error("selfcheck_failed", reason=reason)
        self.drop()


def _what_is_wrong(answer: DetectionResult) -> str:
    """Why `answer` proves nothing; empty if it does."""
    if not answer.success or answer.more:
        return answer.error_message or "it is no complete success"
    if answer.task_id == _PROCESS and [record.pid for record in answer.processes] != [os.getpid()]:
        return f"{len(answer.processes)} processes, where this one was asked for"
    if answer.task_id == _CAPABILITIES and answer.capability_response is None:
        return "it holds no capabilities"
    return ""


def _describe(answer: DetectionResult) -> str:
    """What an administrator wants to see in `systemctl status`; no text of the peer's gets into it.

    A line break in it would be an order to the service manager, and the front is the part that could be
    taken over.
    """
    response = answer.capability_response
    source = EventSource.UNSPECIFIED if response is None else response.event_source
    losses = () if answer.summary is None else answer.summary.losses
    total = sum(loss.count for loss in losses)
    return f"{_SOURCES.get(source, 'unknown events')}, {total:,} lost or refused"


def count_processes() -> int:
    """Thread group leaders in /proc."""
    return sum(name.isdigit() for name in os.listdir("/proc"))

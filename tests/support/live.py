"""A subscriber of live events over the real socket. One rule: every frame is checked as it comes: numbers
without holes but what a gap says, and nothing twice."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Self

from common.messages import (
    CapabilityResponse,
    CollectionOptions,
    DetectionResult,
    DetectionTask,
    ErrorCode,
    ProcessEvent,
    ProcessEventKind,
    ProcessFilter,
    TaskType,
)
from tests.support.daemons import Procmond

FORK, EXEC, EXIT = ProcessEventKind.FORK, ProcessEventKind.EXEC, ProcessEventKind.EXIT
CREDENTIALS, GAP = ProcessEventKind.CREDENTIALS, ProcessEventKind.GAP
SNAPSHOT, SNAPSHOT_END = ProcessEventKind.SNAPSHOT, ProcessEventKind.SNAPSHOT_END
PATIENCE_S = 20.0


def live_task(process_filter: ProcessFilter | None = None, **options: object) -> DetectionTask:
    return DetectionTask(
        task_id="live",
        task_type=TaskType.MONITOR_PROCESS_TREE,
        process_filter=process_filter,
        stream=True,
        options=CollectionOptions(live=True, **options),  # type: ignore[arg-type]
    )


def capabilities(procmond: Procmond) -> DetectionResult:
    with procmond.connect() as client:
        return client.ask(DetectionTask(task_id="n", task_type=TaskType.NEGOTIATE_CAPABILITIES))[0]


def response(procmond: Procmond) -> CapabilityResponse:
    answer = capabilities(procmond).capability_response
    assert answer is not None
    return answer


class Live:
    """One live stream on a connection of its own; its snapshot has come when the block begins."""

    def __init__(
        self, procmond: Procmond, process_filter: ProcessFilter | None = None, **options: object
    ) -> None:
        self.client = procmond.connect()
        self.events: list[ProcessEvent] = []
        self.arrived: list[float] = []
        """Boot time in seconds at which each event came."""
        self.end: DetectionResult | None = None
        self._due = 1
        self.client.send(live_task(process_filter, **options))

    def __enter__(self) -> Self:
        self.until(lambda: bool(self.of(SNAPSHOT_END)))
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def receive(self) -> bool:
        """Take one frame; False at the end of the answer."""
        frame = self.client.receive()
        assert frame is not None, "the connection ended"
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        if not frame.more:
            self.end = frame
            return False
        for event in frame.events:
            if event.gap is not None and event.gap.from_sequence:
                assert event.gap.from_sequence == self._due
                self._due = event.gap.to_sequence + 1
            assert event.sequence == self._due, f"{event.sequence} where {self._due} was due"
            self._due += 1
            self.events.append(event)
            self.arrived.append(now)
        return True

    def until(self, done: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
        """Take frames until it is done."""
        deadline = time.monotonic() + timeout_s
        while not done():
            left = deadline - time.monotonic()
            assert left > 0, f"it did not come; {Counter(one.kind.name for one in self.events)}"
            self.client.sock.settimeout(left)
            assert self.receive(), f"the answer ended: {self.end}"

    def exited(self, pids: Iterable[int]) -> None:
        """Take frames until these have ended."""
        waiting = set(pids)
        seen = 0

        def done() -> bool:
            nonlocal seen
            for event in self.events[seen:]:
                if event.kind is EXIT:
                    waiting.discard(event.pid)
            seen = len(self.events)
            return not waiting

        self.until(done)

    def of(self, kind: ProcessEventKind, pid: int | None = None) -> list[ProcessEvent]:
        """The events of one kind so far, of one process or all."""
        return [one for one in self.events if one.kind is kind and pid in {None, one.pid}]

    def tagged(self, prefix: str) -> Counter[str]:
        """How often something was run, or shown by a snapshot, with a first argument that begins so."""
        return Counter(
            argument
            for one in self.events
            if one.kind in {EXEC, SNAPSHOT} and one.process is not None
            for argument in one.process.command_line[1:2]
            if argument.startswith(prefix)
        )

    def gaps(self) -> Counter[ProcessEventKind]:
        """What the gaps so far say is lost, by kind."""
        lost: Counter[ProcessEventKind] = Counter()
        for one in self.of(GAP):
            assert one.gap is not None
            for loss in one.gap.losses:
                lost[loss.kind] += loss.count
        return lost

    def cancel(self) -> DetectionResult:
        """End it; the last frame."""
        self.client.sock.settimeout(PATIENCE_S)
        self.client.send(DetectionTask(task_id="end", task_type=TaskType.CANCEL_TASK, target_task_id="live"))
        while self.receive():
            pass
        assert self.end is not None
        assert self.end.error_code is ErrorCode.CANCELLED
        return self.end

"""What one client's large answer costs another, and how soon a cancelled answer costs nothing any more."""

from __future__ import annotations

import contextlib
import itertools
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Final, NamedTuple

from common.messages import (
    CollectionOptions,
    DetectionTask,
    ErrorCode,
    HashCheck,
    ProcessFilter,
    TaskType,
    new_enumerate_task,
    new_hash_check_task,
)
from tests.bench.measure import Figure, Report
from tests.bench.population import population
from tests.support.daemons import Client, Procmond

RECORDS: Final = 10_000
"""What the first client streams; one answer after the other where there are fewer processes."""
_ALONE: Final = 100
"""Answers timed without the stream."""
_LOOK_S: Final = 2.0
"""Seconds after a cancel in which reads are looked for."""
_QUIET_S: Final = 0.3
"""Without a read of the collector for as long, the work has ended."""
_HOLE_BYTES: Final = 256 << 30


def _sweep(task_id: str) -> DetectionTask:
    return new_enumerate_task(task_id, stream=True, options=CollectionOptions())


def _one_record(client: Client) -> float:
    """Seconds for an answer of one record with all facts."""
    wanted = ProcessFilter(pids=(os.getpid(),))
    began = time.perf_counter()
    (frame,) = client.ask(new_enumerate_task("one", wanted, options=CollectionOptions()))
    took = time.perf_counter() - began
    assert len(frame.processes) == 1
    return took


@contextlib.contextmanager
def _streaming(procmond: Procmond) -> Iterator[int]:
    """A process that takes `RECORDS` records; the descriptor ends when it has them."""
    done, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(done)
        taken = 0
        with procmond.connect() as client:
            while taken < RECORDS:
                taken += sum(len(frame.processes) for frame in client.ask(_sweep("stream")))
        os._exit(0)
    os.close(told)
    os.set_blocking(done, False)
    try:
        yield done
    finally:
        os.close(done)
        os.waitpid(pid, 0)


def _is_over(done: int) -> bool:
    try:
        return not os.read(done, 1)
    except BlockingIOError:
        return False


def _reads_of(pid: int) -> int:
    """Read calls so far (proc(5), /proc/PID/io): a collector at rest makes none."""
    with open(f"/proc/{pid}/io") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("syscr:"))


class Cancelled(NamedTuple):
    """Seconds since the cancel was sent."""

    answered: float
    last_read: float


def _cancel(procmond: Procmond, client: Client, task: DetectionTask, begun: int) -> Cancelled | None:
    """Cancel `task` after `begun` reads of the collector; None if its answer was complete before.

    The answer is taken meanwhile: the work must end for the cancel, not for want of a reader.
    """
    collector = procmond.children()["collector"]
    before = _reads_of(collector)
    ends: list[tuple[ErrorCode, float]] = []

    def take() -> None:
        while len(ends) < 2:
            result = client.receive()
            assert result is not None
            if not result.more:
                ends.append((result.error_code, time.perf_counter()))

    client.send(task)
    while _reads_of(collector) - before < begun:
        time.sleep(0.0005)
    reader = threading.Thread(target=take)
    reader.start()
    cancel = DetectionTask(task_id="cancel", task_type=TaskType.CANCEL_TASK, target_task_id=task.task_id)
    sent = last = time.perf_counter()
    client.send(cancel)
    count = _reads_of(collector)
    while (now := time.perf_counter()) < sent + _LOOK_S and now - last < _QUIET_S:
        time.sleep(0.001)
        if (found := _reads_of(collector)) != count:
            count, last = found, now
    reader.join()
    (code, _), (_, answered) = ends
    return Cancelled(answered - sent, last - sent) if code is ErrorCode.CANCELLED else None


@contextlib.contextmanager
def _hole() -> Iterator[DetectionTask]:
    """A question for the hash of a file that takes minutes, and no room on the disk."""
    with tempfile.NamedTemporaryFile(prefix="daemoneye-bench-") as hole:
        os.fchmod(hole.fileno(), 0o755)
        os.truncate(hole.fileno(), _HOLE_BYTES)
        yield new_hash_check_task("hash", HashCheck(executable_path=hole.name))


def _cancellations(event_source: str, processes: int, rounds: int) -> dict[str, list[Cancelled]]:
    limits = {"PROCMOND_HASHING__MAX_FILE_SIZE": str(_HOLE_BYTES), "PROCMOND_HASHING__FILE_DEADLINE": "600"}
    with (
        _hole() as hashing,
        Procmond("--event-source", event_source, environment=limits) as procmond,
        procmond.connect() as client,
    ):
        client.ask(_sweep("warm"))
        works = {"sweep": (_sweep("sweep"), max(1, processes // 10)), "hash": (hashing, 100)}
        found: dict[str, list[Cancelled]] = {name: [] for name in works}
        for _ in range(rounds):
            for name, (task, begun) in works.items():
                cancelled = _cancel(procmond, client, task, begun)
                if cancelled is not None:
                    found[name].append(cancelled)
    return found


def _figures(name: str, seconds: list[float]) -> tuple[Figure, ...]:
    if not seconds:
        return ()
    note = f"of {len(seconds)}"
    return (
        Figure(f"{name}, median", statistics.median(seconds) * 1e3, "ms", None, note),
        Figure(f"{name}, worst", max(seconds) * 1e3, "ms", 100, note),
    )


def _delay(processes: int, rounds: int) -> Report:
    with Procmond() as procmond, procmond.connect() as client:
        client.ask(_sweep("warm"))
        alone, beside = [], []
        for _ in range(rounds):
            alone += [_one_record(client) for _ in range(_ALONE)]
            with _streaming(procmond) as done:
                while not _is_over(done):
                    beside.append(_one_record(client))
    delay = statistics.median(beside) - statistics.median(alone)
    return Report(
        f"beside a client that streams {RECORDS} records, {processes} extra processes",
        (
            Figure("one-record answer, delay at the median", delay * 1e3, "ms", 50),
            Figure("alone, median", statistics.median(alone) * 1e3, "ms"),
            Figure("beside, median", statistics.median(beside) * 1e3, "ms", note=f"of {len(beside)}"),
            Figure("beside, worst", max(beside) * 1e3, "ms"),
        ),
    )


def measure(processes: int, rounds: int) -> list[Report]:
    """The delay of a small answer beside a stream, and how long a cancelled answer still costs work.

    Reads can be told from those for events only where there are none: with polling and nobody who listens.
    """
    with population(processes):
        delay = _delay(processes, rounds)
        best = _cancellations("auto", processes, rounds)
        quiet = _cancellations("polling", processes, rounds)
    answered = [_figures(name, [one.answered for one in found]) for name, found in best.items()]
    read = [_figures(name, [one.last_read for one in found]) for name, found in quiet.items()]
    return [
        delay,
        Report("from a cancel to its answer, the best event source", tuple(itertools.chain(*answered))),
        Report("from a cancel to the last read for the answer, polling", tuple(itertools.chain(*read))),
    ]

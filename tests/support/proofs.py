"""A stretch of a live stream beside the tracepoints' count of it. One rule: every event has one fate, and the
fates add up to what the kernel counted, not to what procmond says it saw."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import pytest

from common.messages import ProcessEvent, ProcessEventKind, ProcessRecord, Provenance
from procmond.events.pump import boot_ns
from tests.support.daemons import Procmond, eventually
from tests.support.live import EXEC, EXIT, FORK, SNAPSHOT_END, Live
from tests.support.tracepoints import Tracepoints

TRUE: Final = os.path.realpath("/bin/true")
COMMAND_LINE, HASH = 5, 9  # field numbers of ProcessRecord
PATIENCE_S: Final = 120.0


@contextlib.contextmanager
def started(*arguments: str) -> Iterator[Procmond]:
    """A procmond with the source that was named; skips where that is not to be had."""
    procmond = Procmond(*arguments)
    try:
        try:
            procmond.start()
        except AssertionError:
            if "does not work here" in procmond.log_text():
                pytest.skip(procmond.log_text().strip().splitlines()[-1])
            raise
        yield procmond
    finally:
        print(procmond.log_text())  # shown when a test fails
        procmond.close()


def record(event: ProcessEvent) -> ProcessRecord:
    assert event.process is not None
    return event.process


def run(*argv: str, **options: object) -> int:
    """Run a command to its end; its pid."""
    process = subprocess.Popen(argv, **options)  # type: ignore[call-overload]
    process.wait()
    return int(process.pid)


def missing(event: ProcessEvent, field: int) -> str:
    """Why a fact is missing; empty when it is not."""
    for exception in record(event).exceptions:
        if exception.field == field and exception.provenance is Provenance.MISSING:
            return exception.reason
    return ""


def hash_provenance(event: ProcessEvent) -> Provenance:
    """How the hash is known; UNSPECIFIED when nothing is said of it."""
    for exception in record(event).exceptions:
        if exception.field == HASH:
            return exception.provenance
    return Provenance.UNSPECIFIED


class Stretch:
    """Between the ends of two processes that nothing else was running beside: `begin`, and `finish`."""

    def __init__(self, procmond: Procmond, counters: Tracepoints) -> None:
        self._procmond = procmond
        self._counters = counters
        self._began_ns = boot_ns()
        self._first, self._before = counters.mark(_mark)
        self._last = self._ended_ns = 0
        self.counted: Counter[ProcessEventKind] = Counter()
        """By the tracepoints."""

    def finish(self, live: Live) -> None:
        """What the kernel did up to now. First `live` catches up, so that the mark is not lost too."""
        deadline = time.monotonic() + PATIENCE_S
        while not self._catches_up(live):
            assert time.monotonic() < deadline, f"nothing comes any more; {len(live.events)} events came"
        self._ended_ns = boot_ns()
        self._last, after = self._counters.mark(_mark)
        self.counted = after - self._before

    def _catches_up(self, live: Live) -> bool:
        since_ns = boot_ns()
        pid = _mark()
        return within(live, lambda: _end(live, pid, since_ns) is not None, 2.0)

    def prove(self, live: Live) -> Counter[ProcessEventKind]:
        """Take frames until all of the stretch has come, then end the stream; what the gaps say was lost.

        Told + lost + shown by a snapshot instead = counted, for each kind. What was shown is known only of
        the whole stream: there may be less of it in the stretch.
        """
        assert within(live, lambda: _end(live, self._last, self._ended_ns) is not None, PATIENCE_S)
        # An exec may wait for its hash and so come after events that happened later: a while, not for ever.
        # What was shown instead is not known before the end.
        within(live, lambda: self._fates(live) == self.counted, 2.0)
        live.cancel()
        resynced = any(one.boot_time_ns > self._since(live) for one in live.of(SNAPSHOT_END))
        shown = self._shown() if resynced else Counter()
        for kind, counted in self.counted.items():
            left = counted - self._fates(live)[kind]
            assert 0 <= left <= shown[kind], (
                f"{kind.name}: counted {self.counted}, told {self.told(live)}, lost {live.gaps()}, "
                f"shown by a snapshot {shown}"
            )
        return live.gaps()

    def events(self, live: Live) -> list[ProcessEvent]:
        """The events of the stretch, as far as they were told."""
        since_ns, until_ns = self._since(live), _end(live, self._last, self._ended_ns)
        assert until_ns is not None
        kinds = set(self.counted)
        return [one for one in live.events if one.kind in kinds and since_ns < one.boot_time_ns <= until_ns]

    def _since(self, live: Live) -> int:
        since_ns = _end(live, self._first, self._began_ns)
        assert since_ns is not None
        return since_ns

    def told(self, live: Live) -> Counter[ProcessEventKind]:
        return Counter(one.kind for one in self.events(live))

    def _fates(self, live: Live) -> Counter[ProcessEventKind]:
        lost = live.gaps()
        return self.told(live) + Counter({kind: lost[kind] for kind in self.counted})

    def _shown(self) -> Counter[ProcessEventKind]:
        (ended,) = eventually(lambda: self._procmond.log("live_ended")[-1:])
        return Counter(
            {
                kind: ended["in_snapshot"].get(kind.name.lower(), 0)
                for kind in self.counted
                if ended["in_snapshot"].get(kind.name.lower(), 0)
            }
        )


def _mark() -> int:
    return run(TRUE, "mark")


def _end(live: Live, pid: int, since_ns: int) -> int | None:
    """When who had this number then ended, if that was told: numbers come round."""
    return next((one.boot_time_ns for one in live.of(EXIT, pid) if one.boot_time_ns >= since_ns), None)


def within(live: Live, done: Callable[[], bool], timeout_s: float) -> bool:
    """Take frames until it is done, so long at most; whether it is."""
    with contextlib.suppress(AssertionError, TimeoutError):
        live.until(done, timeout_s)
    return done()


def told_whole(events: Iterable[ProcessEvent]) -> dict[int, tuple[ProcessEvent, ProcessEvent, ProcessEvent]]:
    """Fork, exec and exit of every process that did just that, by pid; numbers must not have come round."""
    by_pid: dict[int, list[ProcessEvent]] = {}
    for event in events:
        by_pid.setdefault(event.pid, []).append(event)
    return {
        pid: (of_it[0], of_it[1], of_it[2])
        for pid, of_it in by_pid.items()
        if [one.kind for one in of_it] == [FORK, EXEC, EXIT]
    }

"""The supervisor's eye on the collector. One rule: only a read that waits in the kernel counts as stalled,
not a collector that merely gets no processor.
"""

from __future__ import annotations

from typing import Final

from common.logs import get_logger
from procmond.pulse import Pulse, StallDetector
from procmond.quarantine import Quarantine, Withheld

MAX_ABANDONED: Final = 4
"""Collectors left hanging in the kernel at a time; while there are so many nothing that can stall is read."""

_STATE_FIELD: Final = 0  # after the name, /proc/PID/stat (proc(5))
_START_FIELD: Final = 19
_RUNNABLE: Final = b"R"

_log = get_logger("procmond.supervisor")


class Watch:
    """Sees stalls, remembers culprits."""

    def __init__(self) -> None:
        self._abandoned = 0
        self._reads_nothing = False
        self._quarantine = Quarantine()
        self._pulse: Pulse | None = None
        self._detector = StallDetector()

    def begin(self) -> Pulse:
        """A page for the next collector. The last one's stays with it, should it hang on."""
        if self._pulse is not None:
            self._pulse.close()
        self._pulse = Pulse()
        self._detector = StallDetector()
        return self._pulse

    def withheld(self, now: float) -> Withheld:
        """What the next collector must not read."""
        self._reads_nothing = self._abandoned >= MAX_ABANDONED
        return Withheld(everyone=True) if self._reads_nothing else self._quarantine.withheld(now)

    def abandoned(self) -> None:
        """A collector could not be killed: it hangs in the kernel."""
        self._abandoned += 1

    def freed(self) -> bool:
        """One that was abandoned has ended after all; whether the present one could be let read again."""
        self._abandoned -= 1
        return self._reads_nothing and self._abandoned < MAX_ABANDONED

    def stalled(self, collector: int, now: float) -> bool:
        """Whether the collector hangs; then the one to blame is in quarantine from now on."""
        if self._pulse is None:
            return False
        reading = self._pulse.read()
        if not self._detector.observe(reading, now) or _is_runnable(collector):
            return False
        uid = _owner(reading.pid)
        start_ticks = reading.start_ticks or _start_of(reading.pid)
        culprit = self._quarantine.stalled(reading.pid, start_ticks, uid, reading.stage, now)
        _log.warning(
            "collector_stalled",
            pid=reading.pid,
            uid=uid,
            read=reading.stage.name.lower(),
            withheld_s=round(culprit.until - now),
        )
        return True


def _is_runnable(pid: int) -> bool:
    """Whether a process runs or waits for a processor."""
    try:
        return _stat_of(pid)[_STATE_FIELD] == _RUNNABLE
    except OSError:
        return False


def _start_of(pid: int) -> int:
    """When a process began, in ticks since boot; 0 if it is gone."""
    try:
        return int(_stat_of(pid)[_START_FIELD])
    except OSError:
        return 0


def _stat_of(pid: int) -> list[bytes]:
    """The fields after the name. Raises: OSError."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b") ")[2].split()


def _owner(pid: int) -> int | None:
    """The real uid of a process; None where it is not to be known.

    Not the owner of /proc/PID: that is root for every process that is not dumpable, which any can make
    itself. Reading status takes no lock that the process could hold.
    """
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            line = next(line for line in file if line.startswith(b"Uid:"))
        return int(line.split()[1])
    except (OSError, StopIteration):
        return None

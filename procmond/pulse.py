"""A page the collector and the supervisor share. One rule: before each read that a process could make wait
for ever, the collector writes whom it reads and why; if that stands still, it is known whom to blame.

An unprivileged process can hold its own memory lock, or run from a file system it serves itself, and every
reader of its arguments or image then waits beyond any signal. The reader cannot tell; somebody else must.
"""

from __future__ import annotations

import mmap
from enum import IntEnum
from typing import Final, NamedTuple

_BEAT, _STAGE, _PID, _START = range(4)
_WORDS: Final = 4
_WORD_BYTES: Final = 8
_BEATS: Final = 2**63

STALL_S: Final = 1.5
"""Seconds one read may take. With the interval of looking, a stall is noticed within 2 s."""
LOOK_INTERVAL_S: Final = 0.4


class Stage(IntEnum):
    """What is being read."""

    IDLE = 0
    """Nothing that a process controls."""
    IMAGE = 1
    """Its executable: a stat, or an open, which the server of its file system answers."""
    ARGUMENTS = 2
    """Its memory: arguments, environment."""


_STAGES: Final = {stage.value: stage for stage in Stage}


class Reading(NamedTuple):
    """What the page says."""

    beat: int
    """Grows with every read."""
    stage: Stage
    pid: int
    start_ticks: int


class Pulse:
    """The page. Made by the supervisor before it forks; each collector gets a new one."""

    def __init__(self) -> None:
        self._page = mmap.mmap(-1, mmap.PAGESIZE)  # anonymous and shared: both see it after the fork
        self._words = memoryview(self._page).cast("Q")[:_WORDS]

    def enter(self, stage: Stage, pid: int, start_ticks: int) -> None:
        """The collector's: the next read is one that may not come back."""
        words = self._words
        words[_PID] = pid
        words[_START] = start_ticks
        words[_STAGE] = stage
        words[_BEAT] = (words[_BEAT] + 1) % _BEATS

    def leave(self) -> None:
        """The collector's: it came back."""
        self._words[_STAGE] = Stage.IDLE

    def read(self) -> Reading:
        """The supervisor's: what the collector does now."""
        words = self._words
        # Only a collector that was taken over writes another stage: nothing to fail for.
        stage = _STAGES.get(words[_STAGE], Stage.IMAGE)
        return Reading(words[_BEAT], stage, words[_PID], words[_START])

    def close(self) -> None:
        """Give the page back."""
        self._words.release()
        self._page.close()


class StallDetector:
    """Pure: tells from readings of the page, and the clock, when one read takes too long."""

    def __init__(self, limit_s: float = STALL_S) -> None:
        self._limit_s = limit_s
        self._last: Reading | None = None
        self._since = 0.0

    def observe(self, reading: Reading, now: float) -> bool:
        """Whether the same read has been going on for longer than the limit."""
        if reading != self._last:
            self._last = reading
            self._since = now
        return reading.stage is not Stage.IDLE and now - self._since >= self._limit_s

"""When the next sweep is due. One rule: a fixed grid, at most one sweep per slot, missed slots are counted.

Pure: `now` is an argument. Sweeps that take long, a suspended machine or a missing procmond cause neither
drift nor a burst of sweeps to catch up.
"""

from __future__ import annotations

import math


class Schedule:
    """Slots at `start`, `start + interval_s`, `start + 2 * interval_s`, ... (seconds, a monotonic clock)."""

    def __init__(self, interval_s: float, *, start: float) -> None:
        if not interval_s > 0:
            raise ValueError(f"interval_s: {interval_s}; above 0")
        self._interval_s = interval_s
        self._start = start
        self._slot = 0
        self.skipped = 0
        """Slots in which no sweep began."""

    @property
    def due_at(self) -> float:
        """When the next sweep may begin; it lies in the past if its moment was missed."""
        return self._start + self._slot * self._interval_s

    def begin(self, now: float) -> int:
        """A sweep begins at `now`, for the slot `now` lies in. The next is due at the first slot after `now`.

        Returns how many slots before this one passed without a sweep. A call before `due_at` changes nothing
        but uses up the next slot: it is the sweep of that slot, begun early.
        """
        current = max(self._slot, math.floor((now - self._start) / self._interval_s))
        missed = current - self._slot
        self.skipped += missed
        self._slot = current + 1
        return missed

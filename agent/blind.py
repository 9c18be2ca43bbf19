"""When the agent did not see what happened. One rule: an interval has a start, an end, a reason, and stays.

Pure: the time is an argument. Intervals are kept as what the control socket shows of them.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import NamedTuple

import msgspec

from agent.control_messages import BlindInterval
from common.limits import BLIND_INTERVALS_KEPT
from common.messages import Gap

STARTED = "agent_started"
"""The reason until the first snapshot: nobody saw what ran before."""


class Moment(NamedTuple):
    """One point in time on both clocks."""

    boot_ns: int
    """CLOCK_BOOTTIME, which goes on while the machine is suspended."""
    wall_ms: int
    """Unix time."""

    def at(self, boot_ns: int) -> Moment:
        """The moment of another boot time, as the two clocks stand now."""
        return Moment(boot_ns, self.wall_ms + (boot_ns - self.boot_ns) // 1_000_000)


class BlindLog:
    """The last `limit` intervals, at most one of them open, and totals of all."""

    def __init__(self, limit: int = BLIND_INTERVALS_KEPT) -> None:
        self.open: BlindInterval | None = None
        self.total = 0
        """Intervals so far, the open one included."""
        self.blind_ns = 0
        """Length of all that ended; where two overlap, the time counts twice."""
        self.losses: Counter[str] = Counter()
        """Events known to be lost, by reason."""
        self._ended: deque[BlindInterval] = deque(maxlen=limit)

    def begin(self, reason: str, detail: str, at: Moment) -> BlindInterval:
        """From `at` on nothing is seen. An interval that is open ends here."""
        self.end(at)
        self.total += 1
        self.open = BlindInterval(
            reason=reason, detail=detail, from_ms=at.wall_ms, from_boot_ns=max(at.boot_ns, 0)
        )
        return self.open

    def end(self, at: Moment) -> BlindInterval | None:
        """From `at` on everything is seen again; the interval that ends thereby, if one was open."""
        if self.open is None:
            return None
        to_boot_ns = max(at.boot_ns, self.open.from_boot_ns)
        ended = msgspec.structs.replace(
            self.open, to_ms=max(at.wall_ms, self.open.from_ms), to_boot_ns=to_boot_ns
        )
        self.open = None
        self._keep(ended)
        return ended

    def add(self, gap: Gap, now: Moment) -> BlindInterval:
        """An interval that is over when it becomes known; without times it is the moment `now`."""
        to_ns = min(gap.to_boot_time_ns or now.boot_ns, now.boot_ns)
        from_ns = min(gap.from_boot_time_ns or to_ns, to_ns)
        for loss in gap.losses:
            self.losses[loss.reason] += loss.count
        if not gap.losses:
            self.losses[gap.reason] += gap.count
        interval = BlindInterval(
            reason=gap.reason,
            from_ms=now.at(from_ns).wall_ms,
            to_ms=now.at(to_ns).wall_ms,
            from_boot_ns=from_ns,
            to_boot_ns=to_ns,
            count=gap.count,
        )
        self.total += 1
        self._keep(interval)
        return interval

    def explains(self) -> bool:
        """Whether some interval may have hidden what is found now."""
        return self.open is not None or any(not interval.repaired for interval in self._ended)

    def repair(self, began_ns: int) -> None:
        """All that ran at `began_ns` or later was compared: what ended before is made good."""
        for _ in range(len(self._ended)):
            interval = self._ended.popleft()
            if not interval.repaired and (interval.to_boot_ns or 0) <= began_ns:
                interval = msgspec.structs.replace(interval, repaired=True)
            self._ended.append(interval)

    def last(self, number: int) -> tuple[BlindInterval, ...]:
        """The last `number` intervals, oldest first, the open one at the end."""
        intervals = [*self._ended, *([self.open] if self.open else [])]
        return tuple(intervals[-number:]) if number else ()

    def _keep(self, interval: BlindInterval) -> None:
        self.blind_ns += (interval.to_boot_ns or 0) - interval.from_boot_ns
        self._ended.append(interval)

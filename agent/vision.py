"""What the agent sees of what happens. One rule: a change is an interval, a log line and a state at once."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from agent.blind import STARTED, BlindLog, Moment
from agent.control_messages import Sight
from common.logs import get_logger
from common.messages import EventSource, Gap

_log = get_logger(__name__)

POLLING = "polling_source"


def now() -> Moment:
    """The present moment."""
    return Moment(time.clock_gettime_ns(time.CLOCK_BOOTTIME), time.time_ns() // 1_000_000)


class Vision:
    """Blind from `at` on, until told otherwise; `seen_ms` is when an agent before this one last saw (Unix
    milliseconds), which is where the first interval begins."""

    def __init__(self, at: Moment, seen_ms: int | None = None) -> None:
        self.intervals = BlindLog()
        self.sight = Sight.BLIND
        self.detail = ""
        """Why `sight` is not better."""
        self.on_change: Callable[[], None] = lambda: None
        """Called after each change, on the loop; must not block."""
        detail = "no snapshot yet"
        if seen_ms is not None and seen_ms < at.wall_ms:
            # An earlier boot ended somewhere in between; what this one's clock can tell begins with it.
            away_ns = (at.wall_ms - seen_ms) * 1_000_000
            detail, at = "no agent saw what ran in between", Moment(max(at.boot_ns - away_ns, 0), seen_ms)
        self.lose(STARTED, detail, at)

    def lose(self, reason: str, detail: str, at: Moment) -> None:
        """From `at` on no events are seen. Blind for the same reason already: nothing changes."""
        self.sight, self.detail = Sight.BLIND, detail
        self._begin(reason, detail, at)
        self.on_change()

    def see(self, source: EventSource, detail: str, at: Moment) -> None:
        """From `at` on events are seen, as well as `source` can; `detail` says why there is no better one."""
        if source is EventSource.POLLING:
            self.sight, self.detail = Sight.POLLING, detail
            self._begin(POLLING, detail, at)
        else:
            self.sight, self.detail = Sight.LIVE, detail
            self._end(at)
        self.on_change()

    def note_gap(self, gap: Gap, at: Moment) -> None:
        """Events were lost in an interval that is over."""
        interval = self.intervals.add(gap, at)
        _log.warning(
            "events_lost",
            reason=gap.reason,
            count=gap.count or None,
            losses={f"{loss.reason}:{loss.kind.name.lower()}": loss.count for loss in gap.losses},
            from_ms=interval.from_ms,
            to_ms=interval.to_ms,
        )
        self.on_change()

    def _begin(self, reason: str, detail: str, at: Moment) -> None:
        if self.intervals.open is not None and self.intervals.open.reason == reason:
            return
        self._end(at)
        began = self.intervals.begin(reason, detail, at)
        # Starting is no trouble, and needs no attention.
        log = _log.info if reason == STARTED else _log.warning
        log("blind_interval_began", reason=reason, detail=detail, from_ms=began.from_ms)

    def _end(self, at: Moment) -> None:
        ended = self.intervals.end(at)
        if ended is not None:
            _log.info("blind_interval_ended", **msgspec.structs.asdict(ended))

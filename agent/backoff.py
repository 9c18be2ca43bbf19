"""When to try again. One rule: the longer it fails the rarer the attempts, and never all at the same moment.

Pure: `now` and the source of randomness are arguments. Full jitter as measured in
https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/ .
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from common.limits import BREAKER_COOL_DOWN_S, BREAKER_FAILURES, RECONNECT_INITIAL_S, RECONNECT_MAX_S


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with full jitter: the wait is uniform between 0 and a bound that doubles."""

    initial_s: float = RECONNECT_INITIAL_S
    """Seconds; the bound after the first failure."""
    maximum_s: float = RECONNECT_MAX_S
    """Seconds; the bound never grows beyond it."""

    def bound(self, failures: int) -> float:
        """Seconds; the longest wait after `failures` (1 or more) failures in a row."""
        # 2**1023 is the largest power of two a double holds; the maximum is reached long before.
        return min(self.maximum_s, self.initial_s * 2.0 ** min(failures - 1, 1000))

    def wait(self, failures: int, random: Callable[[], float]) -> float:
        """Seconds to wait after `failures` (1 or more) in a row. `random` gives floats in [0, 1)."""
        return self.bound(failures) * random()


class BreakerState(Enum):
    """Whether attempts are made."""

    CLOSED = "closed"
    """They are."""
    OPEN = "open"
    """They are not: too many failed in a row."""
    HALF_OPEN = "half_open"
    """One is, and decides."""


class Breaker:
    """Stops attempts for `cool_down_s` seconds after `threshold` failures in a row; then lets one decide."""

    def __init__(
        self, *, threshold: int = BREAKER_FAILURES, cool_down_s: float = BREAKER_COOL_DOWN_S
    ) -> None:
        self._threshold = threshold
        self._cool_down_s = cool_down_s
        self._open_until = 0.0
        self.failures = 0
        """Failures since the last success."""
        self.openings = 0
        """How often it opened, half-open attempts that failed included."""

    def remaining(self, now: float) -> float:
        """Seconds until an attempt is allowed; 0.0: now."""
        return max(0.0, self._open_until - now) if self.failures >= self._threshold else 0.0

    def state(self, now: float) -> BreakerState:
        """Whether attempts are made at `now`."""
        if self.failures < self._threshold:
            return BreakerState.CLOSED
        return BreakerState.OPEN if self.remaining(now) else BreakerState.HALF_OPEN

    def failed(self, now: float) -> bool:
        """An attempt failed at `now`. True if the breaker, closed until then, opened."""
        self.failures += 1
        if self.failures >= self._threshold:
            self.openings += 1
            self._open_until = now + self._cool_down_s
        return self.failures == self._threshold

    def succeeded(self) -> None:
        """What is being tried works."""
        self.failures = 0

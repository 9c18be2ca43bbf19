"""When a child that ended is started again. One rule: a sound one at once, others after growing waits.

Pure.
"""

from __future__ import annotations

from typing import Final

STABLE_S: Final = 10.0
"""A child that lived as long as this counts as sound when it ends: it is replaced at once."""
RETRY_BASE_S: Final = 0.05
RETRY_CAP_S: Final = 0.8
"""Replacing a child that keeps dying is put off up to this: below the second in which one is promised."""

_MAX_DOUBLINGS: Final = 16
"""Beyond the cap long before; without a bound the number grows until it fits no float."""


class Restarts:
    """Starts that are due, by the child's name. Times are of one clock, in seconds."""

    def __init__(self) -> None:
        self._failures: dict[str, int] = {}
        self._due: dict[str, float] = {}

    def __bool__(self) -> bool:
        return bool(self._due)

    def ended(self, name: str, *, began: float, now: float) -> int:
        """Plan its replacement; how often in a row it has ended early."""
        failures = self._failures.get(name, 0) + 1 if now - began < STABLE_S else 0
        self._failures[name] = failures
        wait = min(RETRY_BASE_S * 2 ** min(failures - 1, _MAX_DOUBLINGS), RETRY_CAP_S) if failures else 0.0
        self._due[name] = now + wait
        return failures

    def start_now(self, name: str, now: float) -> None:
        """Put nothing off: its end was of our own doing."""
        self._due[name] = now

    def take(self, now: float) -> list[str]:
        """Those to be started now, which are then not due any more."""
        names = [name for name, due in self._due.items() if due <= now]
        for name in names:
            del self._due[name]
        return names

    def moments(self) -> list[float]:
        """When the next will be due."""
        return list(self._due.values())

    def cancel(self) -> None:
        """Nothing is started any more."""
        self._due.clear()

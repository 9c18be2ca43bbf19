"""Who made a collector stall, and is not read again for a while. One rule: pure, bounded, and it ends.

A culprit's own time grows with each stall. A user whose processes stall again and again is held to a bounded
cost: then nothing of that user's processes that can stall is read until the delay has passed. Root is not
held so: that would blind us to half the machine, and who is root here can do worse.
"""

from __future__ import annotations

from typing import Final

import msgspec

from procmond.pulse import Stage

BASE_DELAY_S: Final = 30.0
"""After the first stall: one scan interval."""
MAX_DELAY_S: Final = 3600.0
STALLS_OF_USER: Final = 3
"""Stalls of one user at a time before all of that user's processes are withheld: each cost a collector. Of a
culprit that was left alone until its time was up, the last one counts: its growing delay bounds the rest."""
MAX_ENTRIES: Final = 1024
"""Culprits remembered; then the one that is free soonest is forgotten."""
FORGET_AFTER: Final = 2.0
"""A culprit's count is kept for so many times its delay, so that the next stall is known as a repeat."""


def _delay(stalls: int) -> float:
    """Seconds after so many."""
    # Without a bound on the exponent, who stalls for weeks makes a number that fits no float.
    return min(BASE_DELAY_S * float(2 ** min(stalls - 1, 16)), MAX_DELAY_S)


class Culprit(msgspec.Struct, frozen=True):
    """One process that is not read."""

    pid: int
    start_ticks: int
    uid: int | None
    """Real; None: it was not to be known any more."""
    stage: int
    """The `Stage` that stalled, and is withheld."""
    until: float
    """On CLOCK_MONOTONIC, seconds."""
    repeated: bool = False
    """It stalled before: another name is no reason to read it."""


class Withheld(msgspec.Struct, frozen=True):
    """What a collector must not read, as of its start."""

    culprits: tuple[Culprit, ...] = ()
    users: tuple[tuple[int, float], ...] = ()
    """Uids all of whose processes are withheld, and until when."""
    everyone: bool = False
    """Degraded: nothing that can stall is read of anybody, because no further collector may be abandoned."""


class _Record(msgspec.Struct):
    culprit: Culprit
    stalls: int
    at_once: int
    """The latest in a row, each of which came before the delay of the one before had ended."""


class Quarantine:
    """Kept by the supervisor, because it outlives collectors."""

    def __init__(self) -> None:
        self._records: dict[tuple[int, int, int], _Record] = {}
        self._users: dict[int, float] = {}

    def stalled(self, pid: int, start_ticks: int, uid: int | None, stage: Stage, now: float) -> Culprit:
        """One more stall, of which this process is the cause."""
        self._forget(now)
        key = (pid, start_ticks, stage)
        known = self._records.get(key)
        stalls = known.stalls + 1 if known else 1
        at_once = known.at_once + 1 if known and known.culprit.until > now else 1
        culprit = Culprit(pid, start_ticks, uid, stage, now + _delay(stalls), repeated=stalls > 1)
        self._records[key] = _Record(culprit, stalls, at_once)
        if len(self._records) > MAX_ENTRIES:
            soonest = min(self._records, key=lambda one: self._records[one].culprit.until)
            del self._records[soonest]
        if not uid:
            return culprit
        of_user = [
            record
            for record in self._records.values()
            if record.culprit.uid == uid and record.culprit.until > now
        ]
        if sum(record.at_once for record in of_user) >= STALLS_OF_USER:
            self._users[uid] = max(record.culprit.until for record in of_user)
        return culprit

    def withheld(self, now: float) -> Withheld:
        """What the next collector must not read."""
        self._forget(now)
        return Withheld(
            culprits=tuple(record.culprit for record in self._records.values() if record.culprit.until > now),
            users=tuple(self._users.items()),
        )

    def _forget(self, now: float) -> None:
        for key, record in list(self._records.items()):
            delay = _delay(record.stalls)
            if record.culprit.until + FORGET_AFTER * delay < now:
                del self._records[key]
        for uid, until in list(self._users.items()):
            if until <= now:
                del self._users[uid]

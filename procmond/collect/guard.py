"""Before each read that may not come back. One rule: what stalled a collector once is withheld from the next,
until the process shows another face or its time is up. A name is no face of one that has stalled again: to
change it costs nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from procmond.pulse import Pulse, Stage
from procmond.quarantine import Withheld

NOBODY: Final = Withheld()

Face = tuple[object, object]
"""A process's name, and its image where that is known: what an exec or a renaming changes."""


class Guard:
    """The collector's end of the pulse, and its list of what not to read."""

    def __init__(
        self,
        pulse: Pulse | None = None,
        withheld: Withheld = NOBODY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pulse = pulse
        self._clock = clock
        self._until = {(one.pid, one.start_ticks, one.stage): one.until for one in withheld.culprits}
        self._repeated = {(one.pid, one.start_ticks, one.stage) for one in withheld.culprits if one.repeated}
        self._faces: dict[tuple[int, int, int], Face] = {}
        self._users = dict(withheld.users)
        self.reads_nothing = withheld.everyone
        """Degraded: nothing that can stall is read of anybody."""
        self.active = bool(self._until or self._users or self.reads_nothing)
        """Whether anything may be withheld: while it is not, `withholds` need not be asked."""
        self.users_matter = bool(self._users)

    def withholds(self, stage: Stage, pid: int, start_ticks: int, *, face: Face, uid: int | None) -> bool:
        """Whether this read is not to be made."""
        if self.reads_nothing:
            return True
        now = self._clock()
        if uid is not None and self._users.get(uid, now) > now:
            return True
        key = (pid, start_ticks, stage)
        until = self._until.get(key)
        if until is None:
            return False
        first = self._faces.setdefault(key, face)
        same = first[1] == face[1] if key in self._repeated else first == face
        if until > now and same:
            return True
        del self._until[key]
        return False

    def enter(self, stage: Stage, pid: int, start_ticks: int) -> None:
        """The next read is one that may not come back."""
        if self._pulse is not None:
            self._pulse.enter(stage, pid, start_ticks)

    def leave(self) -> None:
        """It came back."""
        if self._pulse is not None:
            self._pulse.leave()

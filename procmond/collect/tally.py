"""What one answer covers. One rule: pure counting, so that "none" and "not seen" never look alike."""

from __future__ import annotations

from collections import Counter

from common.messages import CollectionSummary, HashState, Loss, ProcessEventKind
from procmond.collect.sighting import FileIdentity


class Tally:
    """Counts for one CollectionSummary."""

    def __init__(self) -> None:
        self.seen = 0
        self.returned = 0
        self.vanished = 0
        self.inaccessible = 0
        self.losses: Counter[tuple[str, ProcessEventKind]] = Counter()
        """By reason and kind; UNSPECIFIED where the kind says nothing."""
        self.events_delivered = 0
        self._states: dict[FileIdentity | int, HashState] = {}

    def image(self, key: FileIdentity | int, state: HashState) -> None:
        """The image of a returned process is in `state`; `key` is its identity, or the pid where unknown."""
        self._states[key] = state

    def summary(self, *, duration_us: int, boot_time: int) -> CollectionSummary:
        """The summary so far."""
        states = tuple(self._states.values())
        without = states.count(HashState.NO_EXECUTABLE)
        hashed, pending = states.count(HashState.OK), states.count(HashState.PENDING)
        return CollectionSummary(
            processes_seen=self.seen,
            processes_returned=self.returned,
            processes_vanished=self.vanished,
            processes_inaccessible=self.inaccessible,
            executables_hashed=hashed,
            executables_pending=pending,
            executables_unhashed=len(states) - hashed - pending - without,
            duration_us=duration_us,
            boot_time=boot_time,
            events_delivered=self.events_delivered,
            events_lost=self.losses.total(),
            losses=tuple(
                Loss(reason=reason, count=count, kind=kind)
                for (reason, kind), count in sorted(self.losses.items())
            ),
        )

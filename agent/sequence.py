"""Whether a live stream is whole. One rule: a number that is missing is covered by a gap or counted. Pure."""

from __future__ import annotations

from common.errors import EventOrderError
from common.messages import ProcessEvent


class SequenceCheck:
    """The numbers of one subscription's events, which have no holes except where a gap says so."""

    def __init__(self) -> None:
        self._next: int | None = None

    def check(self, event: ProcessEvent) -> int:
        """How many events before this one are missing without a word.

        The first event may have any number. A gap covers the numbers it names, and has one of its own before,
        among or after them. Raises: EventOrderError for a number that was there already: nothing such a
        stream says can be put in order.
        """
        first = last = event.sequence
        gap = event.gap
        if gap is not None and gap.to_sequence:
            last = max(last, gap.to_sequence)
            # A number below what was due is no number of the gap's own.
            own = event.sequence if self._next is None or event.sequence >= self._next else gap.from_sequence
            first = min(own, gap.from_sequence)
        expected, self._next = self._next, last + 1
        if expected is None:
            return 0
        if last < expected:
            raise EventOrderError(expected, event.sequence)
        return max(0, first - expected)

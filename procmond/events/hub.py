"""From one stream of events to many. One rule: every event that came has a fate for every subscriber, and all
fates add up.

Pure. For one subscriber: taken from the kernel + lost before = delivered + filtered + shown by a snapshot +
dropped, by reason + still waiting.
"""

from __future__ import annotations

import struct
from collections import Counter
from typing import Final, NamedTuple

from common.errors import PeerError
from common.messages import EventSource, ProcessEventKind
from procmond.events.event import REPORTED, Event
from procmond.events.source import Losses, Totals
from procmond.events.subscriber import Subscriber

_RESUME: Final = struct.Struct("<BQQQ5Q")

COLLECTOR_LOST: Final = "collector_lost"


class Resume(NamedTuple):
    """How far one subscriber's stream got, for the collector after this one."""

    source: EventSource
    next: int
    """Number of the next event."""
    began_ns: int
    """Boot time when the stream began."""
    until_ns: int
    """Boot time up to which it is complete."""
    settled: tuple[int, ...]
    """Events whose fate it has told, by the source's count, in the order of REPORTED."""

    def encode(self) -> bytes:
        """For the line to the front, which gives it back unread."""
        return _RESUME.pack(self.source, self.next, self.began_ns, self.until_ns, *self.settled)


def decode_resume(raw: bytes) -> Resume:
    """Raises: PeerError when it is not what `Resume.encode` made."""
    if len(raw) != _RESUME.size:
        raise PeerError(f"resume of {len(raw)} bytes")
    source, number, began_ns, until_ns, *settled = _RESUME.unpack(raw)
    return Resume(EventSource(source), number, began_ns, until_ns, tuple(settled))


class Hub:
    """The subscribers, and what was published to all of them."""

    def __init__(self) -> None:
        self.subscribers: list[Subscriber] = []
        self.source = EventSource.UNSPECIFIED
        self.settled: Counter[ProcessEventKind] = Counter()
        """Events of the source in force whose way through this process is over, or that were lost before, by
        kind: comparable over collectors as long as the source is the same."""
        self._ended_lost: Counter[tuple[str, ProcessEventKind]] = Counter()
        self._ended_delivered = 0
        self._kernel_lost: Counter[tuple[str, ProcessEventKind]] = Counter()

    def start(self, source: EventSource, totals: Totals | None) -> None:
        """A source takes over, which has counted so much before."""
        self.source = source
        self.settled.clear()
        if totals is not None:
            self.settled.update(totals.taken)
            for (_, kind), count in totals.lost.items():
                self.settled[kind] += count

    def publish(self, event: Event) -> None:
        """An event of the source in force."""
        self.settled[event.kind] += 1
        for subscriber in self.subscribers:
            subscriber.offer(event)

    def discard(self, kind: ProcessEventKind, count: int = 1) -> None:
        """Events came that nobody is there to hear of."""
        self.settled[kind] += count

    def lose(self, losses: Losses, since_ns: int, until_ns: int) -> None:
        """The source lost events in this interval."""
        by_reason: dict[str, Counter[ProcessEventKind]] = {}
        for (reason, kind), count in losses.items():
            by_reason.setdefault(reason, Counter())[kind] += count
            self._kernel_lost[reason, kind] += count
            self.settled[kind] += count
        for reason, counts in by_reason.items():
            self.interrupt(reason, counts, since_ns, until_ns)

    def interrupt(self, reason: str, counts: Counter[ProcessEventKind], since_ns: int, until_ns: int) -> None:
        """Nobody heard of what happened in this interval; empty `counts`: nobody knows how much."""
        for subscriber in self.subscribers:
            subscriber.miss(reason, counts, since_ns, until_ns, exact=subscriber.wish.unfiltered)

    def add(self, subscriber: Subscriber, resume: Resume | None, now_ns: int) -> None:
        """Somebody listens from now on; with `resume`, goes on after a lost collector."""
        if resume is not None:
            counts: Counter[ProcessEventKind] = Counter()
            if resume.source == self.source:
                for kind, settled in zip(REPORTED, resume.settled, strict=True):
                    counts[kind] = max(0, self.settled[kind] - settled)
            subscriber.miss(
                COLLECTOR_LOST, +counts, resume.until_ns, now_ns, exact=subscriber.wish.unfiltered
            )
        self.subscribers.append(subscriber)

    def remove(self, subscriber: Subscriber) -> None:
        """Somebody listens no more."""
        self.subscribers.remove(subscriber)
        self._ended_lost += subscriber.lost
        self._ended_delivered += subscriber.delivered.total()

    def resume(self, subscriber: Subscriber, began_ns: int, now_ns: int) -> Resume:
        """How far this subscriber's stream is once all it has given out has arrived."""
        settled = tuple(max(0, self.settled[kind] - subscriber.unsettled[kind]) for kind in REPORTED)
        return Resume(self.source, subscriber.next, began_ns, now_ns, settled)

    @property
    def delivered(self) -> int:
        """Events handed out since this collector began, counted for each subscriber."""
        return self._ended_delivered + sum(one.delivered.total() for one in self.subscribers)

    @property
    def lost(self) -> Counter[tuple[str, ProcessEventKind]]:
        """What the source lost, once, and what each subscriber did not take."""
        own = Counter(self._ended_lost)
        for subscriber in self.subscribers:
            own.update(subscriber.lost)
        kernel = {reason for reason, _ in self._kernel_lost}
        return self._kernel_lost + Counter({key: n for key, n in own.items() if key[0] not in kernel})

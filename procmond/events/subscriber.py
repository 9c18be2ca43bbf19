"""One subscriber's queue. One rule: what is not delivered is counted by kind, and a gap stands in its place.

Pure. The life of a subscriber: a snapshot is under way (events wait, unfiltered, for nobody knows yet what
the snapshot will show); then events pass the filters as they come. A gap in what the kernel gave, not in what
this reader took, asks for another snapshot.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection
from typing import Final

import msgspec

from common import codec
from common.limits import MIB
from common.messages import Gap, Loss, ProcessEvent, ProcessEventKind
from procmond.collect.hash_cache import SHA256_ONLY, Algorithms
from procmond.collect.hashes import further_digests
from procmond.collect.records import embed_record, encode_sequence
from procmond.events.event import Event, Key, Losses
from procmond.events.facts import NANOSECONDS_PER_TICK

MAX_QUEUED_EVENTS: Final = 8192
"""Events waiting for a subscriber that does not read: two to three seconds of 1,000 short processes."""
MAX_QUEUED_BYTES: Final = 4 * MIB
"""Of their encoded form, so that long arguments do not multiply into memory."""

QUEUE_FULL: Final = "subscriber_queue_full"

_EXIT: Final = ProcessEventKind.EXIT
_FORK: Final = ProcessEventKind.FORK
_IN_SNAPSHOT: Final = frozenset({ProcessEventKind.EXEC, ProcessEventKind.CREDENTIALS})
"""Kinds whose effect a later look at the process shows."""


class Wish(msgspec.Struct, frozen=True):
    """What a subscriber wants to hear of."""

    matches: Callable[[int, str, str | None], bool] | None = None
    """(pid, name, executable path); None: all."""
    roots: frozenset[int] = frozenset()
    """Pids whose trees are meant; empty: everything."""
    kinds: frozenset[int] = frozenset()
    """Empty: all. Gaps and the end of a snapshot are always sent: they say what the rest is worth."""
    algorithms: Algorithms = SHA256_ONLY
    cached_hashes: bool = False
    """Nobody reads files for this subscriber."""
    environment: bool = False
    unfiltered: bool = True
    """Whether every event is meant, so that a count of what was lost is exact for it."""

    def takes(self, kind: ProcessEventKind) -> bool:
        """Whether events of this kind are wanted."""
        return not self.kinds or kind in self.kinds


class _Missing(msgspec.Struct):
    """A gap that waits in the queue."""

    reason: str
    losses: Counter[ProcessEventKind]
    since_ns: int
    until_ns: int
    numbered: bool
    """What is missing had passed the filters, so it takes numbers of the sequence."""
    resync: bool
    exact: bool
    """The counts are of this subscriber's events alone, not of all there were."""


class Subscriber:
    """Numbers what leaves it: 1, 2, 3, ... over its whole life, a lost collector's share included."""

    def __init__(
        self,
        wish: Wish,
        *,
        began_ns: int,
        since_ns: int = 0,
        first: int = 1,
        max_events: int = MAX_QUEUED_EVENTS,
        max_bytes: int = MAX_QUEUED_BYTES,
        wake: Callable[[], None] = lambda: None,
        wall_ms: Callable[[int], int] = lambda _: 0,
    ) -> None:
        """`began_ns` (boot time) is when the stream began, `since_ns` when it goes on: earlier events are
        none of its. `first` is the next event's number. `wall_ms` gives the Unix milliseconds of a boot time.
        """
        self.wish = wish
        self.next = first
        self.snapshot_due = True
        self.delivered: Counter[ProcessEventKind] = Counter()
        self.lost: Counter[tuple[str, ProcessEventKind]] = Counter()
        self.filtered: Counter[ProcessEventKind] = Counter()
        self.repeated: Counter[ProcessEventKind] = Counter()
        """Left out because the snapshot shows what they say."""
        self.unsettled: Counter[ProcessEventKind] = Counter()
        """Offered, or known to be lost, and not said yet."""
        self._began_ns = began_ns
        self._since_ns = since_ns
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._wake = wake
        self._wall_ms = wall_ms
        self._queue: deque[Event | _Missing] = deque()
        self._events = 0
        self._bytes = 0
        self._joining = True
        self._takes_all = False
        """Nothing has to be compared: there is no filter, and no snapshot shows what may be told again."""
        self._shown: dict[Key, int] = {}
        self._inside: set[Key] = set()

    # ----------------------------------------------------------------------------------------- the hub's

    def offer(self, event: Event) -> None:
        """An event happened."""
        if event.boot_ns < self._since_ns:
            self.filtered[event.kind] += 1
            return
        if not (self._takes_all or self._joining or self._admits(event)):
            return
        size = len(event.body)
        if self._events >= self._max_events or self._bytes + size > self._max_bytes:
            self._miss(QUEUE_FULL, Counter({event.kind: 1}), event.boot_ns, event.boot_ns)
            return
        if not self._queue:
            self._wake()
        self._queue.append(event)
        self._events += 1
        self._bytes += size
        self.unsettled[event.kind] += 1

    def miss(self, reason: str, losses: Losses, since_ns: int, until_ns: int, *, exact: bool = True) -> None:
        """Events were lost before they came here, in this interval; a snapshot is to follow the gap."""
        self._miss(reason, Counter(losses), since_ns, until_ns, resync=True, exact=exact)
        self._wake()

    def _miss(
        self,
        reason: str,
        losses: Counter[ProcessEventKind],
        since_ns: int,
        until_ns: int,
        *,
        resync: bool = False,
        exact: bool = True,
    ) -> None:
        self.unsettled += losses
        for kind, count in losses.items():
            self.lost[reason, kind] += count
        last = self._queue[-1] if self._queue else None
        if isinstance(last, _Missing) and last.reason == reason:
            last.losses += losses
            last.until_ns = max(last.until_ns, until_ns)
            return
        self._queue.append(
            _Missing(reason, losses, since_ns, until_ns, numbered=not resync, resync=resync, exact=exact)
        )

    # ------------------------------------------------------------------------------------- the snapshot's

    def begin_snapshot(self) -> None:
        """From now on events wait until `end_snapshot`."""
        self._joining = True
        self._takes_all = False
        self.snapshot_due = False
        self._shown.clear()

    def belongs(self, key: Key, ancestors: Collection[Key]) -> bool:
        """Whether a process that a sweep found is in one of the trees; parents must be asked about first."""
        if not self.wish.roots:
            return True
        # A root is a process that was there when the stream began, not one that got its number since.
        root = key[0] in self.wish.roots and key[1] <= self._began_ns // NANOSECONDS_PER_TICK
        if root or not self._inside.isdisjoint(ancestors):
            self._inside.add(key)
        return key in self._inside

    def show(self, key: Key, looked_ns: int) -> None:
        """A process is shown as it was from `looked_ns` on."""
        self._shown[key] = looked_ns

    def number(self) -> int:
        """The number of one more event that is sent now."""
        self.next += 1
        return self.next - 1

    def end_snapshot(self) -> None:
        """What waited passes the filters now."""
        self._joining = False
        waiting, self._queue = self._queue, deque()
        self._events = self._bytes = 0
        for item in waiting:
            if isinstance(item, _Missing):
                self._queue.append(item)
                continue
            if not self._admits(item):
                self.unsettled[item.kind] -= 1
                continue
            self._queue.append(item)
            self._events += 1
            self._bytes += len(item.body)
        self._shown.clear()
        self._takes_all = self.wish.unfiltered

    # ---------------------------------------------------------------------------------------- the writer's

    def __bool__(self) -> bool:
        """Whether there is something to send."""
        return bool(self._queue) or self.snapshot_due

    def take(self, limit: int) -> list[bytes]:
        """Encoded ProcessEvents of about `limit` bytes at most, oldest first; ends with a gap after which a
        snapshot is due."""
        taken: list[bytes] = []
        kinds: list[ProcessEventKind] = []
        queue = self._queue
        plain = not self._inside and not self.wish.environment and self.wish.algorithms == SHA256_ONLY
        while queue and limit > 0 and not self.snapshot_due:
            item = queue.popleft()
            if isinstance(item, _Missing):
                piece = self._gap(item)
            elif plain:  # nothing is this subscriber's alone but the number
                kinds.append(item.kind)
                body = item.body
                self._bytes -= len(body)
                piece = body + encode_sequence(self.next)
                self.next += 1
            else:
                kinds.append(item.kind)
                piece = self._event(item)
            taken.append(piece)
            limit -= len(piece)
        self._events -= len(kinds)
        for kind, count in Counter(kinds).items():
            self.unsettled[kind] -= count
            self.delivered[kind] += count
        return taken

    def _event(self, event: Event) -> bytes:
        body = event.body
        self._bytes -= len(body)
        if event.kind is _EXIT and self._inside:
            self._inside.discard(event.key)
        body += encode_sequence(self.next)
        self.next += 1
        wish = self.wish
        if event.outcome is not None and wish.algorithms != SHA256_ONLY:
            body += embed_record(further_digests(event.outcome, wish.algorithms))
        if event.environment and wish.environment:
            body += embed_record(event.environment)
        return body

    def _gap(self, missing: _Missing) -> bytes:
        self.unsettled -= missing.losses  # drops entries that reach 0
        count = missing.losses.total()
        first = last = 0
        if missing.numbered:
            first, last = self.next, self.next + count - 1
            self.next += count
        if missing.resync:
            self.snapshot_due = True
        gap = Gap(
            reason=missing.reason,
            count=count if missing.exact else 0,
            from_sequence=first,
            to_sequence=last,
            from_boot_time_ns=missing.since_ns,
            to_boot_time_ns=missing.until_ns,
            losses=tuple(
                Loss(reason=missing.reason, count=lost, kind=kind)
                for kind, lost in sorted(missing.losses.items())
                if lost
            ),
        )
        return codec.encode(
            ProcessEvent(
                kind=ProcessEventKind.GAP,
                sequence=self.number(),
                boot_time_ns=missing.until_ns,
                wall_time_ms=self._wall_ms(missing.until_ns),
                gap=gap,
            )
        )

    # --------------------------------------------------------------------------------------------- filters

    def _admits(self, event: Event) -> bool:
        """Whether it is to be sent; counts it if not."""
        kind = event.kind
        shown = self._shown.get(event.key)
        if shown is not None and (kind is _FORK or (kind in _IN_SNAPSHOT and event.boot_ns <= shown)):
            self.repeated[kind] += 1
            return False
        if self.wish.roots and kind is _FORK and event.parent in self._inside:
            self._inside.add(event.key)
        wish = self.wish
        if (
            (wish.roots and event.key not in self._inside)
            or not wish.takes(kind)
            or (wish.matches is not None and not wish.matches(event.key[0], event.name, event.path))
        ):
            self.filtered[kind] += 1
            return False
        return True

"""Events that wait for a hash. One rule: what happened to one process, to its children, or to who has its
number next, stays in order; nobody else waits.

Pure but for the futures that are waited for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from procmond.events.event import Event, Key

MAX_WAITING: Final = 1024
"""Events in all lanes; one more, and the lane that waits longest goes without its hash."""

Finish = Callable[[], None]
"""Puts into the event what is known by now."""


class _Lane:
    """The events of one process, and of its children since, behind one that waits."""

    def __init__(self) -> None:
        self.items: deque[tuple[Event, Finish | None]] = deque()
        self.names: set[Key | int] = set()
        """The processes, and their numbers."""


class Lanes:
    """Lets events through, or behind those they must not overtake."""

    def __init__(self, deliver: Callable[[Event], None], capacity: int = MAX_WAITING) -> None:
        self._deliver = deliver
        self._capacity = capacity
        self._lanes: dict[Key | int, _Lane] = {}
        self._order: dict[int, _Lane] = {}
        """Lanes by the `id` of the event they wait for, oldest first."""
        self.waiting = 0

    def put(self, event: Event, finish: Finish | None = None) -> None:
        """An event; with `finish` it has to wait until `release` is called for it."""
        lane = None
        if self._lanes:
            lane = self._lanes.get(event.key)
            if lane is None and event.parent is not None:
                lane = self._lanes.get(event.parent)
            last_holder = self._lanes.get(event.key[0])
            if lane is None:  # the number is another's now: that it was free must be heard first
                lane = last_holder
            elif last_holder is not None and last_holder is not lane:
                self._let_go(last_holder)  # nobody can wait in two lanes
                self.put(event, finish)
                return
        if lane is None:
            if finish is None:
                self._deliver(event)
                return
            lane = _Lane()
        for name in (event.key, event.key[0]):
            if name not in self._lanes:
                lane.names.add(name)
                self._lanes[name] = lane
        if finish is not None:
            self._order[id(event)] = lane  # keeps its place when it is there already
        lane.items.append((event, finish))
        self.waiting += 1
        if self.waiting > self._capacity:
            self._release_first()

    def release(self, event: Event) -> None:
        """The event waits no longer, and neither does what only waited for it; twice is once."""
        lane = self._order.pop(id(event), None)
        if lane is None or lane.items[0][0] is not event:
            return  # told already; or behind another, and told when that is
        for name in lane.names:
            del self._lanes[name]
        self.waiting -= len(lane.items)
        for item, finish in lane.items:  # what is left finds new lanes: a child may wait, its parent no more
            if finish is None or id(item) in self._order:
                self.put(item, finish)
            else:
                finish()
                self.put(item)

    def flush(self) -> None:
        """Nothing waits any longer."""
        while self._order:
            self._release_first()

    def _release_first(self) -> None:
        self._let_go(self._order[next(iter(self._order))])

    def _let_go(self, lane: _Lane) -> None:
        for item, finish in tuple(lane.items):
            if finish is not None:
                self.release(item)

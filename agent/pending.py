"""Which result belongs to which waiter. One rule: a result is delivered once, to who asked, or counted.

Pure: values in, values out; `now` is an argument. The shell around it is agent/exchange.py.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

from common.errors import Busy, SequenceError, TaskIdError
from common.limits import CLIENT_FINISHED_IDS, CLIENT_MAX_IN_FLIGHT
from common.validate import check_task_id

WaiterT = TypeVar("WaiterT")


@dataclass(slots=True)
class Counters:
    """What a client saw and did not deliver, since it was made; shared by the connections of one agent."""

    late: int = 0
    """Results for tasks that were given up: expired, cancelled or broken."""
    duplicate: int = 0
    """Results for tasks that had been answered in full."""
    unknown: int = 0
    """Results for ids nobody asked with, or asked with too long ago to remember."""
    expired: int = 0
    """Tasks whose answer was not complete by their deadline."""
    broken: int = 0
    """Tasks whose frames were not 0, 1, 2, ..."""
    cancelled: int = 0
    """Tasks given up by who asked; the server was told, unless the connection was gone."""
    lost: int = 0
    """Tasks whose connection ended, or whose server gave the connection up (id "")."""
    reconnects: int = 0
    """Connections made after the first."""


class Verdict(Enum):
    """What to do with a result."""

    DELIVER = "deliver"
    """Hand it to the waiter; more follow."""
    COMPLETE = "complete"
    """Hand it to the waiter; it is the last."""
    BROKEN = "broken"
    """Fail the waiter with `error`: a frame is missing or repeated."""
    DROP = "drop"
    """Nobody waits for it; it was counted."""


@dataclass(frozen=True, slots=True)
class Match(Generic[WaiterT]):
    """The verdict over one result. `waiter` is None only for DROP, `error` only set for BROKEN."""

    verdict: Verdict
    waiter: WaiterT | None = None
    error: SequenceError | None = None


@dataclass(slots=True)
class _Entry(Generic[WaiterT]):
    waiter: WaiterT
    deadline: float | None
    next_sequence: int = 0


class PendingTable(Generic[WaiterT]):
    """Tasks in flight on one connection, and the ids of those that lately were.

    `limit` bounds the tasks in flight, `remembered` the finished ids: beyond it the oldest is forgotten, and
    a result for it counts as unknown instead of late or duplicate.
    """

    def __init__(
        self,
        counters: Counters,
        *,
        limit: int = CLIENT_MAX_IN_FLIGHT,
        remembered: int = CLIENT_FINISHED_IDS,
    ) -> None:
        self._counters = counters
        self._limit = limit
        self._remembered = remembered
        self._entries: dict[str, _Entry[WaiterT]] = {}
        self._finished: OrderedDict[str, bool] = OrderedDict()  # id -> answered in full

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, task_id: object) -> bool:
        return task_id in self._entries

    def register(self, task_id: str, waiter: WaiterT, *, deadline: float | None) -> None:
        """Remember who waits for `task_id`, until `deadline` (clock as for `expire`; None: for ever).

        Raises: TaskIdError for an id that is empty, too long or in flight already, over which the server
        would close the connection; Busy when `limit` tasks are in flight.
        """
        check_task_id(task_id)
        if task_id in self._entries:
            raise TaskIdError(f"task_id: {task_id!r} is in flight on this connection already")
        if len(self._entries) >= self._limit:
            raise Busy(f"{self._limit} tasks wait for an answer already; wait for one to end")
        self._finished.pop(task_id, None)
        self._entries[task_id] = _Entry(waiter, deadline)

    def match(self, task_id: str, sequence: int, *, more: bool) -> Match[WaiterT]:
        """Judge one result, given its id, its place in the answer and whether more follow.

        For a server that answers in one frame pass sequence 0 and more False, whatever the frame says.
        """
        entry = self._entries.get(task_id)
        if entry is None:
            self._count_stray(task_id)
            return Match(Verdict.DROP)
        if sequence != entry.next_sequence:
            self._counters.broken += 1
            self._end(task_id, answered=False)
            return Match(Verdict.BROKEN, entry.waiter, SequenceError(task_id, entry.next_sequence, sequence))
        entry.next_sequence += 1
        if more:
            return Match(Verdict.DELIVER, entry.waiter)
        self._end(task_id, answered=True)
        return Match(Verdict.COMPLETE, entry.waiter)

    def abandon(self, task_id: str) -> bool:
        """Give a task up: what still comes for it is late. False if it was not in flight (any more)."""
        if task_id not in self._entries:
            return False
        self._counters.cancelled += 1
        self._end(task_id, answered=False)
        return True

    def expire(self, now: float) -> list[tuple[str, WaiterT]]:
        """Take out the tasks whose deadline is `now` or earlier, in the order they were registered."""
        due = [
            (task_id, entry.waiter)
            for task_id, entry in self._entries.items()
            if entry.deadline is not None and entry.deadline <= now
        ]
        for task_id, _ in due:
            self._counters.expired += 1
            self._end(task_id, answered=False)
        return due

    def fail_all(self) -> Iterator[WaiterT]:
        """Take out every task, because the connection ended or a result with id "" spoke of it."""
        while self._entries:
            task_id, entry = next(iter(self._entries.items()))
            self._counters.lost += 1
            self._end(task_id, answered=False)
            yield entry.waiter

    def _count_stray(self, task_id: str) -> None:
        answered = self._finished.get(task_id)
        if answered is None:
            self._counters.unknown += 1
        elif answered:
            self._counters.duplicate += 1
        else:
            self._counters.late += 1

    def _end(self, task_id: str, *, answered: bool) -> None:
        del self._entries[task_id]
        self._finished[task_id] = answered
        if len(self._finished) > self._remembered:
            self._finished.popitem(last=False)

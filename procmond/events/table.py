"""The processes known from events and sweeps. One rule: keyed by identity, so a number that is used again
never speaks for the one before.

Pure. Those that ended are remembered for a while, because their children, and events that come late, still
refer to them. Losses leave traces: a process whose exit was lost goes when its number is seen again, or when
a sweep does not find it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container, Iterator
from typing import Final

import msgspec

from procmond.events.event import Key

MAX_PROCESSES: Final = 65_536
"""Known at a time, those that ended included; some 300 bytes each, and the record."""
MAX_ENDED: Final = 8192
"""Of them ended: ten seconds of 800 short processes a second."""
ENDED_NS: Final = 60 * 1_000_000_000
"""How long one that ended is remembered. Late events come within a second; children ask for longer."""
MAX_RECORD_BYTES: Final = 2048
"""Of a record that is kept; of a larger one nothing can be inherited."""
MAX_ANCESTORS: Final = 1024
"""Of one process: more than any chain of shells, and an end for a chain that runs in a circle."""


class Process(msgspec.Struct, gc=False):
    """What is known of one process."""

    key: Key
    parent: Key | None
    """Who forked it; from a sweep, who its parent was then."""
    name: str
    path: str | None
    record: bytes = b""
    """The encoded ProcessRecord of its present image, where it is known; the parent's after a fork."""
    forked: bool = False
    """Its fork was told, so that `parent` is who forked it."""
    ended_ns: int = 0
    """0 while it lives."""
    heard_ns: int = 0
    """When it was last heard of, boot time."""


class ProcessTable:
    """Bounded; the one that ended longest ago goes first, then the one that was heard of longest ago."""

    def __init__(self, capacity: int = MAX_PROCESSES, ended: int = MAX_ENDED) -> None:
        self._capacity = capacity
        self._max_ended = ended
        self._known: OrderedDict[Key, Process] = OrderedDict()
        self._holders: dict[int, Key] = {}
        """Who has a number now."""
        self._ended: OrderedDict[Key, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[Process]:
        return iter(tuple(self._known.values()))

    def get(self, key: Key | None) -> Process | None:
        """The process with this identity, alive or ended."""
        return None if key is None else self._known.get(key)

    def holder(self, pid: int) -> Process | None:
        """Who has this number as far as events tell; None when it is nobody known, or it ended."""
        key = self._holders.get(pid)
        return None if key is None else self._known[key]

    def forked(self, key: Key, parent: Key | None, name: str, now_ns: int) -> Process:
        """A process was made; it runs its parent's image until it runs its own."""
        origin = self.get(parent)
        path, record = (None, b"") if origin is None else (origin.path, origin.record)
        return self._add(Process(key, parent, name, path, record, forked=True, heard_ns=now_ns), now_ns)

    def ran(
        self, key: Key, parent: Key | None, name: str, path: str | None, record: bytes, now_ns: int
    ) -> Process:
        """A process runs another image. `parent` counts only if the process was not known."""
        process = self._known.get(key)
        if process is None:
            process = self._add(Process(key, parent, name, path), now_ns)
        process.name, process.path, process.heard_ns = name, path, now_ns
        process.record = record if len(record) <= MAX_RECORD_BYTES else b""
        return process

    def found(
        self, key: Key, parent: Key | None, name: str, path: str | None, record: bytes, now_ns: int
    ) -> None:
        """A sweep met this process. What events said of its origin stands."""
        process = self._known.get(key)
        if process is not None and process.ended_ns:
            return  # the sweep looked before the end that was told meanwhile, or at a zombie
        self.ran(key, parent, name, path, record, now_ns)

    def exited(self, key: Key, now_ns: int) -> Process | None:
        """A process ended; what is known of it."""
        process = self._known.get(key)
        if process is not None and not process.ended_ns:
            self._end(process, now_ns)
        return process

    def keep_only(self, found: Container[Key], began_ns: int, now_ns: int) -> None:
        """A sweep that began at `began_ns` met all that lived then: any other has ended unnoticed."""
        for process in self:
            if not process.ended_ns and process.heard_ns < began_ns and process.key not in found:
                self._end(process, now_ns)

    def clear(self) -> None:
        """Forget all."""
        for known in (self._known, self._holders, self._ended):
            known.clear()

    def identify(self, process: Process, start_ticks: int) -> None:
        """When a process began that was known by its number alone."""
        key = (process.key[0], start_ticks)
        if key in self._known:
            return
        del self._known[process.key]
        process.key = key
        self._known[key] = process
        self._holders[key[0]] = key

    def ancestry(self, key: Key) -> list[Process]:
        """The process, who forked it, and so on, as far as it is known."""
        chain: list[Process] = []
        process = self._known.get(key)
        while process is not None and len(chain) < MAX_ANCESTORS:
            chain.append(process)
            process = self.get(process.parent)
        return chain

    def forget(self, now_ns: int) -> None:
        """Forget those that ended long ago."""
        while self._ended:
            key = next(iter(self._ended))
            if len(self._ended) <= self._max_ended and self._known[key].ended_ns + ENDED_NS > now_ns:
                break
            self._drop(key)

    def _add(self, process: Process, now_ns: int) -> Process:
        pid = process.key[0]
        before = self.holder(pid)
        if before is not None and before.key != process.key:
            self._end(before, now_ns)  # its exit was lost: the number is another's now
        known = self._known.get(process.key)
        if known is not None and process.forked and (known.forked or known.ended_ns):
            self._drop(process.key)  # within one tick of its start the number was given away again
        elif known is not None:  # known from a sweep, and now its fork is told
            if process.forked:
                known.parent, known.forked = process.parent, True
            return known
        self._known[process.key] = process
        self._holders[pid] = process.key
        if len(self._known) > self._capacity:
            self._drop(next(iter(self._ended), next(iter(self._known))))
        return process

    def _end(self, process: Process, now_ns: int) -> None:
        process.ended_ns = max(now_ns, 1)
        self._ended[process.key] = None
        if self._holders.get(process.key[0]) == process.key:
            del self._holders[process.key[0]]
        if len(self._ended) > self._max_ended:  # one more than there is room for
            self._drop(next(iter(self._ended)))

    def _drop(self, key: Key) -> None:
        del self._known[key]
        self._ended.pop(key, None)
        if self._holders.get(key[0]) == key:
            del self._holders[key[0]]

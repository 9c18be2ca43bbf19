"""Draining the ring buffer. One rule: what a reader has consumed is known even if it is killed.

The ring's consumer position lies in the map's own memory, and beside it, in memory shared with the
supervisor, the number of records consumed up to that position. A reader that is killed between two
instructions leaves both as they were before or after a drain, never between.

The layout is kernel/bpf/ringbuf.c's: a page with the consumer position, a page with the producer position,
then the data; each record behind a header of 8 bytes, at a multiple of 8.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import struct
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from common.messages import ProcessEventKind
from procmond.events.ebpf import Programs
from procmond.events.facts import KernelEvent
from procmond.events.libbpf import SAMPLE
from procmond.events.wire import KIND_OF, MalformedRecord, kind_at, parse_event

RING_BYTES: Final = 2 * 1024 * 1024
"""As records.bpf.h has it: some 1.5 s of 1,000 short processes a second, should nobody read."""
DRAIN_RECORDS: Final = 4096
"""In one drain, unless told: some 10 ms of parsing."""

_PAGE: Final = mmap.PAGESIZE
_BUSY: Final = 1 << 31  # include/uapi/linux/bpf.h
_DISCARDED: Final = 1 << 30
_STRONGLY_ORDERED: Final = frozenset({"x86_64", "i386", "i586", "i686", "s390x"})
"""Where a load is never moved before an earlier load, so that reading through Python is sound."""

_KINDS: Final = tuple(KIND_OF.values())
_COUNTERS: Final = struct.Struct("=6Q")
_COUNTERS_PER_KIND: Final = 8  # enum counter of records.bpf.h, room left
_NUMBER_OF: Final = {kind: number for number, kind in enumerate(_KINDS, 1)}  # enum kind of records.bpf.h


class Account(msgspec.Struct, frozen=True):
    """What became of the events of one kind, by the kernel's own count. `seen` is the sum of the others."""

    seen: int
    output: int
    """Handed to the ring."""
    outside: int
    """Of processes without a pid in procmond's namespace."""
    ring_full: int
    ring_busy: int
    """Refused although there was room."""
    no_scratch: int
    missed: int
    """The program did not run because it was running on this processor; the kernel's recursion_misses."""

    @property
    def dropped(self) -> int:
        """Lost: neither handed over nor outside."""
        return self.ring_full + self.ring_busy + self.no_scratch + self.missed


class _Ledger:
    """Two slots in shared memory; the one whose position is the ring's is valid."""

    _SLOT = struct.Struct("=6Q")  # position, records of each kind, malformed records

    def __init__(self, memory: mmap.mmap, position: int) -> None:
        self._memory = memory
        slots = [self._SLOT.unpack_from(memory, index * self._SLOT.size) for index in (0, 1)]
        self._valid = 0 if slots[0][0] == position else 1
        self.counts: list[int] = list(slots[self._valid][1:])

    def prepare(self, position: int) -> None:
        """Write `counts` so that they hold as soon as the ring's position is `position`."""
        self._valid ^= 1
        self._SLOT.pack_into(self._memory, self._valid * self._SLOT.size, position, *self.counts)


class EventRing:
    """The reader's end of the ring. Make it in the process that reads."""

    def __init__(self, programs: Programs, *, strongly_ordered: bool | None = None) -> None:
        """`strongly_ordered`: whether this processor is; found out unless told."""
        self._programs = programs
        if strongly_ordered is None:
            strongly_ordered = platform.machine() in _STRONGLY_ORDERED
        self._consumer_page = mmap.mmap(programs.ring, _PAGE)
        # Once, not twice as libbpf maps it: mapped pages count as resident. A record that wraps is copied.
        self._data = mmap.mmap(programs.ring, _PAGE + RING_BYTES, prot=mmap.PROT_READ, offset=_PAGE)
        self._counters = mmap.mmap(programs.counters, _PAGE, prot=mmap.PROT_READ)
        # Native items: one load or store each, where the struct module may go byte by byte.
        self._consumer = memoryview(self._consumer_page).cast("Q")
        self._producer = memoryview(self._data).cast("Q")
        self._lengths = memoryview(self._data).cast("I")
        self._ledger = _Ledger(programs.ledger, self._consumer[0])
        self._events: list[KernelEvent] = []
        self._ring_buffer: int | None = None
        if not strongly_ordered:
            self._sample = SAMPLE(self._take_sample)
            self._ring_buffer = programs.library.call(
                "ring_buffer__new", programs.ring, self._sample, None, None
            )

    def fileno(self) -> int:
        """Of the descriptor to wait on."""
        return self._programs.ring

    def drain(self, limit: int = DRAIN_RECORDS) -> list[KernelEvent]:
        """Take the records that are there, at most `limit` of them, oldest first.

        Records that cannot be parsed are counted (`malformed`) and skipped. Where the processor is not
        strongly ordered libbpf takes all that are there, and `limit` does not hold.
        """
        self._events = []
        if self._ring_buffer is None:
            self._walk(limit, self._take)
        else:
            self._programs.library.call("ring_buffer__consume", self._ring_buffer)
        return self._events

    def skip(self, limit: int = DRAIN_RECORDS) -> dict[ProcessEventKind, int]:
        """As `drain`, but of the records nothing is taken but how many there were, by kind."""
        before = tuple(self._ledger.counts)
        if self._ring_buffer is None:
            self._walk(limit, self._count)
        else:
            self.drain()
        return {
            kind: now - then
            for kind, then, now in zip(_KINDS, before, self._ledger.counts, strict=False)
            if now > then
        }

    @property
    def consumed(self) -> Mapping[ProcessEventKind, int]:
        """Records that this reader and those before it have taken out of the ring, by kind."""
        return dict(zip(_KINDS, self._ledger.counts, strict=False))

    @property
    def malformed(self) -> int:
        """Records taken that were none; not 0 only if the object file is not the one built with this code."""
        return self._ledger.counts[-1]

    def accounts(self) -> dict[ProcessEventKind, Account]:
        """The kernel's counters. An event may be counted as seen a moment before its fate is."""
        return {
            kind: self._account(kind, _recursion_misses(descriptor))
            for kind, descriptor in self._programs.programs.items()
        }

    def _account(self, kind: ProcessEventKind, missed: int) -> Account:
        at = _NUMBER_OF[kind] * _COUNTERS_PER_KIND * 8
        seen, *fates = _COUNTERS.unpack_from(self._counters, at)
        return Account(*(seen + missed, *fates, missed))

    def close(self) -> None:
        """Unmap; the programs go on, and the next reader begins where this one ended."""
        if self._ring_buffer is not None:
            self._programs.library.release("ring_buffer__free", self._ring_buffer)
        for view in (self._consumer, self._producer, self._lengths):
            view.release()
        for memory in (self._consumer_page, self._data, self._counters):
            memory.close()

    def _walk(self, limit: int, take: Callable[[bytes | mmap.mmap, int, int], None]) -> None:
        position = begin = self._consumer[0]
        end = self._producer[0]
        mask = RING_BYTES - 1
        lengths, data = self._lengths, self._data
        while position < end and limit:
            start = _PAGE + (position & mask)
            length = lengths[start >> 2]
            if length & _BUSY:  # still being written
                break
            size = length & ~_DISCARDED
            if not length & _DISCARDED:
                start += 8
                if start + size <= _PAGE + RING_BYTES:
                    take(data, start, start + size)
                else:
                    record = data[start:] + data[_PAGE : start + size - RING_BYTES]
                    take(record, 0, size)
            position += size + 15 & ~7
            limit -= 1
        if position != begin:
            self._ledger.prepare(position)
            self._consumer[0] = position

    def _take(self, data: bytes | mmap.mmap, start: int, end: int) -> None:
        try:
            event = parse_event(data, start, end)
        except MalformedRecord:
            self._ledger.counts[-1] += 1
            return
        self._events.append(event)
        self._ledger.counts[_INDEX[type(event)]] += 1

    def _count(self, data: bytes | mmap.mmap, start: int, end: int) -> None:
        try:
            self._ledger.counts[_NUMBER_OF[kind_at(data, start, end)] - 1] += 1
        except MalformedRecord:
            self._ledger.counts[-1] += 1

    def _take_sample(self, _context: int, data: int, size: int) -> int:
        self._take(ctypes.string_at(data, size), 0, size)
        self._ledger.prepare(self._consumer[0] + (size + 15 & ~7))
        return 0


_INDEX: Final = {form: index for index, form in enumerate(KIND_OF)}


def _recursion_misses(program: int) -> int:
    """Times a program was not run, by the kernel's count (since 5.12)."""
    with open(f"/proc/self/fdinfo/{program}", encoding="ascii") as file:
        for line in file:
            if line.startswith("recursion_misses:"):
                return int(line.split()[1])
    return 0

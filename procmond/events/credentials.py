"""eBPF with the process connector beside it, for changes of credentials that this kernel lets no program see.
One rule: what came over two ways is told in the order in which it happened, and once.

The connector's socket is narrowed to these messages. An exec that raises privileges makes one as well, and
tells the ids itself, a moment later; so a message waits until it is known what its process did next. Should
the last change before such an exec have been the process's own, then the exec tells its ids all the same.
"""

from __future__ import annotations

import errno
import select
import time
from collections.abc import Mapping, Sequence
from typing import Final

from common.logs import get_logger
from common.messages import EventSource, ProcessEventKind
from procmond.events import connector_wire as wire
from procmond.events.connector import DATAGRAM_BYTES, OVERRUN, Connection, Ledger
from procmond.events.ebpf_source import EbpfReader
from procmond.events.facts import SECURE, ExecEvent, ExitEvent, KernelEvent
from procmond.events.source import Totals

_log = get_logger("procmond.events")

HOLD_NS: Final = 10_000_000
"""Nanoseconds from an exec's change of credentials to the exec: in between the kernel lays out the new image,
which takes some 100 us, unless it has to be read from a disk."""

_CREDENTIALS: Final = ProcessEventKind.CREDENTIALS
_TAKEN: Final = 3
"""The ledger's count of them."""


class CredentialsBeside:
    """Takes records off the ring, and messages off a narrowed socket; made in the process that reads."""

    kind = EventSource.EBPF

    def __init__(self, ring: EbpfReader, connection: Connection) -> None:
        self._ring = ring
        self._sock = connection.sock
        self._ledger = Ledger(connection.ledger)
        self._held: list[wire.ChangedIds] = []
        self._either = select.epoll()
        self._either.register(ring.fileno(), select.EPOLLIN)
        self._either.register(self._sock.fileno(), select.EPOLLIN)
        self._boot_offset_ns = 0
        self._hears = True

    @property
    def holds(self) -> bool:
        """Whether messages wait."""
        return bool(self._held)

    def fileno(self) -> int:
        """Readable while there is something on either way."""
        return self._either.fileno()

    def drain(self, limit: int) -> Sequence[KernelEvent | wire.ChangedIds]:
        """What happened, oldest first. Raises: SourceFailed."""
        # The ring first: the message of an exec that is in it has then been sent before.
        events = self._ring.drain(limit)
        self._receive()
        if not self._held:
            return events
        now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self._boot_offset_ns = now_ns - time.monotonic_ns()
        behind = len(events) >= limit
        due = self._release(events, events[-1].boot_ns if behind else now_ns - HOLD_NS)
        return sorted([*events, *due], key=self._when) if due else events

    def skip(self, limit: int) -> Mapping[ProcessEventKind, int]:
        """How many there were of each kind. Raises: SourceFailed."""
        counts = dict(self._ring.skip(limit))
        self._receive()
        if self._held:
            counts[_CREDENTIALS] = counts.get(_CREDENTIALS, 0) + len(self._held)
            self._held.clear()
        return counts

    def totals(self) -> Totals:
        """The ring's, and messages. How many an overrun cost is not known: it counts as one. Raises:
        SourceFailed."""
        totals, ledger = self._ring.totals(), self._ledger
        lost = {(OVERRUN, _CREDENTIALS): ledger.lost + ledger.malformed}
        return Totals({**totals.taken, _CREDENTIALS: ledger.taken[_TAKEN]}, {**totals.lost, **lost})

    def close(self) -> None:
        """Unmap; the socket stays open: it is not ours."""
        self._either.close()
        self._ring.close()

    def _when(self, event: KernelEvent | wire.ChangedIds) -> int:
        if isinstance(event, wire.ChangedIds):
            return event.monotonic_ns + self._boot_offset_ns
        return event.boot_ns

    def _receive(self) -> None:
        ledger = self._ledger
        while self._hears:
            try:
                data, (sender, _) = self._sock.recvfrom(DATAGRAM_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                ledger.lost += 1
                if error.errno != errno.ENOBUFS:
                    self._stop_hearing(error)
                continue
            if sender != 0:  # others may write to us, but only the kernel knows
                continue
            try:
                found = [one for one in wire.parse_messages(data) if isinstance(one, wire.ChangedIds)]
            except wire.MalformedMessage:
                ledger.malformed += 1
                continue
            mine = [one for one in found if one.pid == one.group]  # of processes, not of single threads
            ledger.taken[_TAKEN] += len(mine)
            self._held += mine
        ledger.write()

    def _stop_hearing(self, error: OSError) -> None:
        """What eBPF tells is not given up for what came beside it."""
        _log.error("credentials_not_heard", source="process connector", error=error.strerror)
        self._either.unregister(self._sock.fileno())
        self._hears = False

    def _release(self, events: Sequence[KernelEvent], horizon_ns: int) -> list[wire.ChangedIds]:
        """What has waited long enough, or whose process has gone on; an exec's own change is dropped."""
        due: list[wire.ChangedIds] = []
        held: list[wire.ChangedIds] = []
        told: set[tuple[int, bool]] = set()
        for message in reversed(self._held):  # the last one before an exec is the exec's
            when_ns = self._when(message)
            following = next((one for one in events if _follows(one, message.pid, when_ns)), None)
            whose = (message.pid, message.of_groups)
            if isinstance(following, ExecEvent) and whose not in told and _tells(following, message, when_ns):
                told.add(whose)
                self._ledger.taken[_TAKEN] -= 1
            elif following is not None or when_ns <= horizon_ns:
                due.append(message)
            else:
                held.append(message)
        self._held = held[::-1]
        self._ledger.write()
        return due[::-1]


def _follows(event: KernelEvent, pid: int, when_ns: int) -> bool:
    """Whether this is what the process did next, which no earlier change may overtake."""
    return event.pid == pid and event.boot_ns >= when_ns and isinstance(event, ExecEvent | ExitEvent)


def _tells(event: ExecEvent, message: wire.ChangedIds, when_ns: int) -> bool:
    """Whether the change is the exec's own."""
    ids = (event.real_uid, event.effective_uid)
    if message.of_groups:
        ids = (event.real_gid, event.effective_gid)
    soon = event.boot_ns - when_ns <= HOLD_NS
    return bool(event.flags & SECURE) and soon and ids == (message.real, message.effective)

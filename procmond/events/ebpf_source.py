"""The ring buffer as an event source. One rule: a record nobody understands means the whole source is
wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from common.messages import EventSource, ProcessEventKind
from procmond.events.ebpf import Programs
from procmond.events.facts import KernelEvent
from procmond.events.ring import EventRing
from procmond.events.source import SourceFailed, Totals

_REASONS: Final = {
    "kernel_ring_full": "ring_full",
    "kernel_ring_busy": "ring_busy",
    "kernel_no_memory": "no_scratch",
    "kernel_program_missed": "missed",
}
"""Reason of a Loss: field of `ring.Account`."""


class EbpfReader:
    """Takes records off the ring; made in the process that reads."""

    kind = EventSource.EBPF
    holds = False

    def __init__(self, programs: Programs) -> None:
        """Raises: SourceFailed when the ring cannot be mapped."""
        try:
            self._ring = EventRing(programs)
        except OSError as error:
            raise SourceFailed(f"eBPF: the ring cannot be mapped: {error.strerror}") from None

    def fileno(self) -> int:
        """Readable while there are records."""
        return self._ring.fileno()

    def drain(self, limit: int) -> Sequence[KernelEvent]:
        """Take records, oldest first. Raises: SourceFailed when one is none of ours."""
        events = self._ring.drain(limit)
        self._check()
        return events

    def skip(self, limit: int) -> Mapping[ProcessEventKind, int]:
        """Count records by kind, and nothing else. Raises: SourceFailed when one is none of ours."""
        counts = self._ring.skip(limit)
        self._check()
        return counts

    def _check(self) -> None:
        if self._ring.malformed:
            raise SourceFailed(f"eBPF: {self._ring.malformed} records are not of this version's layout")

    def totals(self) -> Totals:
        """Records taken, and events the kernel counted and could not hand over. Raises: SourceFailed."""
        lost: dict[tuple[str, ProcessEventKind], int] = {}
        try:
            accounts = self._ring.accounts()
        except OSError as error:
            raise SourceFailed(f"eBPF: the kernel's counters cannot be read: {error.strerror}") from None
        for kind, account in accounts.items():
            for reason, field in _REASONS.items():
                lost[reason, kind] = getattr(account, field)
        return Totals(self._ring.consumed, lost)

    def close(self) -> None:
        """Unmap; the next reader begins where this one ended."""
        self._ring.close()

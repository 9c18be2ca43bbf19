"""What an event source is. One rule: it only moves records; what is not handed on is in its account.

The collector drains what the supervisor opened (see `choice`). A source that fails is followed by the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from common.errors import DaemonEyeError
from common.messages import EventSource, ProcessEventKind

Losses = Mapping[tuple[str, ProcessEventKind], int]
"""Events that were lost, by reason and kind (UNSPECIFIED: of any)."""


class SourceFailed(DaemonEyeError):
    """A source that worked gives nothing more; the next one has to take over."""


class Totals(msgspec.Struct, frozen=True):
    """What one source has taken from the kernel and lost, over all collectors, by kind."""

    taken: Mapping[ProcessEventKind, int]
    lost: Losses


class KernelSource(Protocol):
    """A source whose records wait in the kernel. Belongs to the process that made it."""

    kind: EventSource

    @property
    def holds(self) -> bool:
        """Whether something was taken that a later drain hands on."""

    def fileno(self) -> int:
        """Readable while there are records."""

    def drain(self, limit: int) -> Sequence[object]:
        """Take what is there now, about `limit` records at most, oldest first.

        Raises: SourceFailed.
        """

    def skip(self, limit: int) -> Mapping[ProcessEventKind, int]:
        """As `drain`, for when nobody listens: how many there were of each kind.

        Raises: SourceFailed.
        """

    def totals(self) -> Totals:
        """The account so far. Raises: SourceFailed."""

    def close(self) -> None:
        """Let go; what is in the kernel stays for the next reader."""

"""Events made by hand. One rule: nothing is in them that their way to a subscriber does not need."""

from __future__ import annotations

from collections.abc import Sequence

from common import codec
from common.messages import ProcessEvent, ProcessEventKind
from procmond.events.event import Event, Key

FORK = ProcessEventKind.FORK
EXEC = ProcessEventKind.EXEC
EXIT = ProcessEventKind.EXIT
CREDENTIALS = ProcessEventKind.CREDENTIALS


def event(
    kind: ProcessEventKind,
    key: Key,
    boot_ns: int = 1_000,
    *,
    parent: Key | None = None,
    name: str = "name",
    path: str | None = "/bin/name",
    size: int = 0,
) -> Event:
    """An event as enrichers make it; `size` more bytes in its body."""
    value = ProcessEvent(kind=kind, boot_time_ns=boot_ns, pid=key[0], start_ticks=key[1])
    body = codec.encode(value)
    if size:
        body += bytes((15 << 3 | 2, 0x80 | size & 0x7F, size >> 7)) + bytes(size)  # a field nobody knows
    return Event(kind, boot_ns, key, parent, name, path, body)


def decoded(pieces: Sequence[bytes]) -> list[ProcessEvent]:
    """What a subscriber takes, as its client reads it."""
    return [codec.decode(ProcessEvent, piece) for piece in pieces]

"""Which event source is in force. One rule: the best that works, the choice and its reason in plain sight.

The supervisor opens, while it still may, whatever needs a privilege, and keeps it over every collector.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from common.errors import ConfigError
from common.messages import EventSource
from procmond.events import ebpf
from procmond.events.connector import Connection, open_connector

CHOICES: Final[dict[str, tuple[EventSource, ...]]] = {
    "auto": (EventSource.EBPF, EventSource.PROCESS_CONNECTOR, EventSource.POLLING),
    "ebpf": (EventSource.EBPF, EventSource.POLLING),
    "connector": (EventSource.PROCESS_CONNECTOR, EventSource.POLLING),
    "polling": (EventSource.POLLING,),
}
"""What `--event-source` stands for: the sources in the order in which they are taken. Polling always works,
so it comes last even where another was named: a source that fails later leaves nobody blind."""

NAMES: Final[dict[EventSource, str]] = {
    EventSource.EBPF: "eBPF",
    EventSource.PROCESS_CONNECTOR: "process connector",
    EventSource.POLLING: "polling",
}


class Opened(msgspec.Struct, frozen=True):
    """What the supervisor opened; children inherit it."""

    chain: tuple[EventSource, ...] = (EventSource.POLLING,)
    """The sources that can be had, best first."""
    reason: str = ""
    """Why not a better one than the first; empty when there is none."""
    programs: ebpf.Programs | None = None
    connection: Connection | None = None

    def descriptors(self) -> tuple[int, ...]:
        """What a collector reads by. The links that keep programs attached stay with who opened them."""
        found: list[int] = []
        if self.programs is not None:
            programs = self.programs
            found += [programs.ring, programs.counters, *programs.programs.values()]
            found += () if programs.tasks is None else (programs.tasks,)
        if self.connection is not None:
            found.append(self.connection.sock.fileno())
        return tuple(found)

    def close(self) -> None:
        """Close them in this process."""
        if self.programs is not None:
            self.programs.close()
        if self.connection is not None:
            self.connection.close()


def open_sources(choice: str, passed: socket.socket | None = None) -> Opened:
    """Open what `--event-source` asks for; `passed` is a connector socket the service manager handed over.

    Raises: ConfigError when the one source that was named does not work here.
    """
    wanted = CHOICES[choice]
    obstacles: dict[EventSource, str] = {}
    programs, connection = None, None
    if EventSource.EBPF in wanted:
        loaded = ebpf.load()
        if isinstance(loaded, ebpf.Programs):
            programs = loaded
        else:
            obstacles[EventSource.EBPF] = loaded.detail
    narrowed = programs is not None and "credentials" in programs.missing
    if EventSource.PROCESS_CONNECTOR in wanted or narrowed:
        opened = open_connector(passed, standby=programs is not None, narrowed=narrowed)
        if isinstance(opened, Connection):
            connection = opened
        else:
            obstacles[EventSource.PROCESS_CONNECTOR] = opened
    elif passed is not None:
        passed.close()
    if choice != "auto" and wanted[0] in obstacles:
        raise ConfigError(f"event_source: {choice} does not work here: {obstacles[wanted[0]]}")
    chain = tuple(source for source in wanted if source not in obstacles)
    reason = _reason(choice, chain, obstacles)
    if programs is not None and narrowed:
        why = programs.missing["credentials"].detail.partition(";")[0]
        seen = "are not seen" if connection is None else "come from the process connector"
        reason = _both(reason, f"changes of credentials {seen}: {why}")
    return Opened(chain, reason, programs, connection)


def _both(one: str, other: str) -> str:
    return "; ".join(part for part in (one, other) if part)


def _reason(choice: str, chain: Sequence[EventSource], obstacles: Mapping[EventSource, str]) -> str:
    better = [
        f"no {NAMES[source]}: {obstacle}" for source, obstacle in obstacles.items() if source < chain[0]
    ]
    if choice != "auto" and chain[0] is not EventSource.EBPF:
        better.insert(0, f"event_source is set to {choice}")
    return "; ".join(better)

"""What a daemon logs, for a test in the same process. One rule: entries are taken, and can be waited for."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

import structlog

Entry = MutableMapping[str, Any]


class LogTap:
    """A structlog processor that keeps every entry; to be the only one configured."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self._news = asyncio.Event()

    def __call__(self, _logger: object, level: str, entry: Entry) -> Entry:
        self.entries.append({"level": level, **entry})
        self._news.set()
        raise structlog.DropEvent

    async def seen(self, event: str, times: int = 1) -> list[Entry]:
        """The entries of that event, when there are so many."""
        while len(found := self.of(event)) < times:
            self._news.clear()
            await self._news.wait()
        return found

    def of(self, event: str) -> list[Entry]:
        """The entries of that event so far."""
        return [entry for entry in self.entries if entry["event"] == event]

    @property
    def events(self) -> list[str]:
        """The names of all entries so far."""
        return [entry["event"] for entry in self.entries]

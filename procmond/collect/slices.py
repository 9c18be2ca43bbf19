"""Turns on the event loop. One rule: work that goes on for long stops often enough for others.

Work is cut into slices rather than moved to threads: /proc answers from memory, so nothing is worth a thread.
"""

from __future__ import annotations

import asyncio
from typing import Final

SLICE_S: Final = 0.005
"""Seconds a sweep works before others get their turn: a tenth of what fairness may cost them."""


class Slicer:
    """Gives other work its turn now and then."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._until = self._loop.time() + SLICE_S

    async def breathe(self) -> None:
        """Return at once while the slice lasts."""
        if self._loop.time() >= self._until:
            await asyncio.sleep(0)
            self._until = self._loop.time() + SLICE_S

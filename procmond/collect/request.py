"""One question the front asked. One rule: a frame goes out only for credit, so nothing piles up here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from common import codec
from common.errors import TaskError
from common.messages import CollectionSummary, DetectionResult, DetectionTask, ErrorCode
from procmond import link
from procmond.collect.tally import Tally
from procmond.link import INITIAL_CREDIT, Kind

_SUCCESS: Final = codec.encode(DetectionResult(success=True))


class Request:
    """The answer under way: what it may send, and what it has counted so far."""

    def __init__(
        self,
        number: int,
        task: DetectionTask,
        *,
        administrator: bool,
        frame_limit: int,
        write: Callable[[Kind, int, bytes], None],
        resume: bytes = b"",
    ) -> None:
        """`resume` is what a lost collector said last of this live answer."""
        self.number = number
        self.task = task
        self.administrator = administrator
        self.frame_limit = frame_limit
        """Bytes a frame may have."""
        self.resume = resume
        self.tally = Tally()
        self._write = write
        self._credit = INITIAL_CREDIT
        self._granted: asyncio.Future[None] | None = None

    async def part(self, body: bytes) -> None:
        """Send a frame that others follow, when there is credit for it."""
        await self._spend()
        self._write(Kind.PART, self.number, body + _SUCCESS)

    async def live(self, body: bytes, resume: Callable[[], bytes]) -> None:
        """Send a frame of an answer without an end, when there is credit for it; `resume` is asked then."""
        await self._spend()
        self._write(Kind.LIVE, self.number, link.encode_live(resume(), body))

    async def last(self, body: bytes, summary: CollectionSummary) -> None:
        """Send the last frame of a complete answer, when there is credit for it."""
        await self._spend()
        self._write(
            Kind.LAST, self.number, body + codec.encode(DetectionResult(success=True, summary=summary))
        )

    def refuse(self, error: TaskError, summary: CollectionSummary) -> None:
        """End the answer with a typed refusal. It is small and the last, so it needs no credit."""
        result = DetectionResult(error_code=ErrorCode(error.code), error_message=str(error), summary=summary)
        self._write(Kind.LAST, self.number, codec.encode(result))

    def stopped(self, summary: CollectionSummary) -> None:
        """End an answer that was cancelled; the front says why."""
        self._write(Kind.STOPPED, self.number, codec.encode(DetectionResult(summary=summary)))

    def grant(self) -> None:
        """The front took a frame."""
        self._credit += 1
        if self._granted is not None and not self._granted.done():
            self._granted.set_result(None)

    async def _spend(self) -> None:
        while not self._credit:
            self._granted = asyncio.get_running_loop().create_future()
            await self._granted
        self._credit -= 1

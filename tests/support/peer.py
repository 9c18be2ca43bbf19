"""A procmond that follows a script, over a real socket. One rule: what the script did not expect fails.

    async def script(peer: Peer) -> None:
        await peer.negotiate()
        task = await peer.task()
        await peer.answer(success(task.task_id, summary=CollectionSummary()))

    async with scripted(path, script): ...

The script runs once per connection, and the connection closes when it returns.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec

from common.codec import decode_task, encode_result
from common.framing import FrameDecoder, encode_frame
from common.messages import (
    CapabilityResponse,
    CollectionSummary,
    DetectionResult,
    DetectionTask,
    TaskType,
    success,
)

CAPABILITIES = CapabilityResponse(negotiation_success=True, protocol_version=1, server_version="9.9")


def whole(task: DetectionTask, **changes: object) -> DetectionResult:
    """The last frame of a good answer, with a summary."""
    return msgspec.structs.replace(success(task.task_id, summary=CollectionSummary()), **changes)


class Peer:
    """The server's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = FrameDecoder()
        self._payloads: list[bytes] = []

    async def payload(self) -> bytes | None:
        """What the client sent next, as bytes; None at the end of the stream."""
        while not self._payloads:
            data = await self._reader.read(65_536)
            if not data:
                return None
            self._payloads += self._decoder.feed(data)
        return self._payloads.pop(0)

    async def task(self) -> DetectionTask:
        """The next task; the client must not have closed."""
        task = await self.task_or_end()
        assert task is not None, "the client closed the connection instead of asking"
        return task

    async def task_or_end(self) -> DetectionTask | None:
        """The next task; None when the client closed, however it did."""
        try:
            payload = await self.payload()
        except ConnectionError:
            return None
        return None if payload is None else decode_task(payload)

    async def end(self) -> None:
        """The client must close now, without another word."""
        assert await self.task_or_end() is None

    async def answer(self, *results: DetectionResult) -> None:
        """Write frames and wait until the socket took them."""
        for result in results:
            await self.raw(encode_frame(encode_result(result)))

    async def raw(self, data: bytes) -> None:
        """Write any bytes. That the client has left shows by what is read next."""
        with contextlib.suppress(ConnectionError):
            self._writer.write(data)
            await self._writer.drain()

    async def negotiate(self, capabilities: CapabilityResponse = CAPABILITIES) -> DetectionTask:
        """Answer the client's first task, which must be the negotiation."""
        task = await self.task()
        assert task.task_type == TaskType.NEGOTIATE_CAPABILITIES
        await self.answer(msgspec.structs.replace(success(task.task_id), capability_response=capabilities))
        return task


@contextlib.asynccontextmanager
async def scripted(path: str, script: Callable[[Peer], Awaitable[None]]) -> AsyncIterator[None]:
    """Listen on `path` and play `script` to each client. Leaving waits for the end of every script."""
    async with asyncio.TaskGroup() as group:

        async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await script(Peer(reader, writer))
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if server.is_serving():
                group.create_task(play(reader, writer), name="scripted-peer")
            else:  # accepted while the last scripts came to their end
                writer.close()

        server = await asyncio.start_unix_server(connected, path, backlog=1024)
        try:
            yield
        finally:
            server.close()

"""A session between a bare client and a scripted collector. One rule: real sockets, nothing in between."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from common.channel import open_channel
from common.codec import decode_result, encode_task
from common.credentials import PeerCredentials
from common.framing import FrameDecoder, encode_frame
from common.messages import DetectionResult, DetectionTask, ErrorCode, Permission
from procmond.front.admission import Admission
from procmond.front.relay import Relay
from procmond.front.session import Session
from procmond.front.settings import FrontSettings
from tests.support.collector import PATIENCE_S, ScriptedCollector

SETTINGS = FrontSettings(allowed_uids=frozenset({0}))


class Conversation:
    """The client's end of one connection, and what serves it."""

    def __init__(self, client: socket.socket, session: Session, running: asyncio.Task[None]) -> None:
        self.client = client
        self.session = session
        self.running = running
        self._decoder = FrameDecoder()
        self._payloads: list[bytes] = []

    async def ask(self, *tasks: DetectionTask) -> None:
        """Send tasks, pipelined."""
        await self.raw(b"".join(encode_frame(encode_task(task)) for task in tasks))

    async def raw(self, data: bytes) -> None:
        """Send any bytes."""
        await asyncio.get_running_loop().sock_sendall(self.client, data)

    async def frame(self) -> DetectionResult | None:
        """The next frame; None when the server has closed."""
        async with asyncio.timeout(PATIENCE_S):
            while not self._payloads:
                try:
                    data = await asyncio.get_running_loop().sock_recv(self.client, 65_536)
                except ConnectionResetError:  # it closed with bytes of ours unread
                    return None
                if not data:
                    return None
                self._payloads += self._decoder.feed(data)
        return decode_result(self._payloads.pop(0))

    async def result(self, task_id: str) -> DetectionResult:
        """The next frame, which must be of this task."""
        result = await self.frame()
        assert result is not None, f"the connection ended where a result for {task_id!r} was due"
        assert result.task_id == task_id
        return result

    async def refusal(self, task_id: str) -> ErrorCode:
        """The next frame must end this task with a typed refusal, a sentence and a summary."""
        result = await self.result(task_id)
        assert not result.success
        assert not result.more
        assert result.error_message
        assert result.summary is not None
        return result.error_code

    async def end(self) -> None:
        """The server must close now, without another word, and the session be over."""
        assert await self.frame() is None
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.wait([self.running])
        self.running.result()


class Stage:
    """What sessions share: the limits, the relay, and the collector behind it."""

    def __init__(self, **settings: Any) -> None:
        self.admission = Admission(msgspec.structs.replace(SETTINGS, **settings))
        self.relay = Relay(self.admission.settings.max_frame_size, lambda hello: None)
        self.collector = ScriptedCollector()
        self._attached = False
        self._conversations: list[Conversation] = []

    async def attach(self) -> ScriptedCollector:
        """The collector is there from now on; it has not greeted."""
        self._attached = True
        await self.relay.attach(self.collector.far_end)
        return self.collector

    async def converse(self, permission: Permission = Permission.QUERY) -> Conversation:
        """One more connection."""
        client, server = socket.socketpair()
        client.setblocking(False)
        server.setblocking(False)
        settings = self.admission.settings
        channel = await open_channel(
            server,
            max_frame_size=settings.max_frame_size,
            frame_deadline_s=settings.frame_deadline_s,
            stall_limit_s=settings.stall_limit_s,
        )
        peer = PeerCredentials(os.getpid(), os.geteuid(), os.getegid())
        session = Session(channel, peer, permission, self.admission, self.relay)
        conversation = Conversation(client, session, asyncio.create_task(session.run()))
        self._conversations.append(conversation)
        return conversation

    async def close(self) -> None:
        """Every session ends without an error, and nothing is left in flight."""
        for conversation in self._conversations:
            conversation.client.close()
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*(conversation.running for conversation in self._conversations))
            self.collector.die()
            while self._attached and self.collector.far_end.fileno() != -1:
                await asyncio.sleep(0)
        self.collector.far_end.close()
        assert self.admission.tasks == 0


@contextlib.asynccontextmanager
async def staged(*, attached: bool = True, **settings: Any) -> AsyncIterator[Stage]:
    """A stage with its collector attached, unless it shall come later."""
    stage = Stage(**settings)
    if attached:
        await stage.attach()
    try:
        yield stage
    finally:
        await stage.close()

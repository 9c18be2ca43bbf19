"""A collector that does what a test says, on a real line. One rule: waiting for what never comes fails."""

from __future__ import annotations

import asyncio
import socket
from typing import Final

from common.codec import decode_task
from common.messages import DetectionTask
from procmond import link
from procmond.link import Hello, Kind, LinkDecoder, LinkMessage, Question

PATIENCE_S: Final = 20.0
"""Seconds after which a wait is given up as a failure; nothing that works comes near it."""

HELLO: Final = Hello(collector="psutil", boot_id="boot", boot_time=1_700_000_000, digests=("sha256", "md5"))


class ScriptedCollector:
    """One end of the line; the relay holds the other."""

    def __init__(self) -> None:
        self.sock, self.far_end = socket.socketpair()
        self.sock.setblocking(False)
        self.far_end.setblocking(False)
        self._decoder = LinkDecoder(2**24)
        self._messages: list[LinkMessage] = []

    async def next(self) -> LinkMessage:
        """The next message, whatever it is."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(PATIENCE_S):
            while not self._messages:
                data = await loop.sock_recv(self.sock, 65_536)
                assert data, "the line ended where a message was due"
                self._messages += self._decoder.feed(data)
        return self._messages.pop(0)

    async def expect(self, kind: Kind) -> LinkMessage:
        """The next message, which must be of this kind: so nothing else was said before it."""
        message = await self.next()
        assert message.kind is kind, f"{message.kind.name} where {kind.name} was due"
        return message

    async def asked(self) -> tuple[int, Question, DetectionTask]:
        """The next message must be a question: its number, and the question with its task."""
        message = await self.expect(Kind.ASK)
        question = link.decode_question(message.body)
        return message.request, question, decode_task(question.task)

    async def end(self) -> None:
        """The relay must let go of the line without another word."""
        async with asyncio.timeout(PATIENCE_S):
            assert not self._messages
            assert await asyncio.get_running_loop().sock_recv(self.sock, 1) == b""

    async def say(self, kind: Kind, request: int, body: bytes = b"") -> None:
        """One message for the relay."""
        await self.raw(link.encode(kind, request, body))

    async def hello(self, hello: Hello = HELLO) -> None:
        """The greeting."""
        await self.say(Kind.HELLO, 0, link.encode_hello(hello))

    async def raw(self, data: bytes) -> None:
        """Any bytes for the relay."""
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    def die(self) -> None:
        """As if killed: the kernel closes the line."""
        self.sock.close()

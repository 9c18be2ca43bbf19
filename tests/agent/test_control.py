"""The control socket: who gets in, what is answered, and that no peer holds it up. Real uids."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import control_messages
from agent.config import ControlAccess
from agent.control import Control
from agent.control_client import ask_status
from agent.control_codec import decode_request, decode_response, encode
from agent.control_messages import (
    BlindInterval,
    ControlRequest,
    ControlResponse,
    Events,
    Procmond,
    RequestKind,
    Sight,
    Status,
)
from common.errors import DecodeError, Unreachable
from common.framing import FrameDecoder, encode_frame
from common.limits import CONTROL_CONNECTIONS
from common.listening import Listener
from common.messages import Message
from common.pb import control_pb2 as pb
from tests.support.daemons import as_user, public_directory
from tests.support.privilege import needs_root

unhurried = settings(deadline=None)  # a busy machine is no failure

PATIENCE_S = 20.0
SOON_S = 0.05
OURSELVES = ControlAccess(frozenset({os.geteuid()}), frozenset(), os.getegid())
NOBODY = 64_998

STATUS = Status(
    version="1.2.3",
    uid=5,
    procmond=Procmond(socket="/run/x", connected=True),
    events=Events(sight=Sight.BLIND, detail="why"),
    intervals=(BlindInterval(reason="connection_lost", from_ms=5),),
)


@contextlib.asynccontextmanager
async def control(
    path: str,
    access: ControlAccess = OURSELVES,
    *,
    asked: list[int] | None = None,
    timeout_s: float = PATIENCE_S,
) -> AsyncIterator[None]:
    """A control socket that answers STATUS."""

    def status(intervals: int) -> Status:
        if asked is not None:
            asked.append(intervals)
        return STATUS

    with contextlib.closing(Listener(path, access.socket_gid)) as listener:
        server = Control(listener.open(), access, status, timeout_s=timeout_s)
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
            task = group.create_task(server.run(), name="control")
            try:
                yield
            finally:
                task.cancel()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "control.sock")


class Raw:
    """A peer that sends what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._decoder = FrameDecoder()

    async def ask(self, request: ControlRequest) -> ControlResponse:
        self.writer.write(encode_frame(encode(request)))
        return await self.answer()

    async def answer(self) -> ControlResponse:
        payloads: list[bytes] = []
        while not payloads:
            data = await self.reader.read(65_536)
            assert data, "closed instead of answering"
            payloads = self._decoder.feed(data)
        (payload,) = payloads
        return decode_response(payload)

    async def closed(self) -> bool:
        try:
            return await self.reader.read() == b""
        except ConnectionResetError:
            return True


@contextlib.asynccontextmanager
async def raw(path: str) -> AsyncIterator[Raw]:
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        yield Raw(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def test_a_status_is_answered_whole_with_who_answers(path: str) -> None:
    asked: list[int] = []
    async with control(path, asked=asked):
        answer = await ask_status(path, intervals=7)
    assert answer.status == STATUS
    assert (answer.peer.pid, answer.peer.uid) == (os.getpid(), os.geteuid())
    assert asked == [7]


async def test_the_number_of_intervals_has_a_default(path: str) -> None:
    asked: list[int] = []
    async with control(path, asked=asked):
        await ask_status(path)
    assert asked == [16]


async def test_several_requests_on_one_connection_are_answered_in_turn(path: str) -> None:
    async with control(path), raw(path) as peer:
        for name in ("a", "b"):
            response = await peer.ask(ControlRequest(request_id=name, kind=RequestKind.STATUS))
            assert (response.request_id, response.success) == (name, True)


@pytest.mark.parametrize(
    ("request_", "word"),
    [
        (ControlRequest(kind=RequestKind.STATUS), "request_id: 0 bytes"),
        (ControlRequest(request_id="x" * 129, kind=RequestKind.STATUS), "request_id: 129 bytes"),
        (ControlRequest(request_id="x"), "kind"),
        (ControlRequest(request_id="x", kind=RequestKind.STATUS, max_intervals=257), "max_intervals: 257"),
    ],
)
async def test_a_request_out_of_bounds_is_refused_and_the_connection_stays(
    path: str, request_: ControlRequest, word: str
) -> None:
    async with control(path), raw(path) as peer:
        refused = await peer.ask(request_)
        assert not refused.success
        assert word in refused.error_message
        assert (await peer.ask(ControlRequest(request_id="y", kind=RequestKind.STATUS))).success


@pytest.mark.parametrize("garbage", [encode_frame(b"\xff\xff"), b"\0" * 8, b"\xff" * 8])
async def test_bytes_that_are_no_request_get_last_words_and_the_close(path: str, garbage: bytes) -> None:
    async with control(path), raw(path) as peer:
        peer.writer.write(garbage)
        response = await peer.answer()
        assert (response.request_id, response.success) == ("", False)
        assert response.error_message
        assert await peer.closed()


async def test_a_peer_that_says_nothing_is_closed(path: str) -> None:
    async with control(path, timeout_s=SOON_S), raw(path) as peer:
        assert await peer.closed()


async def test_a_peer_that_stops_in_a_frame_is_closed(path: str) -> None:
    async with control(path, timeout_s=SOON_S), raw(path) as peer:
        peer.writer.write(b"\5\0")
        assert await peer.closed()


async def test_one_connection_too_many_is_closed_and_one_that_ends_makes_room(path: str) -> None:
    async with control(path), contextlib.AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(raw(path)) for _ in range(CONTROL_CONNECTIONS)]
        for peer in peers:
            assert (await peer.ask(ControlRequest(request_id="x", kind=RequestKind.STATUS))).success
        async with raw(path) as last:
            assert await last.closed()
        peers[0].writer.close()
        while True:  # until the server has noticed
            try:
                await ask_status(path)
                break
            except Unreachable:
                await asyncio.sleep(0.01)


async def test_nobody_else_is_let_in(path: str) -> None:
    others = ControlAccess(frozenset({NOBODY}), frozenset(), os.getegid())
    async with control(path, others):
        with pytest.raises(Unreachable, match="ask as root or as the agent's own user"):
            await ask_status(path)


@needs_root
async def test_who_may_ask_is_what_the_kernel_says() -> None:
    directory = public_directory()
    os.chmod(directory, 0o755)
    path = f"{directory}/control.sock"
    access = ControlAccess(frozenset({0, NOBODY}), frozenset({4711}), os.getegid())

    def knock() -> bool:
        """Whether the socket answers us."""
        request = ControlRequest(request_id="x", kind=RequestKind.STATUS)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(PATIENCE_S)
            sock.connect(path)
            try:
                sock.sendall(encode_frame(encode(request)))
                return bool(sock.recv(65_536))
            except ConnectionError:
                return False

    async with control(path, access):
        os.chmod(path, 0o666)  # so that credentials alone decide
        loop = asyncio.get_running_loop()

        async def as_someone(uid: int, gid: int, *groups: int) -> bool:
            return await loop.run_in_executor(None, lambda: as_user(uid, gid, knock, tuple(groups)))

        assert await as_someone(NOBODY, NOBODY)
        assert await as_someone(NOBODY - 1, 4711)
        assert await as_someone(NOBODY - 1, NOBODY - 1, 4711)
        assert not await as_someone(NOBODY - 1, NOBODY - 1)
    shutil.rmtree(directory)


async def test_the_socket_keeps_strangers_out_by_its_mode(path: str) -> None:
    async with control(path):
        assert os.stat(path).st_mode & 0o777 == 0o660


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda path: None, "there is no such socket"),
        (lambda path: Path(path).touch(), "not running"),
    ],
)
async def test_an_agent_that_is_not_there_is_told_with_a_remedy(path: str, make: object, word: str) -> None:
    assert callable(make)
    make(path)
    with pytest.raises(Unreachable, match=word) as caught:
        await ask_status(path)
    assert (caught.value.who, caught.value.where) == ("daemoneye-agent", path)


async def test_a_server_that_is_silent_is_not_waited_for(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(path)
        silent.listen()
        with pytest.raises(Unreachable, match="does not answer"):
            await ask_status(path, timeout_s=SOON_S)


async def test_a_server_that_talks_nonsense_is_no_agent(path: str) -> None:
    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(nonsense, path)
    async with server:
        with pytest.raises(Unreachable, match="no answer of an agent"):
            await ask_status(path)


def test_values_and_schema_have_the_same_messages() -> None:
    ours = {
        name
        for name, value in vars(control_messages).items()
        if isinstance(value, type) and issubclass(value, Message) and value is not Message
    }
    assert ours == set(pb.DESCRIPTOR.message_types_by_name)
    assert pb.DESCRIPTOR.name == "common/pb/control.proto"


def test_a_response_survives_the_wire() -> None:
    response = ControlResponse(request_id="x", success=True, status=STATUS)
    assert decode_response(encode(response)) == response
    status = decode_response(encode(response)).status
    assert status is not None
    assert status.intervals[0].to_ms is None


def test_a_kind_this_agent_does_not_know_is_none() -> None:
    wire = pb.ControlRequest(request_id="x")
    wire.kind = 99  # type: ignore[assignment]  # a number of a later version
    assert decode_request(wire.SerializeToString()).kind is RequestKind.UNSPECIFIED


@unhurried
@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_one_error(payload: bytes) -> None:
    with contextlib.suppress(DecodeError):
        decode_request(payload)

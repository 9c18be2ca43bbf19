"""procmond.control over a real SOCK_SEQPACKET pair: whole messages, descriptors, and what is no message."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.errors import MessageError
from procmond import control
from procmond.control import Closed, Configure, ControlMessage, NewCollector, Ready, Report, ShutDown
from procmond.front.settings import FrontSettings

SETTINGS = FrontSettings(
    allowed_uids=frozenset({0, 1000}),
    allowed_gids=frozenset({5}),
    admin_uids=frozenset({0}),
    stall_limit_s=1.5,
)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    one.setblocking(False)
    other.setblocking(False)
    with one, other:
        yield one, other


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize(
    "message",
    [
        Configure(SETTINGS),
        ShutDown(),
        Ready(),
        Report(connections=1, tasks=2, answered=3, refused=4),
        NewCollector(),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_message_arrives_as_it_was_sent(
    ends: tuple[socket.socket, socket.socket], message: ControlMessage
) -> None:
    control.send(ends[0], message)
    assert control.receive(ends[1]) == (message, None)


def test_messages_do_not_run_together(ends: tuple[socket.socket, socket.socket]) -> None:
    control.send(ends[0], Ready())
    control.send(ends[0], ShutDown())
    assert [control.receive(ends[1])[0] for _ in range(2)] == [Ready(), ShutDown()]


def test_a_descriptor_arrives_beside_its_message(ends: tuple[socket.socket, socket.socket]) -> None:
    line, far = socket.socketpair()
    with line, far:
        control.send(ends[0], NewCollector(), line.fileno())
        message, descriptor = control.receive(ends[1])
        assert message == NewCollector()
        assert descriptor is not None
        with socket.socket(fileno=descriptor) as received:
            received.send(b"through it")
            assert far.recv(100) == b"through it"


def test_settings_for_thousands_of_users_fit_one_packet(ends: tuple[socket.socket, socket.socket]) -> None:
    many = FrontSettings(allowed_uids=frozenset(range(100_000, 104_000)))
    control.send(ends[0], Configure(many))
    assert control.receive(ends[1])[0] == Configure(many)


def test_nothing_said_yet_is_not_an_end(ends: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(BlockingIOError):
        control.receive(ends[1])


def test_an_end_is_said_after_what_was_sent(ends: tuple[socket.socket, socket.socket]) -> None:
    control.send(ends[0], Ready())
    ends[0].close()
    assert control.receive(ends[1])[0] == Ready()
    with pytest.raises(Closed):
        control.receive(ends[1])
    with pytest.raises(OSError, match="Broken pipe"):
        control.send(ends[1], Ready())


@pytest.mark.parametrize(
    "packet",
    [
        b"{",
        b"\xff",
        b"{}",
        b'{"type": "unheard of"}',
        b'{"type": "report", "connections": "many"}',
        b'{"type": "\xff"}',
        b'{"type": "ready", "x": ' + b"[" * 20_000,
        b'{"type": "ready"}' + b" " * control.MAX_PACKET_BYTES + b"x",
    ],
    ids=[
        "cut",
        "not text",
        "untyped",
        "unknown",
        "wrong type",
        "not UTF-8",
        "nested without end",
        "too long",
    ],
)
def test_a_packet_that_is_no_message_is_one_error_and_keeps_no_descriptor(
    ends: tuple[socket.socket, socket.socket], packet: bytes
) -> None:
    before = open_descriptors()
    with Path("/dev/null").open("rb") as file:
        socket.send_fds(ends[0], [packet], [file.fileno()])
    if packet.endswith(b" x"):  # the kernel cut the packet where the receiver's buffer ends
        assert control.receive(ends[1])[0] == Ready()
        return
    with pytest.raises(MessageError, match=r"^control message: "):
        control.receive(ends[1])
    assert open_descriptors() == before


def test_an_empty_packet_is_an_end_and_keeps_no_descriptor(ends: tuple[socket.socket, socket.socket]) -> None:
    before = open_descriptors()
    with Path("/dev/null").open("rb") as file:
        socket.send_fds(ends[0], [b""], [file.fileno()])
    with pytest.raises(Closed):
        control.receive(ends[1])
    assert open_descriptors() == before

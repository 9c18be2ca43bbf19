"""What supervisor and front say to each other. One rule: whole messages, a descriptor beside them if any.

They share a SOCK_SEQPACKET pair, so a message is a packet and an end of file means that the other is gone.
"""

from __future__ import annotations

import os
import socket
from typing import Final

import msgspec

from common.errors import MessageError
from procmond.front.settings import FrontSettings

MAX_PACKET_BYTES: Final = 64 * 1024
"""The largest message is the settings, with some thousand uids at most."""


class NewCollector(msgspec.Struct, frozen=True, tag="new_collector"):
    """Supervisor to front, with a descriptor: the line to the collector now in charge."""


class Configure(msgspec.Struct, frozen=True, tag="configure"):
    """Supervisor to front: settings to use from now on."""

    settings: FrontSettings


class Examine(msgspec.Struct, frozen=True, tag="examine"):
    """Supervisor to front, with a descriptor: a connection of its own, to be served as a peer's."""


class ShutDown(msgspec.Struct, frozen=True, tag="shut_down"):
    """Supervisor to front: no new work, end the streams, exit."""


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """Front to supervisor: peers are answered from now on."""


class Report(msgspec.Struct, frozen=True, tag="report"):
    """Front to supervisor, now and then: what an administrator wants to see of it."""

    connections: int
    tasks: int
    answered: int
    """Tasks ended since the front started."""
    refused: int


ControlMessage = NewCollector | Configure | Examine | ShutDown | Ready | Report


class Closed(MessageError):
    """The other process is gone."""


def send(sock: socket.socket, message: ControlMessage, descriptor: int | None = None) -> None:
    """Send one message. Raises: OSError when the other is gone or takes nothing."""
    descriptors = [] if descriptor is None else [descriptor]
    socket.send_fds(sock, [msgspec.json.encode(message)], descriptors)


def receive(sock: socket.socket) -> tuple[ControlMessage, int | None]:
    """Receive one message and the descriptor beside it, which the caller owns.

    Raises: Closed at the end; BlockingIOError when there is none; MessageError for what is no message.
    """
    data, descriptors, _flags, _address = socket.recv_fds(sock, MAX_PACKET_BYTES, 1)
    if not data:
        for descriptor in descriptors:
            os.close(descriptor)
        raise Closed("the other process has ended")
    try:
        message: ControlMessage = msgspec.json.decode(data, type=ControlMessage)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        for descriptor in descriptors:
            os.close(descriptor)
        raise MessageError(f"control message: {error}") from None
    return message, descriptors[0] if descriptors else None

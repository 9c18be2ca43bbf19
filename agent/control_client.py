"""Asks a running agent about itself. One rule: the kernel says who answers, not the answer."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from typing import Final, NamedTuple

from agent.control_codec import decode_response, encode
from agent.control_messages import ControlRequest, RequestKind, Status
from common.channel import Channel, open_channel
from common.credentials import PeerCredentials, peer_credentials
from common.errors import ConnectionLost, PeerError, Unreachable
from common.limits import CONTROL_MAX_FRAME_SIZE, CONTROL_TIMEOUT_S

WHO: Final = "daemoneye-agent"

_REMEDIES: Final = {
    errno.ENOENT: "there is no such socket; start the agent, or name its socket with --control-socket",
    errno.ENOTDIR: "the path leads through something that is not a directory; name the agent's socket",
    errno.ECONNREFUSED: "nobody listens there: the agent is not running, or the path is not its socket",
    errno.EACCES: "permission denied; ask as root or as the agent's own user",
    errno.EPROTOTYPE: "that is another kind of socket; name the agent's",
    errno.EAGAIN: "its backlog is full; try again",
}

_CLOSED: Final = "it closed the connection; ask as root or as the agent's own user"


class AgentAnswer(NamedTuple):
    """What an agent said, and who that was."""

    status: Status
    peer: PeerCredentials


async def ask_status(path: str, *, intervals: int = 0, timeout_s: float = CONTROL_TIMEOUT_S) -> AgentAnswer:
    """The state of the agent at `path`, with its last `intervals` blind intervals (0: its default).

    Raises: Unreachable when nobody answers in time, or not as an agent does.
    """
    try:
        async with asyncio.timeout(timeout_s):
            sock = _connect(path)
            peer = peer_credentials(sock)
            channel = await open_channel(sock, max_frame_size=CONTROL_MAX_FRAME_SIZE)
            try:
                return AgentAnswer(await _ask(channel, path, intervals), peer)
            finally:
                channel.abort()
                await channel.wait_closed()
    except TimeoutError:
        raise Unreachable(WHO, path, "it listens but does not answer; read its log") from None
    except PeerError as error:
        raise Unreachable(WHO, path, f"no answer of an agent: {error}") from error
    except ConnectionLost as error:
        raise Unreachable(WHO, path, _CLOSED) from error


async def _ask(channel: Channel, path: str, intervals: int) -> Status:
    request = ControlRequest(
        request_id=f"status-{os.getpid()}", kind=RequestKind.STATUS, max_intervals=intervals
    )
    await channel.send(encode(request))
    payload = await channel.receive()
    if payload is None:
        raise Unreachable(WHO, path, _CLOSED)
    response = decode_response(payload)
    if not response.success or response.status is None:
        raise Unreachable(WHO, path, f"it refused: {response.error_message or 'no reason given'}")
    return response.status


def _connect(path: str) -> socket.socket:
    """A socket connected to `path`. Raises: Unreachable."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.connect(path)
    except OSError as error:
        sock.close()
        # The errno is None for a path longer than the 107 bytes that fit into sun_path.
        remedy = _REMEDIES.get(error.errno or 0, error.strerror or str(error))
        raise Unreachable(WHO, path, remedy) from error
    return sock

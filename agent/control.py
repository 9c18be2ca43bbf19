"""The agent's control socket. One rule: whatever a peer does costs one connection for a bounded time.

The kernel says who a peer is; whoever may not ask is closed before a byte is read.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final, NoReturn

from agent.config import ControlAccess
from agent.control_codec import decode_request, encode
from agent.control_messages import ControlRequest, ControlResponse, RequestKind, Status
from common.channel import Channel, open_channel
from common.credentials import PeerCredentials, peer_credentials, peer_groups
from common.errors import ConnectionLost, PeerError
from common.limits import (
    BLIND_INTERVALS_KEPT,
    CONTROL_CONNECTIONS,
    CONTROL_DEFAULT_INTERVALS,
    CONTROL_MAX_FRAME_SIZE,
    CONTROL_TIMEOUT_S,
    MAX_TASK_ID_BYTES,
)
from common.logs import get_logger

_log = get_logger(__name__)

_ACCEPT_PAUSE_S: Final = 0.1
"""Seconds to wait when accepting fails (no descriptor left): trying again at once would be a busy loop."""


class Control:
    """Answers on a listening socket. `status` makes the state, with so many blind intervals."""

    def __init__(
        self,
        listener: socket.socket,
        access: ControlAccess,
        status: Callable[[int], Status],
        *,
        timeout_s: float = CONTROL_TIMEOUT_S,
    ) -> None:
        self._listener = listener
        self._access = access
        self._status = status
        self._timeout_s = timeout_s
        self._connections = 0

    async def run(self) -> NoReturn:
        """Work until cancelled."""
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            while True:
                try:
                    sock, _ = await loop.sock_accept(self._listener)
                except OSError as error:
                    _log.warning("accept_failed", exc_info=error)
                    await asyncio.sleep(_ACCEPT_PAUSE_S)
                    continue
                if self._admits(sock):
                    self._connections += 1
                    group.create_task(self._serve(sock), name="control-connection")
                else:
                    sock.close()

    def _admits(self, sock: socket.socket) -> bool:
        try:
            peer, groups = peer_credentials(sock), peer_groups(sock)
        except OSError:  # it has left again
            return False
        if not self._may_ask(peer, groups):
            _log.info("control_peer_refused", pid=peer.pid, uid=peer.uid, gid=peer.gid)
            return False
        if self._connections >= CONTROL_CONNECTIONS:
            _log.warning("control_full", connections=self._connections, pid=peer.pid, uid=peer.uid)
            return False
        return True

    def _may_ask(self, peer: PeerCredentials, groups: tuple[int, ...]) -> bool:
        access = self._access
        return peer.uid in access.uids or not access.gids.isdisjoint((peer.gid, *groups))

    async def _serve(self, sock: socket.socket) -> None:
        try:
            channel = await open_channel(
                sock,
                max_frame_size=CONTROL_MAX_FRAME_SIZE,
                frame_deadline_s=self._timeout_s,
                stall_limit_s=self._timeout_s,
            )
            try:
                await self._converse(channel)
            finally:
                channel.abort()
                await channel.wait_closed()
        finally:
            self._connections -= 1

    async def _converse(self, channel: Channel) -> None:
        try:
            while True:
                async with asyncio.timeout(self._timeout_s):
                    payload = await channel.receive()
                if payload is None:
                    return
                response = self._answer(decode_request(payload))
                async with asyncio.timeout(self._timeout_s):
                    await channel.send(encode(response))
        except PeerError as error:
            channel.post(encode(ControlResponse(error_message=str(error))))
        except (ConnectionLost, TimeoutError):
            pass  # it left, or is too slow: nobody is there to be told

    def _answer(self, request: ControlRequest) -> ControlResponse:
        length = len(request.request_id.encode())
        if not 0 < length <= MAX_TASK_ID_BYTES:
            message = f"request_id: {length} bytes; 1 to {MAX_TASK_ID_BYTES} are possible"
        elif request.max_intervals > BLIND_INTERVALS_KEPT:
            message = f"max_intervals: {request.max_intervals}; at most {BLIND_INTERVALS_KEPT}"
        elif request.kind is not RequestKind.STATUS:
            message = "kind: this agent does not know what is asked; it answers STATUS"
        else:
            status = self._status(request.max_intervals or CONTROL_DEFAULT_INTERVALS)
            return ControlResponse(request_id=request.request_id, success=True, status=status)
        return ControlResponse(request_id=request.request_id, error_message=message)

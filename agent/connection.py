"""The way to procmond's socket. One rule: no byte is sent before the kernel has named who listens there."""

from __future__ import annotations

import asyncio
import errno
import random
import socket
from collections.abc import Collection
from typing import Final

from agent.backoff import Backoff
from common.credentials import peer_credentials
from common.errors import Unreachable, UntrustedServer

WHO: Final = "procmond"

_FULL_BACKLOG: Final = Backoff(initial_s=0.01, maximum_s=0.25)
"""A server that accepts at all empties its backlog within milliseconds."""

_REMEDIES: Final = {
    errno.ENOENT: "there is no such socket; start procmond, or name its socket",
    errno.ENOTDIR: "the path leads through something that is not a directory; name procmond's socket",
    errno.ECONNREFUSED: "nobody listens there: procmond is not running, or the path is not its socket",
    errno.EACCES: "permission denied; ask as root or as a member of the socket's group",
    errno.EPROTOTYPE: "that is another kind of socket; name procmond's",
    errno.EAGAIN: "its backlog stays full: too many clients connect, or procmond hangs",
}


async def connect(path: str, server_uids: Collection[int]) -> socket.socket:
    """A non-blocking Unix stream socket connected to `path`, whose listener runs as one of `server_uids`.

    A full backlog is waited for without limit: the caller's timeout ends it.
    Raises: Unreachable when nobody can be reached, UntrustedServer when somebody else listens.
    """
    attempts = 0
    while True:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            if _try_connect(sock, path):
                _check_server(sock, path, server_uids)
                return sock
        except BaseException:
            sock.close()
            raise
        sock.close()
        attempts += 1
        await asyncio.sleep(_FULL_BACKLOG.wait(attempts, random.random))


def unreachable(path: str, remedy: str) -> Unreachable:
    """The error that says that procmond does not answer at `path`, and what to try."""
    return Unreachable(WHO, path, remedy)


def backlog_full(path: str) -> Unreachable:
    """The error for a server that does not accept, though it listens."""
    return unreachable(path, _REMEDIES[errno.EAGAIN])


def _try_connect(sock: socket.socket, path: str) -> bool:
    """Connect at once, or False when the backlog is full.

    Not `loop.sock_connect`: on a Unix socket EAGAIN is final and means a full backlog (unix(7)), but asyncio
    takes it for "in progress" and reports a connection that is none.
    """
    try:
        sock.connect(path)
    except BlockingIOError:
        return False
    except OSError as error:
        # The errno is None for a path longer than the 107 bytes that fit into sun_path.
        remedy = _REMEDIES.get(error.errno or 0, error.strerror or str(error))
        raise unreachable(path, remedy) from error
    return True


def _check_server(sock: socket.socket, path: str, server_uids: Collection[int]) -> None:
    uid = peer_credentials(sock).uid
    if uid not in server_uids:
        expected = " or ".join(str(one) for one in sorted(server_uids))
        raise UntrustedServer(WHO, path, f"uid {uid} listens there, not uid {expected}; find out who that is")

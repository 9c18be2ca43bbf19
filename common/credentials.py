"""Who is at the other end of a Unix socket. One rule: the kernel says it, never the peer.

The numbers are those at the time of connect(2) for a server's peer, of listen(2) for a client's (unix(7)).
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import os
import socket
import struct
from typing import Final, NamedTuple

_UCRED: Final = struct.Struct("iII")  # struct ucred, unix(7): pid, uid, gid
_SO_PEERGROUPS: Final = 59  # include/uapi/asm-generic/socket.h; Python has no name for it
_MOST_GROUPS: Final = 65_536  # NGROUPS_MAX
_GROUP_BYTES: Final = 4
_SOCKET_GETSOCKOPT_BYTES: Final = 1024  # socket.getsockopt takes no larger buffer


class PeerCredentials(NamedTuple):
    """The process at the other end."""

    pid: int
    uid: int
    gid: int


def peer_credentials(sock: socket.socket) -> PeerCredentials:
    """SO_PEERCRED of a connected Unix socket. Raises: OSError."""
    return PeerCredentials(
        *_UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    )


def peer_groups(sock: socket.socket) -> tuple[int, ...]:
    """The peer's supplementary groups, SO_PEERGROUPS; empty on kernels without it. Raises: OSError."""
    with contextlib.suppress(OSError):
        raw = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _SOCKET_GETSOCKOPT_BYTES)
        return tuple(array.array("I", raw))
    return _many_groups(sock.fileno())


def _many_groups(descriptor: int) -> tuple[int, ...]:
    """More than 256 groups do not fit what socket.getsockopt offers (ERANGE), so ask the C library."""
    libc = ctypes.CDLL(None, use_errno=True)
    size = ctypes.c_uint32(_MOST_GROUPS * _GROUP_BYTES)
    groups = (ctypes.c_uint32 * _MOST_GROUPS)()
    if libc.getsockopt(descriptor, socket.SOL_SOCKET, _SO_PEERGROUPS, groups, ctypes.byref(size)) != 0:
        error = ctypes.get_errno()
        if error in _NOT_KNOWN:
            return ()
        raise OSError(error, os.strerror(error))
    return tuple(groups[: size.value // _GROUP_BYTES])


_NOT_KNOWN: Final = frozenset({92, 95})  # ENOPROTOOPT, EOPNOTSUPP: kernels before 4.13

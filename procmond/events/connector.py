"""The process connector as an event source. One rule: a message that did not come is counted, by the kernel's
own sequence numbers.

The supervisor opens the socket while it may; every collector reads the same one. What a collector has taken
is noted in memory shared with the supervisor, so the next one knows what it may have missed.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import select
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from common.limits import MIB
from common.messages import EventSource, ProcessEventKind
from common.service import InheritedSocket
from procmond.events import connector_wire as wire
from procmond.events.source import SourceFailed, Totals
from procmond.events.threads import Found, ThreadFilter

_NETLINK_CONNECTOR: Final = 11
_SOL_NETLINK: Final = 270
_ADD_MEMBERSHIP, _DROP_MEMBERSHIP = 1, 2
_SO_RCVBUFFORCE: Final = 33
_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27

ACKNOWLEDGE_S: Final = 1.0
"""Seconds for the kernel to answer: it does so within the call, or never (DESIGN: other namespaces)."""
BUFFER_BYTES: Final = 8 * MIB
"""Receive buffer: the kernel charges some 800 bytes for a message, so 10,000 of them, three seconds of 1,000
short processes a second. Only what is not read in time takes memory."""
DATAGRAM_BYTES: Final = 4096
"""Messages have less than 100 bytes."""

_KINDS: Final = (
    ProcessEventKind.FORK,
    ProcessEventKind.EXEC,
    ProcessEventKind.EXIT,
    ProcessEventKind.CREDENTIALS,
)
OVERRUN: Final = "connector_overrun"
_FILTER: Final = struct.Struct("@HP")  # struct sock_fprog


class Connection(NamedTuple):
    """The socket and what its readers have taken."""

    sock: socket.socket
    ledger: mmap.mmap
    joined: bool
    """False: in reserve; it gets nothing until `join`."""
    narrowed: bool = False
    """It gets changes of credentials only, until `join`."""

    def close(self) -> None:
        """In this process."""
        self.sock.close()
        self.ledger.close()


def split_connector(
    passed: Sequence[InheritedSocket],
) -> tuple[socket.socket | None, Sequence[InheritedSocket]]:
    """The netlink socket that systemd bound to the group (`ListenNetlink=connector 1`), if it passed one, and
    all others."""
    others: list[InheritedSocket] = []
    connector: socket.socket | None = None
    for each in passed:
        sock = socket.socket(fileno=each.descriptor)
        if sock.family == socket.AF_NETLINK and connector is None:
            connector = sock
        else:
            sock.detach()
            others.append(each)
    return connector, others


def open_connector(
    passed: socket.socket | None = None, *, standby: bool = False, narrowed: bool = False
) -> Connection | str:
    """A socket that gets every process event, or why there is none.

    `passed` is one that a service manager bound to the group. `standby`: get nothing for now, at no cost.
    `narrowed`: get changes of credentials only.
    """
    sock = passed
    try:
        if sock is None:
            sock = socket.socket(
                socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, _NETLINK_CONNECTOR
            )
            sock.bind((0, wire.GROUP))
        sock.setblocking(False)
        _enlarge(sock)
        obstacle = _listen(sock)
        if not obstacle and narrowed:
            _narrow(sock)
        elif not obstacle and standby:
            sock.setsockopt(_SOL_NETLINK, _DROP_MEMBERSHIP, wire.GROUP)
    except OSError as error:
        obstacle = error.strerror or str(error)
    if obstacle:
        if sock is not None:
            sock.close()
        return obstacle
    assert sock is not None  # noqa: S101 - no obstacle, so there is one
    return Connection(sock, mmap.mmap(-1, Ledger.SIZE), joined=narrowed or not standby, narrowed=narrowed)


def join(connection: Connection) -> Connection:
    """One that gets all events from now on. Raises: OSError when it did not before, and may not now."""
    if connection.narrowed:
        connection.sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
        _empty(connection.sock)  # of what still came narrowed: between that, too, all would seem to be lost
    elif not connection.joined:
        _empty(connection.sock)  # of what came before it was put in reserve: counted on from there, all
        # that was told meanwhile would seem to be lost
        connection.sock.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, wire.GROUP)
    return connection._replace(joined=True, narrowed=False)


def _empty(sock: socket.socket) -> None:
    while True:
        try:
            sock.recv(DATAGRAM_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise


def _narrow(sock: socket.socket) -> None:
    """Let the kernel drop all but changes of credentials, at no cost to whoever reads."""
    program = wire.narrowing()
    memory = ctypes.create_string_buffer(program)
    steps = len(program) // 8  # bytes of a struct sock_filter
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, _FILTER.pack(steps, ctypes.addressof(memory)))
    _empty(sock)  # of what came before


def _enlarge(sock: socket.socket) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, BUFFER_BYTES)
    except PermissionError:  # then as far as net.core.rmem_max goes
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)


def _listen(sock: socket.socket) -> str:
    """Ask for events; empty, or why there will be none. Raises: OSError.

    The kernel tells a socket that overran nothing, this answer included, until all that is left is taken. One
    that was bound before we started may have overrun by now, and may again.
    """
    mark = int.from_bytes(os.urandom(4), "little") >> 1
    _empty(sock)
    sock.send(wire.encode_listen(mark))
    deadline = time.monotonic() + ACKNOWLEDGE_S
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([sock], [], [], left)[0]:
            break
        try:
            data, (sender, _) = sock.recvfrom(DATAGRAM_BYTES)
            messages = list(wire.parse_messages(data)) if sender == 0 else []
        except wire.MalformedMessage:
            continue
        except OSError:  # it overran after all
            _empty(sock)
            sock.send(wire.encode_listen(mark))
            continue
        for message in messages:
            if isinstance(message, wire.Acknowledged) and message.acknowledged == mark + 1:
                return os.strerror(message.error) if message.error else ""
    return f"no acknowledgement within {ACKNOWLEDGE_S:g} s: not the initial pid and network namespaces"


class Ledger:
    """What was taken, in memory that outlives the reader: counts by kind, losses, each processor's
    sequence."""

    _COUNTS = struct.Struct("=6Q")
    _SEQUENCE = struct.Struct("=Q")
    SIZE = _COUNTS.size + wire.MAX_PROCESSORS * _SEQUENCE.size

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory
        *self.taken, self.lost, self.malformed = self._COUNTS.unpack_from(memory)

    def expect(self, processor: int, sequence: int) -> int:
        """Note a message; returns how many before it, of this processor, never came."""
        at = self._COUNTS.size + processor * self._SEQUENCE.size
        (expected,) = self._SEQUENCE.unpack_from(self._memory, at)
        self._SEQUENCE.pack_into(self._memory, at, (sequence + 1 & 0xFFFFFFFF) | _KNOWN)
        return sequence - expected & 0xFFFFFFFF if expected else 0

    def write(self) -> None:
        """Make the counts known to the next reader."""
        self._COUNTS.pack_into(self._memory, 0, *self.taken, self.lost, self.malformed)


_KNOWN: Final = 1 << 32


class ConnectorReader:
    """Takes messages off the socket; made in the process that reads."""

    kind = EventSource.PROCESS_CONNECTOR
    holds = False

    def __init__(self, connection: Connection, look: Callable[[int], Found | None]) -> None:
        self._sock = connection.sock
        self._ledger = Ledger(connection.ledger)
        self._filter = ThreadFilter(look)

    def fileno(self) -> int:
        """Readable while there are messages."""
        return self._sock.fileno()

    def drain(self, limit: int) -> Sequence[wire.Message]:
        """Events of processes, oldest first; after an overrun those that are left.

        Raises: SourceFailed when the socket gives nothing more.
        """
        events: list[wire.Message] = []
        ledger = self._ledger
        for _ in range(limit):
            try:
                data, (sender, _) = self._sock.recvfrom(DATAGRAM_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise SourceFailed(f"process connector: {error.strerror}") from None
                continue  # an overrun: it shows in the sequence, and ends when all that is left is taken
            if sender == 0:  # others may write to us, but only the kernel knows
                self._take(data, events)
        ledger.write()
        return events

    def skip(self, limit: int) -> Mapping[ProcessEventKind, int]:
        """As `drain`: whether a thread or a process ended is not to be told without its history."""
        return Counter(_KINDS[_INDEX[type(event)]] for event in self.drain(limit))

    def _take(self, data: bytes, events: list[wire.Message]) -> None:
        ledger = self._ledger
        try:
            for message in wire.parse_messages(data):
                missing = ledger.expect(message.processor, message.sequence)
                if missing:
                    ledger.lost += missing
                    self._filter.forget()
                for event in self._filter.processes(message):
                    ledger.taken[_INDEX[type(event)]] += 1
                    events.append(event)
        except wire.MalformedMessage:
            ledger.malformed += 1

    def totals(self) -> Totals:
        """Events of processes that were taken; messages that never came, of threads too, of any kind."""
        ledger = self._ledger
        lost = {(OVERRUN, ProcessEventKind.UNSPECIFIED): ledger.lost + ledger.malformed}
        return Totals(dict(zip(_KINDS, ledger.taken, strict=True)), lost)

    def close(self) -> None:
        """The socket stays open: it is not ours."""


_INDEX: Final[dict[type[wire.Message], int]] = {
    wire.Forked: 0,
    wire.Execed: 1,
    wire.Exited: 2,
    wire.ChangedIds: 3,
}

"""Messages of the process connector as values. One rule: pure and total: any bytes give values or an error.

Layout: include/uapi/linux/netlink.h, connector.h and cn_proc.h, in the machine's byte order. Pids are those
of the initial namespace, the only one in which the kernel sends these messages; uids and exit codes are the
kernel's.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

import msgspec

from common.errors import DaemonEyeError

GROUP: Final = 1
"""CN_IDX_PROC, and CN_VAL_PROC likewise."""
_LISTEN: Final = 1  # PROC_CN_MCAST_LISTEN
_NLMSG_DONE: Final = 3
_NLMSG_OVERRUN: Final = 4

_NETLINK: Final = struct.Struct("=IHHII")
_CONNECTOR: Final = struct.Struct("=IIIIHH")
_EVENT: Final = struct.Struct("=IIQ")
_ACKNOWLEDGED: Final = struct.Struct("=I")
_FORK: Final = struct.Struct("=4I")
_EXEC: Final = struct.Struct("=2I")
_IDS: Final = struct.Struct("=4I")
_EXIT: Final = struct.Struct("=4I")
_BODY_AT: Final = _NETLINK.size + _CONNECTOR.size
_DATA_AT: Final = _BODY_AT + _EVENT.size

_NONE, _FORKED, _EXECED, _UID, _GID, _EXITED = 0, 1, 2, 4, 0x40, 0x80000000
_DATA: Final = {_NONE: _ACKNOWLEDGED, _FORKED: _FORK, _EXECED: _EXEC, _UID: _IDS, _GID: _IDS, _EXITED: _EXIT}

MAX_PROCESSORS: Final = 8192
"""CONFIG_NR_CPUS is never more; a message from beyond is damaged."""


class MalformedMessage(DaemonEyeError):
    """Bytes that are no message of the process connector."""


class Message(msgspec.Struct, frozen=True, gc=False):
    """What one message says. `pid` is a thread's id, `group` that of its thread group: the process."""

    processor: int
    sequence: int
    """Counts this processor's events of all kinds, 32 bits: a jump is a loss."""
    monotonic_ns: int
    pid: int
    group: int


class Acknowledged(Message, frozen=True, gc=False):
    """The kernel's answer to LISTEN, to all that listen; `pid` and `group` mean nothing."""

    error: int
    acknowledged: int
    """The asker's mark and one more."""


class Forked(Message, frozen=True, gc=False):
    """A thread was made: `pid`, in `group`; a process where the two are equal."""

    parent: int
    """Thread group of the real parent; with CLONE_PARENT not who called."""


class Execed(Message, frozen=True, gc=False):
    """A process runs another image."""


class ChangedIds(Message, frozen=True, gc=False):
    """A thread has other user ids, or other group ids; of a change of both there are two messages."""

    of_groups: bool
    """Whether it is about the group ids."""
    real: int
    effective: int


class Exited(Message, frozen=True, gc=False):
    """A thread ended."""

    status: int
    """As wait(2) reports it."""


class Other(Message, frozen=True, gc=False):
    """An event of a kind that is not used (session, ptrace, comm, core dump); it counts in the sequence."""


def narrowing() -> bytes:
    """A socket filter (struct sock_filter) that lets nothing through but changes of ids."""
    user, group = (int.from_bytes(struct.pack("=I", what), "big") for what in (_UID, _GID))  # as it is loaded
    steps = (
        (0x20, 0, 0, _BODY_AT),  # BPF_LD | BPF_W | BPF_ABS: what happened
        (0x15, 2, 0, user),  # BPF_JMP | BPF_JEQ
        (0x15, 1, 0, group),
        (0x06, 0, 0, 0),  # BPF_RET: nothing
        (0x06, 0, 0, 0xFFFFFFFF),  # all of it
    )
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def encode_listen(mark: int) -> bytes:
    """The request to send events; the answer shows `mark`, 32 bits, plus one."""
    payload = struct.pack("=I", _LISTEN)
    size = _BODY_AT + len(payload)
    return (
        _NETLINK.pack(size, _NLMSG_DONE, 0, 0, 0)
        + _CONNECTOR.pack(GROUP, GROUP, 0, mark, len(payload), 0)
        + payload
    )


def parse_messages(data: bytes) -> Iterator[Message]:
    """The messages of one datagram.

    Raises:
        MalformedMessage: when it is reached; what came before is valid.
    """
    start = 0
    while start < len(data):
        if len(data) - start < _DATA_AT:
            raise MalformedMessage(f"{len(data) - start} bytes where a message should begin")
        length, kind, _, _, _ = _NETLINK.unpack_from(data, start)
        if not _DATA_AT <= length <= len(data) - start or kind == _NLMSG_OVERRUN:
            raise MalformedMessage(f"netlink message of kind {kind}, {length} of {len(data) - start} bytes")
        yield _message(data, start, start + length)
        start += length + 3 & ~3  # NLMSG_ALIGN


def _message(data: bytes, start: int, end: int) -> Message:
    index, value, sequence, acknowledged, _, _ = _CONNECTOR.unpack_from(data, start + _NETLINK.size)
    what, processor, monotonic_ns = _EVENT.unpack_from(data, start + _BODY_AT)
    if (index, value) != (GROUP, GROUP):
        raise MalformedMessage(f"message of connector {index}.{value}")
    if processor >= MAX_PROCESSORS:
        raise MalformedMessage(f"message from processor {processor}")
    form = _DATA.get(what)
    if form is None:
        return Other(processor, sequence, monotonic_ns, 0, 0)
    if end - start - _DATA_AT < form.size:
        raise MalformedMessage(f"event {what:#x} of {end - start - _DATA_AT} bytes")
    fields = form.unpack_from(data, start + _DATA_AT)
    if what == _NONE:
        return Acknowledged(processor, sequence, monotonic_ns, 0, 0, fields[0], acknowledged)
    head = (processor, sequence, monotonic_ns)
    if what == _FORKED:
        _, parent, pid, group = fields
        return Forked(*head, pid, group, parent)
    pid, group = fields[:2]
    if what == _EXECED:
        return Execed(*head, pid, group)
    if what == _EXITED:
        return Exited(*head, pid, group, fields[2])
    return ChangedIds(*head, pid, group, what == _GID, *fields[2:])

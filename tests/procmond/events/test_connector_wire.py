"""The connector's messages, against messages laid out by hand from cn_proc.h, and any bytes at all."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procmond.events.connector_wire import (
    Acknowledged,
    ChangedIds,
    Execed,
    Exited,
    Forked,
    MalformedMessage,
    Message,
    Other,
    encode_listen,
    parse_messages,
)

NONE, FORK, EXEC, UID, GID, SID, COMM, EXIT = 0, 1, 2, 4, 0x40, 0x80, 0x200, 0x80000000
UNION_BYTES = 24
"""Of event_data, the largest member."""


def message(what: int, *data: int, sequence: int = 7, ack: int = 0, processor: int = 3) -> bytes:
    """One netlink message as the kernel sends it."""
    body = struct.pack("=IIQ", what, processor, 1_000) + struct.pack(f"={len(data)}I", *data).ljust(
        UNION_BYTES, b"\0"
    )
    head = struct.pack("=IIIIHH", 1, 1, sequence, ack, len(body), 0)
    return struct.pack("=IHHII", 16 + len(head) + len(body), 3, 0, 0, 0) + head + body


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (message(FORK, 1, 2, 30, 31), Forked(3, 7, 1_000, 30, 31, 2)),
        (message(EXEC, 30, 31), Execed(3, 7, 1_000, 30, 31)),
        (message(UID, 30, 31, 1000, 0), ChangedIds(3, 7, 1_000, 30, 31, False, 1000, 0)),
        (message(GID, 30, 31, 1000, 0), ChangedIds(3, 7, 1_000, 30, 31, True, 1000, 0)),
        (message(EXIT, 30, 31, 0x0300, 17, 1, 1), Exited(3, 7, 1_000, 30, 31, 0x0300)),
        (message(COMM, 30, 31), Other(3, 7, 1_000, 0, 0)),
        (message(NONE, 13, ack=42), Acknowledged(3, 7, 1_000, 0, 0, 13, 42)),
    ],
    ids=["fork", "exec", "uid", "gid", "exit", "comm", "acknowledgement"],
)
def test_each_kind_is_read_as_the_kernel_lays_it_out(raw: bytes, expected: Message) -> None:
    assert list(parse_messages(raw)) == [expected]


def test_several_messages_in_one_datagram_are_several() -> None:
    assert len(list(parse_messages(message(EXEC, 1, 1) + message(EXIT, 1, 1, 0)))) == 2


@pytest.mark.parametrize("length", range(1, len(message(EXIT, 1, 1, 0))))
def test_a_message_that_is_cut_is_refused(length: int) -> None:
    with pytest.raises(MalformedMessage):
        list(parse_messages(message(EXIT, 1, 1, 0)[:length]))


def test_what_came_before_a_damaged_message_is_valid() -> None:
    found = parse_messages(message(EXEC, 5, 5) + b"\xff" * 40)
    assert next(found) == Execed(3, 7, 1_000, 5, 5)
    with pytest.raises(MalformedMessage):
        next(found)


def test_a_message_of_another_connector_is_refused() -> None:
    raw = bytearray(message(EXEC, 1, 1))
    raw[16] = 9
    with pytest.raises(MalformedMessage, match="connector 9"):
        list(parse_messages(bytes(raw)))


def test_a_processor_that_cannot_be_is_refused() -> None:
    with pytest.raises(MalformedMessage, match="processor"):
        list(parse_messages(message(EXEC, 1, 1, processor=1 << 20)))


def test_the_request_has_this_shape() -> None:
    assert encode_listen(0x01020304) == bytes.fromhex(
        "28000000 0300 0000 00000000 00000000"  # nlmsghdr
        "01000000 01000000 00000000 04030201 0400 0000"  # cn_msg
        "01000000"  # PROC_CN_MCAST_LISTEN
    )


@given(st.binary(max_size=400))
def test_any_bytes_are_messages_or_one_error(data: bytes) -> None:
    try:
        for found in parse_messages(data):
            assert isinstance(found, Message)
    except MalformedMessage:
        pass


@given(st.integers(0, 75), st.integers(0, 255))
def test_a_changed_byte_is_another_message_or_one_error(at: int, value: int) -> None:
    raw = bytearray(message(EXIT, 30, 31, 0x0300, 17, 1, 1))
    raw[at] = value
    with suppress(MalformedMessage):
        list(parse_messages(bytes(raw)))

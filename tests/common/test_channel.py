"""common.channel in pairs over real socket pairs: ends, bad bytes, slow peers, backpressure."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from common import limits
from common.channel import Channel, open_channel
from common.errors import (
    ChecksumMismatch,
    ConnectionLost,
    FrameEmpty,
    FrameTimeout,
    FrameTooLarge,
    FrameTruncated,
    ReaderStalled,
)
from common.framing import encode_frame

LARGE = bytes(512 * limits.KIB)
"""More than a Unix socket's buffers (208 KiB) and both water marks together."""

SHORT_S = 0.2
"""A limit that a test waits for; nothing is measured against it."""


@contextlib.asynccontextmanager
async def channel_and_socket(**settings: float) -> AsyncIterator[tuple[Channel, socket.socket]]:
    """A channel, and the bare socket of its peer."""
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setblocking(False)
    channel = await open_channel(
        ours,
        frame_deadline_s=settings.get("frame_deadline_s", 3600.0),
        stall_limit_s=settings.get("stall_limit_s", 3600.0),
    )
    try:
        with theirs:
            yield channel, theirs
    finally:
        channel.abort()
        await channel.wait_closed()


@contextlib.asynccontextmanager
async def pair() -> AsyncIterator[tuple[Channel, Channel]]:
    """Two channels that talk to each other."""
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setblocking(False)
    channels = [await open_channel(end) for end in (ours, theirs)]
    try:
        yield channels[0], channels[1]
    finally:
        for channel in channels:
            channel.abort()
            await channel.wait_closed()


async def read_all(sock: socket.socket) -> bytes:
    """Everything until the peer closes."""
    loop = asyncio.get_running_loop()
    parts = []
    while part := await loop.sock_recv(sock, 65_536):
        parts.append(part)
    return b"".join(parts)


async def blocked(task: asyncio.Task[None]) -> None:
    """Returns when `task` had every chance to go on and still waits."""
    for _ in range(20):
        await asyncio.sleep(0)
    assert not task.done()


# --------------------------------------------------------------------------------------------- exchange


async def test_payloads_arrive_whole_and_in_order_both_ways() -> None:
    async with pair() as (one, other):
        for payload in (b"first", b"second"):
            await one.send(payload)
            await other.send(payload.upper())
        assert [await other.receive(), await other.receive()] == [b"first", b"second"]
        assert [await one.receive(), await one.receive()] == [b"FIRST", b"SECOND"]


async def test_a_frame_larger_than_every_buffer_arrives() -> None:
    async with pair() as (one, other):
        payload = bytes(range(256)) * 4096
        async with asyncio.TaskGroup() as group:
            group.create_task(one.send(payload))
            assert await other.receive() == payload


async def test_a_frame_in_single_bytes_arrives() -> None:
    async with channel_and_socket() as (channel, peer):
        receiving = asyncio.create_task(channel.receive())
        for byte in encode_frame(b"slow"):
            peer.send(bytes([byte]))
            await asyncio.sleep(0)
        assert await receiving == b"slow"


async def test_senders_take_turns_and_no_frame_is_torn() -> None:
    async with pair() as (one, other):
        payloads = [bytes([n]) * (100 * limits.KIB) for n in range(8)]
        async with asyncio.TaskGroup() as group:
            for payload in payloads:
                group.create_task(one.send(payload))
            assert [await other.receive() for _ in payloads] == payloads


@pytest.mark.parametrize("payload", [b"", bytes(limits.DEFAULT_MAX_FRAME_SIZE + 1)])
async def test_what_is_no_frame_is_refused_before_a_byte_is_written(payload: bytes) -> None:
    async with pair() as (one, other):
        with pytest.raises((FrameEmpty, FrameTooLarge)):
            await one.send(payload)
        await one.send(b"good")
        assert await other.receive() == b"good"


# ------------------------------------------------------------------------------------------------- ends


async def test_an_end_between_frames_is_no_error() -> None:
    async with pair() as (one, other):
        await one.send(b"last")
        one.close()
        assert await other.receive() == b"last"
        assert await other.receive() is None
        assert await other.receive() is None


async def test_an_end_inside_a_frame_is_an_error_after_the_good_ones() -> None:
    async with channel_and_socket() as (channel, peer):
        peer.send(encode_frame(b"whole") + encode_frame(b"cut")[:9])
        peer.close()
        assert await channel.receive() == b"whole"
        with pytest.raises(FrameTruncated) as caught:
            await channel.receive()
        assert (caught.value.received, caught.value.expected) == (9, 11)


async def test_a_peer_that_only_stopped_writing_still_gets_answers() -> None:
    async with channel_and_socket() as (channel, peer):
        peer.shutdown(socket.SHUT_WR)
        assert await channel.receive() is None
        await channel.send(b"answer")
        channel.close()
        assert await read_all(peer) == encode_frame(b"answer")


async def test_closing_lets_what_was_written_be_taken_first() -> None:
    async with channel_and_socket() as (channel, peer):
        sending = asyncio.create_task(channel.send(LARGE))
        await blocked(sending)
        channel.close()
        assert await read_all(peer) == encode_frame(LARGE)
        await channel.wait_closed()
        with contextlib.suppress(ConnectionLost):  # whether it heard of the drain or of the close first
            await sending


async def test_our_own_close_ends_the_consumer() -> None:
    async with channel_and_socket() as (channel, _):
        receiving = asyncio.create_task(channel.receive())
        await asyncio.sleep(0)
        channel.close()
        with pytest.raises(ConnectionLost, match="connection closed"):
            await receiving
        with pytest.raises(ConnectionLost):
            await channel.send(b"late")


async def test_a_dead_peer_fails_the_sender() -> None:
    async with channel_and_socket() as (channel, peer):
        sending = asyncio.create_task(channel.send(LARGE))
        await blocked(sending)
        peer.close()
        with pytest.raises(ConnectionLost):
            await sending


async def test_abort_wakes_everybody_with_its_reason() -> None:
    async with channel_and_socket() as (channel, _):
        reason = ConnectionLost("the other task failed")
        receiving = asyncio.create_task(channel.receive())
        sending = asyncio.create_task(channel.send(LARGE))
        queued = asyncio.create_task(channel.send(b"next"))
        await blocked(sending)
        channel.abort(reason)
        outcomes = await asyncio.gather(receiving, sending, queued, return_exceptions=True)
        assert all(outcome is reason for outcome in outcomes)
        await channel.wait_closed()


async def test_abort_without_a_reason_is_a_lost_connection() -> None:
    async with channel_and_socket() as (channel, _):
        channel.abort()
        with pytest.raises(ConnectionLost, match="connection closed"):
            await channel.receive()


# -------------------------------------------------------------------------------------------- bad bytes


async def test_a_bad_frame_ends_the_reading_and_last_words_still_go_out() -> None:
    async with channel_and_socket() as (channel, peer):
        broken = bytearray(encode_frame(b"broken"))
        broken[-1] ^= 1
        peer.send(encode_frame(b"good") + broken + encode_frame(b"never read"))
        assert await channel.receive() == b"good"
        for _ in range(2):
            with pytest.raises(ChecksumMismatch):
                await channel.receive()
        channel.post(b"you broke it")
        channel.close()
        assert await read_all(peer) == encode_frame(b"you broke it")


async def test_good_frames_of_a_full_queue_are_read_before_the_bad_one() -> None:
    async with channel_and_socket() as (channel, peer):
        good = [bytes([n]) for n in range(1, limits.READ_QUEUE_FRAMES + 1)]
        peer.send(b"".join(map(encode_frame, good)) + bytes(8))
        assert [await channel.receive() for _ in good] == good
        with pytest.raises(FrameEmpty):
            await channel.receive()


async def test_a_length_beyond_the_limit_is_refused_without_waiting_for_it() -> None:
    async with channel_and_socket() as (channel, peer):
        peer.send((limits.DEFAULT_MAX_FRAME_SIZE + 1).to_bytes(4, "little") + bytes(4))
        with pytest.raises(FrameTooLarge):
            await channel.receive()


# --------------------------------------------------------------------------------------------- slowness


async def test_a_frame_held_open_ends_the_reading_and_last_words_still_go_out() -> None:
    async with channel_and_socket(frame_deadline_s=SHORT_S) as (channel, peer):
        peer.send(encode_frame(b"half")[:5])
        with pytest.raises(FrameTimeout):
            await channel.receive()
        channel.post(b"too slow")
        channel.close()
        assert await read_all(peer) == encode_frame(b"too slow")


async def test_bytes_that_trickle_in_do_not_hold_a_frame_open() -> None:
    async with channel_and_socket(frame_deadline_s=SHORT_S) as (channel, peer):
        receiving = asyncio.create_task(channel.receive())
        frame = encode_frame(bytes(10_000))
        for n in range(len(frame) - 1):
            peer.send(frame[n : n + 1])
            await asyncio.sleep(SHORT_S / 20)
            if receiving.done():
                break
        with pytest.raises(FrameTimeout):
            await receiving


async def test_a_peer_that_says_nothing_may_stay() -> None:
    async with channel_and_socket(frame_deadline_s=0.02, stall_limit_s=0.02) as (channel, peer):
        peer.send(encode_frame(b"one"))
        assert await channel.receive() == b"one"
        await channel.send(b"taken by the kernel")
        receiving = asyncio.create_task(channel.receive())
        await asyncio.sleep(
            0.1
        )  # several limits long; a channel that wrongly counted idleness would have failed
        peer.send(encode_frame(b"two"))
        assert await receiving == b"two"


async def test_a_reader_that_takes_nothing_is_closed() -> None:
    async with channel_and_socket(stall_limit_s=SHORT_S) as (channel, peer):
        receiving = asyncio.create_task(channel.receive())
        with pytest.raises(ReaderStalled):
            await channel.send(LARGE)
        with pytest.raises(ReaderStalled):
            await receiving
        await channel.wait_closed()
        assert 0 < len(await read_all(peer)) < len(LARGE)


async def test_a_reader_that_stops_after_our_close_is_closed_too() -> None:
    async with channel_and_socket(stall_limit_s=SHORT_S) as (channel, _):
        sending = asyncio.create_task(channel.send(LARGE))
        await blocked(sending)
        channel.close()
        await channel.wait_closed()
        with pytest.raises(ReaderStalled):
            await sending


class SteppedClock:
    """The loop's time as the channel sees it, set by the test."""

    def __init__(self) -> None:
        self.now = 0.0

    def time(self) -> float:
        return self.now


async def test_a_reader_as_fast_as_we_write_is_never_stalled(monkeypatch: pytest.MonkeyPatch) -> None:
    # Each step the peer takes a whole frame and we add the next at once: what waits is always the same
    # amount, and still the peer is alive.
    async with channel_and_socket(stall_limit_s=30.0) as (channel, peer):
        clock = SteppedClock()
        monkeypatch.setattr(channel, "_loop", FakeTime(channel._loop, clock))
        loop = asyncio.get_running_loop()
        sending = asyncio.create_task(channel.send(LARGE))
        await blocked(sending)
        for _ in range(5):
            clock.now += 20.0
            following = asyncio.create_task(channel.send(LARGE))
            taken = 0
            while taken < len(LARGE) + 8:
                part = await loop.sock_recv(peer, len(LARGE) + 8 - taken)
                assert part, "the channel gave up on a peer that reads"
                taken += len(part)
            await sending
            sending = following
            await blocked(sending)
            channel._tick()
            assert not sending.done()
        channel.abort()
        with pytest.raises(ConnectionLost):
            await sending


class FakeTime:
    """A loop whose clock is the test's; all else is the real one's."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: SteppedClock) -> None:
        self._loop = loop
        self.time = clock.time

    def __getattr__(self, name: str) -> object:
        return getattr(self._loop, name)


# ----------------------------------------------------------------------------------------- backpressure


async def test_a_stopped_reader_costs_one_frame() -> None:
    async with channel_and_socket() as (channel, peer):
        sending = [asyncio.create_task(channel.send(LARGE)) for _ in range(10)]
        await blocked(sending[0])
        assert channel.buffered <= len(LARGE) + limits.FRAME_HEADER_BYTES
        channel.abort()
        await asyncio.gather(*sending, return_exceptions=True)
        assert len(await read_all(peer)) < len(LARGE)


async def test_senders_that_give_up_do_not_pile_frames_up() -> None:
    async with channel_and_socket() as (channel, _):
        for _ in range(10):
            sending = asyncio.create_task(channel.send(LARGE))
            await blocked(sending)
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
        assert channel.buffered <= len(LARGE) + limits.FRAME_HEADER_BYTES


async def test_the_next_frame_is_taken_when_the_reader_goes_on() -> None:
    async with channel_and_socket() as (channel, peer):
        first = asyncio.create_task(channel.send(LARGE))
        second = asyncio.create_task(channel.send(b"next"))
        await blocked(first)
        reading = asyncio.create_task(read_all(peer))
        await first
        await second
        channel.close()
        assert await reading == encode_frame(LARGE) + encode_frame(b"next")


async def test_a_consumer_that_stops_blocks_the_peers_writes() -> None:
    async with channel_and_socket() as (channel, peer):
        frame = encode_frame(bytes(60 * limits.KIB))
        sent = 0
        # The loop turns between writes, so a channel that went on reading would take all of this.
        for _ in range(20 * limits.READ_QUEUE_FRAMES):
            with contextlib.suppress(BlockingIOError):
                sent += peer.send(frame[sent % len(frame) :])
            await asyncio.sleep(0)
        assert sent < 3 * limits.READ_QUEUE_FRAMES * len(frame)
        for _ in range(sent // len(frame)):
            assert await channel.receive() == bytes(60 * limits.KIB)


async def test_time_in_which_we_did_not_read_is_not_held_against_the_peer() -> None:
    async with channel_and_socket(frame_deadline_s=SHORT_S) as (channel, peer):
        frames = b"".join(encode_frame(bytes([n])) for n in range(1, limits.READ_QUEUE_FRAMES + 1))
        peer.send(frames + encode_frame(b"tail")[:5])
        assert await channel.receive() == b"\x01"  # the queue was full, so the socket is not read
        await asyncio.sleep(3 * SHORT_S)  # an open frame would be late by now, were it the peer's fault
        peer.send(encode_frame(b"tail")[5:])
        for n in range(2, limits.READ_QUEUE_FRAMES + 1):
            assert await channel.receive() == bytes([n])
        assert await channel.receive() == b"tail"


# ---------------------------------------------------------------------------------------------- last words


async def test_post_does_not_wait_and_never_raises_for_a_dead_peer() -> None:
    async with channel_and_socket() as (channel, peer):
        channel.post(b"one")
        peer.close()
        channel.post(b"two")
        channel.abort()
        channel.post(b"three")
        await channel.wait_closed()
        channel.post(b"four")
        assert channel.buffered == 0

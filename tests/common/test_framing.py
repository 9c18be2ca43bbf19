"""common.framing: frames whole, byte by byte, with a tail, in any portions, and everything refused."""

from __future__ import annotations

import itertools
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import limits
from common.errors import (
    ChecksumMismatch,
    FrameEmpty,
    FrameError,
    FrameTimeout,
    FrameTooLarge,
    FrameTruncated,
    ReaderStalled,
)
from common.framing import FrameDecoder, FrameTimer, StallTimer, encode_frame

GOLDEN = bytes.fromhex("040000004426707d0a027431")
"""The contract's example: DetectionTask{task_id: "t1"}."""

payload_lists = st.lists(st.binary(min_size=1, max_size=40), max_size=6)


def portions(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` cut at the given places."""
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def test_the_golden_frame_is_written() -> None:
    assert encode_frame(b"\x0a\x02t1") == GOLDEN


def test_the_golden_frame_is_read_whole() -> None:
    decoder = FrameDecoder()
    assert decoder.feed(GOLDEN) == [b"\x0a\x02t1"]
    assert not decoder.mid_frame
    decoder.finish()


def test_the_golden_frame_is_read_byte_by_byte() -> None:
    decoder = FrameDecoder()
    found = [decoder.feed(GOLDEN[n : n + 1]) for n in range(len(GOLDEN))]
    assert found == [[]] * 11 + [[b"\x0a\x02t1"]]


def test_the_golden_frame_is_read_with_a_tail() -> None:
    decoder = FrameDecoder()
    assert decoder.feed(GOLDEN + GOLDEN[:9]) == [b"\x0a\x02t1"]
    assert decoder.mid_frame
    assert decoder.feed(GOLDEN[9:]) == [b"\x0a\x02t1"]
    assert not decoder.mid_frame


def test_the_checksum_is_castagnolis() -> None:
    # RFC 3720 B.4: the CRC-32C of 32 bytes of zeroes is 0x8a9136aa.
    assert encode_frame(bytes(32))[4:8] == (0x8A9136AA).to_bytes(4, "little")


@given(payloads=payload_lists, cuts=st.lists(st.integers(0, 10_000), max_size=20))
def test_any_portions_give_the_same_payloads(payloads: list[bytes], cuts: list[int]) -> None:
    decoder = FrameDecoder()
    found: list[bytes] = []
    for portion in portions(b"".join(map(encode_frame, payloads)), cuts):
        found += decoder.feed(portion)
    assert found == payloads
    decoder.finish()


@given(payloads=payload_lists, tail=st.binary(min_size=1, max_size=30), cuts=st.lists(st.integers(0, 10_000)))
def test_portions_never_change_what_is_refused(payloads: list[bytes], tail: bytes, cuts: list[int]) -> None:
    stream = b"".join(map(encode_frame, payloads)) + tail

    def outcome(parts: list[bytes]) -> tuple[list[bytes], str]:
        decoder = FrameDecoder(max_frame_size=1000)
        found: list[bytes] = []
        try:
            for part in parts:
                found += decoder.feed(part)
            decoder.finish()
        except FrameError as error:
            return found, type(error).__name__
        return found, ""

    assert outcome(portions(stream, cuts)) == outcome([stream])


@pytest.mark.parametrize("length", [1, 2**16, limits.MIN_MAX_FRAME_SIZE])
def test_a_frame_of_the_largest_size_passes_both_ways(length: int) -> None:
    payload = bytes(length)
    assert FrameDecoder(length).feed(encode_frame(payload, length)) == [payload]


def test_one_byte_more_is_refused_by_the_encoder() -> None:
    with pytest.raises(FrameTooLarge) as caught:
        encode_frame(bytes(1001), 1000)
    assert (caught.value.length, caught.value.limit) == (1001, 1000)


def test_one_byte_more_is_refused_by_the_decoder_from_the_header_alone() -> None:
    decoder = FrameDecoder(1000)
    with pytest.raises(FrameTooLarge) as caught:
        decoder.feed((1001).to_bytes(4, "little") + bytes(4))
    assert (caught.value.length, caught.value.limit) == (1001, 1000)


def test_the_length_is_judged_before_memory_is_spent() -> None:
    header = (limits.MAX_MAX_FRAME_SIZE).to_bytes(4, "little") + bytes(4)
    decoder = FrameDecoder(limits.MAX_MAX_FRAME_SIZE)
    tracemalloc.start()
    try:
        assert decoder.feed(header) == []
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert decoder.mid_frame
    assert peak < 64 * limits.KIB  # 64 MiB were announced


def test_an_empty_payload_is_refused_both_ways() -> None:
    with pytest.raises(FrameEmpty):
        encode_frame(b"")
    with pytest.raises(FrameEmpty):
        FrameDecoder().feed(bytes(8))


@pytest.mark.parametrize("position", range(4, len(GOLDEN)))
def test_a_flipped_bit_of_checksum_or_payload_is_noticed(position: int) -> None:
    broken = bytearray(GOLDEN)
    broken[position] ^= 0x10
    with pytest.raises(ChecksumMismatch) as caught:
        FrameDecoder().feed(bytes(broken))
    assert caught.value.expected != caught.value.actual


def test_good_frames_before_a_bad_one_are_not_lost() -> None:
    decoder = FrameDecoder()
    assert decoder.feed(GOLDEN + bytes(8) + GOLDEN) == [b"\x0a\x02t1"]
    assert decoder.failed
    with pytest.raises(FrameEmpty):
        decoder.feed(GOLDEN)


def test_after_a_bad_frame_nothing_is_trusted_any_more() -> None:
    decoder = FrameDecoder()
    with pytest.raises(FrameEmpty):
        decoder.feed(bytes(8))
    with pytest.raises(FrameEmpty):
        decoder.feed(GOLDEN)
    with pytest.raises(FrameEmpty):
        decoder.finish()
    assert not decoder.mid_frame


@pytest.mark.parametrize(("received", "expected"), [(1, 8), (7, 8), (8, 12), (11, 12)])
def test_an_end_inside_a_frame_is_an_error(received: int, expected: int) -> None:
    decoder = FrameDecoder()
    decoder.feed(GOLDEN + GOLDEN[:received])
    with pytest.raises(FrameTruncated) as caught:
        decoder.finish()
    assert (caught.value.received, caught.value.expected) == (received, expected)


def test_an_end_between_frames_is_none() -> None:
    decoder = FrameDecoder()
    decoder.finish()
    decoder.feed(GOLDEN)
    decoder.finish()


# ---------------------------------------------------------------------------------------------- frame timer


def test_no_frame_is_open_so_nothing_is_late() -> None:
    timer = FrameTimer(30.0)
    timer.check(1e9)
    timer.received(5.0, completed=True, mid_frame=False)
    assert not timer.running
    timer.check(1e9)


def test_a_frame_is_late_at_its_limit_and_not_before() -> None:
    timer = FrameTimer(30.0)
    timer.received(100.0, completed=False, mid_frame=True)
    timer.check(129.999)
    with pytest.raises(FrameTimeout) as caught:
        timer.check(130.0)
    assert caught.value.seconds == 30.0


def test_bytes_that_trickle_in_win_no_time() -> None:
    timer = FrameTimer(30.0)
    for now in range(100, 130):
        timer.received(float(now), completed=False, mid_frame=True)
        timer.check(float(now))
    with pytest.raises(FrameTimeout):
        timer.check(130.0)


def test_a_new_frame_has_its_own_time() -> None:
    timer = FrameTimer(30.0)
    timer.received(100.0, completed=False, mid_frame=True)
    timer.received(129.0, completed=True, mid_frame=True)
    timer.check(158.9)
    with pytest.raises(FrameTimeout):
        timer.check(159.0)


def test_while_we_do_not_read_nothing_is_late() -> None:
    timer = FrameTimer(30.0)
    timer.received(100.0, completed=False, mid_frame=True)
    timer.suspend()
    assert not timer.running
    timer.check(1e9)


# ---------------------------------------------------------------------------------------------- stall timer


def test_nothing_waits_so_nobody_stalls() -> None:
    timer = StallTimer(30.0)
    timer.check(1e9)
    timer.observed(5.0, 0)
    timer.wrote(6.0, 0)
    assert not timer.running
    timer.check(1e9)


def test_a_reader_stalls_at_the_limit_and_not_before() -> None:
    timer = StallTimer(30.0)
    timer.wrote(100.0, 10)
    assert timer.running
    timer.observed(110.0, 10)
    timer.check(129.999)
    with pytest.raises(ReaderStalled) as caught:
        timer.check(130.0)
    assert caught.value.seconds == 30.0


def test_a_reader_that_takes_something_lives() -> None:
    timer = StallTimer(30.0)
    timer.wrote(100.0, 10)
    timer.observed(129.0, 9)
    timer.check(158.9)
    with pytest.raises(ReaderStalled):
        timer.check(159.0)


def test_more_to_write_is_no_sign_of_life() -> None:
    timer = StallTimer(30.0)
    timer.wrote(100.0, 10)
    timer.wrote(129.0, 20)
    timer.observed(129.5, 20)
    with pytest.raises(ReaderStalled):
        timer.check(130.0)


def test_less_after_more_counts_from_the_larger() -> None:
    timer = StallTimer(30.0)
    timer.wrote(100.0, 10)
    timer.wrote(120.0, 20)
    timer.observed(125.0, 15)  # more than at first, yet something was taken
    timer.check(154.9)


def test_a_reader_that_took_everything_starts_afresh() -> None:
    timer = StallTimer(30.0)
    timer.wrote(100.0, 10)
    timer.observed(129.0, 0)
    timer.wrote(500.0, 10)
    timer.check(529.9)
    with pytest.raises(ReaderStalled):
        timer.check(530.0)

"""procmond.link: the line between front and collector, in any portions, and what neither side accepts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import FrameTooLarge, PeerError
from procmond import link
from procmond.link import Hello, Kind, LinkDecoder, LinkError, LinkMessage, Question, SourceReport

HELLO = Hello(
    collector="psutil",
    boot_id="0b0e",
    boot_time=1_700_000_000,
    digests=("sha256", "md5"),
    retained_capabilities=("CAP_SYS_PTRACE",),
    confined=True,
    limitations=("hidepid",),
)

messages = st.builds(
    LinkMessage, st.sampled_from(Kind), st.integers(0, link.MAX_REQUEST), st.binary(max_size=30)
)


def test_a_message_on_the_line_has_this_shape() -> None:
    assert link.encode(Kind.PART, 0x01020304, b"ab") == bytes.fromhex("02000000 04 04030201 6162")


def test_a_message_is_read_byte_by_byte_and_with_a_tail() -> None:
    data = link.encode(Kind.ASK, 7, b"body")
    decoder = LinkDecoder(100)
    assert [decoder.feed(data[n : n + 1]) for n in range(len(data) - 1)] == [[]] * (len(data) - 1)
    assert decoder.feed(data[-1:] + data[:5]) == [LinkMessage(Kind.ASK, 7, b"body")]
    assert decoder.feed(data[5:]) == [LinkMessage(Kind.ASK, 7, b"body")]


@given(sent=st.lists(messages, max_size=6), size=st.integers(1, 60))
def test_any_portions_give_the_same_messages(sent: list[LinkMessage], size: int) -> None:
    stream = b"".join(link.encode(*message) for message in sent)
    decoder = LinkDecoder(30)
    found = [one for n in range(0, len(stream), size) for one in decoder.feed(stream[n : n + size])]
    assert found == sent


def test_a_body_of_the_bound_passes_and_one_byte_more_is_refused_from_its_header() -> None:
    body = bytes(30)
    assert LinkDecoder(30).feed(link.encode(Kind.LAST, 1, body)) == [LinkMessage(Kind.LAST, 1, body)]
    with pytest.raises(FrameTooLarge) as caught:
        LinkDecoder(30).feed(link.encode(Kind.LAST, 1, bytes(31))[:9])
    assert (caught.value.length, caught.value.limit) == (31, 30)


@pytest.mark.parametrize("kind", [0, 9, 255])
def test_a_kind_nobody_knows_is_refused(kind: int) -> None:
    data = bytearray(link.encode(Kind.ASK, 1))
    data[4] = kind
    with pytest.raises(LinkError, match=f"message of kind {kind}"):
        LinkDecoder(30).feed(bytes(data))


@given(
    administrator=st.booleans(),
    frame_limit=st.integers(0, 2**32 - 1),
    task=st.binary(max_size=40),
    resume=st.binary(max_size=link.MAX_RESUME_BYTES),
)
def test_a_question_arrives_as_it_was_asked(
    administrator: bool, frame_limit: int, task: bytes, resume: bytes
) -> None:
    question = Question(administrator, frame_limit, task, resume)
    assert link.decode_question(link.encode_question(question)) == question


@pytest.mark.parametrize("length", range(6))
def test_a_question_cut_short_is_refused(length: int) -> None:
    with pytest.raises(LinkError, match=f"question of {length} bytes"):
        link.decode_question(bytes(length))


def test_a_question_whose_resume_is_cut_short_is_refused() -> None:
    body = link.encode_question(Question(True, 1, b"", b"resume"))
    with pytest.raises(LinkError):
        link.decode_question(body[:-1])


@given(resume=st.binary(max_size=link.MAX_RESUME_BYTES), frame=st.binary(max_size=40))
def test_a_live_frame_arrives_beside_how_far_it_got(resume: bytes, frame: bytes) -> None:
    assert link.decode_live(link.encode_live(resume, frame)) == (resume, frame)


@pytest.mark.parametrize("body", [b"", b"\x03ab", b"\xff" + bytes(300)], ids=["empty", "cut", "too long"])
def test_a_live_message_that_is_none_is_refused(body: bytes) -> None:
    with pytest.raises(LinkError, match="live message"):
        link.decode_live(body)


def test_a_greeting_arrives_as_it_was_said() -> None:
    assert link.decode_hello(link.encode_hello(HELLO)) == HELLO


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"{}",
        b"[]",
        b'{"collector": 1}',
        b'{"collector": "\xff"}',
        b'{"x": ' + b"[" * 100_000,
        link.encode_hello(HELLO)[:-1],
    ],
    ids=["empty", "not text", "no fields", "a list", "wrong type", "not UTF-8", "nested without end", "cut"],
)
def test_a_greeting_that_is_none_is_one_error(body: bytes) -> None:
    with pytest.raises(LinkError, match=r"^greeting: "):
        link.decode_hello(body)


@given(data=st.binary(max_size=80), size=st.integers(1, 80))
def test_any_bytes_are_messages_or_a_peer_error(data: bytes, size: int) -> None:
    decoder = LinkDecoder(40)
    taken = 0
    try:
        for n in range(0, len(data), size):
            taken += sum(9 + len(message.body) for message in decoder.feed(data[n : n + size]))
    except PeerError:
        return
    assert len(data) - taken < 9 + 40


@pytest.mark.parametrize("events", [SourceReport(source=99), SourceReport(losses=(("full", 99, 1),))])
def test_a_greeting_that_names_what_there_is_not_is_refused(events: SourceReport) -> None:
    hello = Hello(collector="x", boot_id="b", boot_time=1, digests=(), events=events)
    with pytest.raises(LinkError):
        link.decode_hello(link.encode_hello(hello))

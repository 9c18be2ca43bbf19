"""What a collector that was taken over says. One rule: FrameTooLarge and LinkError are all it raises."""

from __future__ import annotations

from common.errors import FrameTooLarge
from procmond import link
from procmond.link import Hello, Kind, LinkDecoder, LinkError, LinkMessage, Question
from tests.fuzz.corpus import RESULTS, TASKS

_HELLO = link.encode_hello(
    Hello(collector="procfs", boot_id="b", boot_time=1, digests=("sha256",), limitations=("é",))
)

SEEDS = (
    link.encode(Kind.HELLO, 0, _HELLO),
    link.encode(Kind.ASK, 1, link.encode_question(Question(True, 2**20, TASKS[1]))),
    link.encode(Kind.PART, 1, RESULTS[0]) + link.encode(Kind.LAST, 1, RESULTS[1]),
    link.encode(Kind.CREDIT, 2**32 - 1) + link.encode(Kind.CANCEL, 3) + link.encode(Kind.STOPPED, 3, b"x"),
)

_LIMIT = 4096


def target(data: bytes) -> None:
    """The bytes as a line, whole and byte by byte; and as the body of each message that has a form."""
    whole, whole_error = _decoded([data])
    single, single_error = _decoded([data[n : n + 1] for n in range(len(data))])
    if single_error != whole_error or single[: len(whole)] != whole:
        raise AssertionError("portions give something else")
    for body in (data, *(message.body for message in single)):
        try:
            question = link.decode_question(body)
            if link.decode_question(link.encode_question(question)) != question:
                raise AssertionError("a question was changed")
            hello = link.decode_hello(body)
            if link.decode_hello(link.encode_hello(hello)) != hello:
                raise AssertionError("a greeting was changed")
        except LinkError:
            continue


def _decoded(portions: list[bytes]) -> tuple[list[LinkMessage], str]:
    decoder = LinkDecoder(_LIMIT)
    found: list[LinkMessage] = []
    try:
        for portion in portions:
            found += decoder.feed(portion)
    except (FrameTooLarge, LinkError) as error:
        return found, str(error)
    return found, ""

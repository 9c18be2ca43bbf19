"""How arguments are shown. One rule: what is remembered never shows what redaction would hide."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from procmond.collect import arguments
from procmond.collect.arguments import MAX_HIDDEN_BYTES, MAX_KEPT_BYTES, Presenter
from procmond.collect.redaction import redact

LONG = "x" * MAX_KEPT_BYTES


class Counting:
    """Redaction that counts how often it is asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, argv: tuple[str, ...], path: str | None) -> tuple[tuple[str, ...], bool]:
        self.calls += 1
        return redact(argv, path)


def raw_of(*argv: str) -> bytes:
    return "".join(argument + "\0" for argument in argv).encode()


def test_long_arguments_are_looked_through_once_while_they_stay_the_same() -> None:
    counting = Counting()
    presenter = Presenter(counting)
    raw = raw_of("mysql", LONG, "--password=secret", "-pglued", "db")
    first = presenter.show(raw, "/usr/bin/mysql")
    again = presenter.show(raw, "/usr/bin/mysql")
    assert first == again
    assert again.argv == ("mysql", LONG, "--password=[REDACTED]", "-p[REDACTED]", "db")
    assert again.redacted
    assert counting.calls == 1


def test_long_arguments_without_a_secret_are_looked_through_once_too() -> None:
    counting = Counting()
    presenter = Presenter(counting)
    assert presenter.show(raw_of("cat", LONG), None) == presenter.show(raw_of("cat", LONG), None)
    assert not presenter.show(raw_of("cat", LONG), None).redacted
    assert counting.calls == 1


def test_another_program_or_another_byte_is_looked_through_anew() -> None:
    counting = Counting()
    presenter = Presenter(counting)
    raw = raw_of("cli", LONG, "-psecret")
    assert "-psecret" in presenter.show(raw, "/usr/bin/ssh").argv
    assert "-p[REDACTED]" in presenter.show(raw, "/usr/bin/mysql").argv
    assert "-p[REDACTED]" in presenter.show(raw.replace(b"secret", b"secreT"), "/usr/bin/mysql").argv
    assert counting.calls == 3


def test_what_is_remembered_is_bounded_and_the_oldest_goes_first() -> None:
    counting = Counting()
    presenter = Presenter(counting)
    each = arguments._ENTRY_BYTES + arguments._ELEMENT_BYTES + len("--password=[REDACTED]")
    room = MAX_HIDDEN_BYTES // each
    lines = [raw_of("tool", LONG, "--password=secret", str(number)) for number in range(room + 1)]
    for line in lines:
        presenter.show(line, None)
    assert presenter._bytes == room * each <= MAX_HIDDEN_BYTES
    assert len(presenter._hidden) == room
    presenter.show(lines[-1], None)
    assert counting.calls == room + 1
    presenter.show(lines[0], None)
    assert counting.calls == room + 2


@given(st.lists(st.sampled_from(["-psecret", "--token=t", "a b", "", "\udcff", "-p", "x=y"]), max_size=8))
def test_what_is_shown_is_what_redaction_gives(words: list[str]) -> None:
    argv = ("mysql", LONG, *(word.encode(errors="surrogateescape").decode("latin-1") for word in words))
    presenter = Presenter(redact)
    expected = redact(argv, None)
    for _ in range(2):
        shown = presenter.show(raw_of(*argv), None)
        assert (shown.argv, shown.redacted) == expected

"""What a person reads can be read and nothing else."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cli.escape import cut, escape, escape_arguments, width

# Every kind of character that acts on a terminal or hides, and ordinary text around it.
HOSTILE = st.text(
    st.one_of(
        st.characters(),
        st.characters(categories=("Cc", "Cf", "Zl", "Zp", "Zs", "Co", "Cn", "Cs", "Mn")),
        st.sampled_from("\x00\x07\x1b\x7f\x85\x9b\u202e\u2066\u2028\u2029\ufeff\u3164\ufe0f\U000e0041\n\r\t"),
    ),
    max_size=60,
)


def acts(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp", "Co", "Cn")


@given(HOSTILE)
def test_no_output_contains_a_character_that_acts(text: str) -> None:
    assert not any(acts(character) for character in escape(text))


@given(st.lists(HOSTILE, max_size=5))
def test_no_command_line_contains_a_character_that_acts(arguments: list[str]) -> None:
    assert not any(acts(character) for character in escape_arguments(arguments))


@given(HOSTILE)
def test_escaped_text_is_escaped_already(text: str) -> None:
    assert escape(escape(text)) == escape(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("two words", "two words"),
        ("naïve 日本", "naïve 日本"),
        ("a\nb\tc\rd", "a\\nb\\tc\\rd"),
        ("\x1b]0;owned\x07", "\\x1b]0;owned\\x07"),
        ("\x9b31m", "\\x9b31m"),
        ("gnp.\u202eexe", "gnp.\\u202eexe"),
        ("\u2028", "\\u2028"),
        ("a\u00a0b", "a\\xa0b"),
        ("\U000e0041", "\\U000e0041"),
        ("\u3164", "\\u3164"),
        ("\\xff", "\\xff"),
        ("", ""),
    ],
)
def test_text_is_escaped_as_documented(text: str, expected: str) -> None:
    assert escape(text) == expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), ""),
        (("ls",), "ls"),
        (("nginx: worker process",), "nginx: worker process"),
        (("ls", "-l", "a b"), "ls -l 'a b'"),
        (("echo", ""), "echo ''"),
        (("echo", "it's"), 'echo "it\'s"'),
        (("sh", "-c", "a\nb"), "sh -c a\\nb"),
    ],
)
def test_command_lines_show_where_arguments_end(arguments: tuple[str, ...], expected: str) -> None:
    assert escape_arguments(arguments) == expected


@given(HOSTILE, st.integers(min_value=0, max_value=40))
def test_cut_text_is_never_wider_than_asked(text: str, columns: int) -> None:
    assert width(cut(escape(text), columns)) <= columns


@pytest.mark.parametrize(
    ("text", "columns", "expected"),
    [
        ("abcdef", 6, "abcdef"),
        ("abcdef", 5, "abcd…"),
        ("日本語", 5, "日本…"),
        ("日本語", 4, "日…"),
        ("ab", 0, ""),
    ],
)
def test_text_is_cut_by_columns(text: str, columns: int, expected: str) -> None:
    assert cut(text, columns) == expected

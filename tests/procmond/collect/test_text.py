"""Bytes as text."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from procmond.collect.text import text


def test_what_is_not_utf8_is_escaped_byte_by_byte() -> None:
    assert text(b"a\xff\xc3\xbc\x9b\n") == "a\\xffü\\x9b\n"


def test_encoded_surrogates_and_cut_characters_are_not_utf8() -> None:
    assert text(b"\xed\xa0\x80\xe2\x82") == "\\xed\\xa0\\x80\\xe2\\x82"


@given(st.binary())
def test_every_byte_string_becomes_text_that_can_be_encoded(raw: bytes) -> None:
    text(raw).encode()


@given(st.text(st.characters(codec="utf-8")))
def test_utf8_stays_as_it_is(value: str) -> None:
    assert text(value.encode()) == value

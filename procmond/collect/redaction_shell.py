"""Splits shell text into commands and words. One rule: every character of a word knows where it stood.

A secret found in a word of `sh -c "PGPASSWORD=x psql"` is replaced in the argument it came from, quotes and
spacing untouched. This is as much of POSIX sh as naming the words takes (XCU 2.2 quoting, 2.3 tokens):
nothing is expanded, and text that no shell would accept is split all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

_OPERATORS: Final = frozenset(";&|()\n`<>")
_BLANKS: Final = frozenset(" \t\r")
_ESCAPED_IN_DOUBLE: Final = frozenset('"\\$`')


class Word:
    """A word of a command: an argument itself (no parent), or a piece of the shell text in another word.

    `places[k]` is the index in the parent's text of character k; `pieces[k]` numbers the quoted or unquoted
    stretch it stood in: two characters of one stretch have no quote between them.
    """

    __slots__ = ("argument", "parent", "pieces", "places", "start", "stop", "text")

    def __init__(self, text: str, argument: int) -> None:
        self.text = text
        self.argument = argument
        self.parent: Word | None = None
        self.places: list[int] = []
        self.pieces: list[int] = []
        self.start = 0
        self.stop = len(text)

    def locate(self, start: int, stop: int) -> tuple[int, int]:
        """Where these characters of the word stand in the argument; the whole word if quotes cut them."""
        word = self
        while word.parent is not None:
            if stop > start and word.pieces[start] == word.pieces[stop - 1]:
                start, stop = word.places[start], word.places[stop - 1] + 1
            else:
                start, stop = word.start, word.stop
            word = word.parent
        return start, stop


class Command(NamedTuple):
    words: list[Word]
    piped: bool
    """Its output is the next command's input."""


def split(scripts: Sequence[Word]) -> list[Command]:
    """The commands in the order they stand, the scripts joined by blanks; linear in their text."""
    commands: list[Command] = []
    words: list[Word] = []
    for script in scripts:
        text, at = script.text, 0
        while at < len(text):
            character = text[at]
            if character in _BLANKS:
                at += 1
            elif character in _OPERATORS:
                at, piped = _after_operator(text, at)
                if words and character not in "<>":
                    commands.append(Command(words, piped))
                    words = []
            else:
                word = _read_word(script, at)
                words.append(word)
                at = word.stop
    if words:
        commands.append(Command(words, False))
    return commands


def _after_operator(text: str, at: int) -> tuple[int, bool]:
    """The index after the operator, and whether it is a pipe (`|` or `|&`, not `||`)."""
    first, second = text[at], text[at + 1 : at + 2]
    if first == "|":
        return at + (2 if second and second in "|&" else 1), second != "|"
    return at + 1, False


def _read_word(script: Word, start: int) -> Word:
    text = script.text
    size = len(text)
    characters: list[str] = []
    places: list[int] = []
    pieces: list[int] = []
    piece, quote, at = 0, "", start
    while at < size:
        character = text[at]
        if quote:
            if character == quote:
                quote, piece, at = "", piece + 1, at + 1
                continue
            if character == "\\" and quote == '"' and text[at + 1 : at + 2] in _ESCAPED_IN_DOUBLE:
                at += 1
        elif character in _BLANKS or character in _OPERATORS:
            break
        elif character in "'\"":
            quote, piece, at = character, piece + 1, at + 1
            continue
        elif character == "\\" and at + 1 < size:
            at += 1
        characters.append(text[at])
        places.append(at)
        pieces.append(piece)
        at += 1
    word = Word("".join(characters), script.argument)
    word.parent, word.places, word.pieces, word.start, word.stop = (
        script,
        places,
        pieces,
        start,
        min(at, size),
    )
    return word

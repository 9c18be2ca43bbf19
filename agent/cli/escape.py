"""Text of watched processes, made harmless for a terminal. One rule: what is printed can only be read.

A process chooses its own name and arguments, so it could otherwise move the cursor, recolour or retitle the
terminal, break a line into two, or let text run backwards. Pure: text in, text out.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

# Letters and marks that str.isprintable() accepts although they show nothing, so that two different names
# look alike: Unicode's Default_Ignorable_Code_Point less what is not printable anyway, and blank braille.
INVISIBLE = frozenset(
    chr(code)
    for first, last in (
        (0x034F, 0x034F),  # combining grapheme joiner
        (0x115F, 0x1160),  # Hangul fillers
        (0x17B4, 0x17B5),  # Khmer inherent vowels
        (0x180B, 0x180F),  # Mongolian variation selectors
        (0x2800, 0x2800),  # braille pattern blank
        (0x3164, 0x3164),  # Hangul filler
        (0xFE00, 0xFE0F),  # variation selectors
        (0xFFA0, 0xFFA0),  # halfwidth Hangul filler
        (0xE0100, 0xE01EF),  # variation selectors supplement
    )
    for code in range(first, last + 1)
)

_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_QUOTED = frozenset(" '\"")


def escape(text: str) -> str:
    """`text` with everything but visible characters and the plain space written as an escape.

    Controls (C0, C1, DEL), line and paragraph separators, bidirectional and other format characters, private
    and unassigned code points, lone surrogates and invisible letters become `\\n`, `\\x1b`, `\\u202e` or
    `\\U000e0001`. A backslash stays as it is: procmond already writes bytes that are not UTF-8 as `\\xnn`.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escape_character(character) for character in text)


def escape_arguments(arguments: Iterable[str]) -> str:
    """A command line on one line: arguments escaped, joined by spaces, quoted where a space would mislead.

    A single argument is left unquoted: a process that rewrote its title (`nginx: worker process`) has only
    one. The result is for reading; it is not made to be pasted into a shell.
    """
    escaped = [escape(argument) for argument in arguments]
    if len(escaped) < 2:
        return "".join(escaped)
    return " ".join([escaped[0], *(_quote(argument) for argument in escaped[1:])])


def width(text: str) -> int:
    """Columns of escaped `text` on a terminal: East Asian wide characters take two, combining marks none."""
    if text.isascii():
        return len(text)
    return sum(_character_width(character) for character in text)


def cut(text: str, columns: int, ellipsis: str = "…") -> str:
    """`text` in at most `columns` columns, its end replaced by `ellipsis` when something was cut."""
    if width(text) <= columns:
        return text
    room = columns - len(ellipsis)
    if room < 0:
        return ellipsis[: max(columns, 0)]
    kept = 0
    for index, character in enumerate(text):
        kept += _character_width(character)
        if kept > room:
            return text[:index] + ellipsis
    return text


def _escape_character(character: str) -> str:
    if character.isprintable() and character not in INVISIBLE:
        return character
    short = _SHORT.get(character)
    if short is not None:
        return short
    code = ord(character)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _quote(argument: str) -> str:
    if argument and not _QUOTED.intersection(argument):
        return argument
    return '"' + argument + '"' if "'" in argument else "'" + argument + "'"


def _character_width(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1

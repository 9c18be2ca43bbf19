"""Finds the secrets in one argument, whatever program it belongs to. One rule: a search never goes back.

Values after a secret name (`password=x`, `X-Api-Key: x`, `"token":"x"`, `?token=x&`) are found here, what
shows by its shape in redaction_shapes. Each search goes on where the last ended: hostile text costs time in
proportion to its length.
"""

from __future__ import annotations

from typing import Final

from procmond.collect.redaction_names import (
    JOINTS,
    NAME_LIMIT,
    is_file_for,
    is_header_name,
    is_pair_name,
    is_secret_name,
    may_hold_name,
)
from procmond.collect.redaction_shapes import (
    MARK,
    Span,
    driver_spans,
    may_hold_login,
    may_hold_token,
    secret_part,
    token_spans,
    url_spans,
)

_QUOTES: Final = "\"'`"
_ENDS: Final = frozenset(" \t\r\n&,;")
_OPENERS: Final = {'"': '"', "'": "'", "`": "`", "}": "{", ")": "(", ">": "<", "|": "|", "#": "://"}


def may_hold_secret(text: str) -> bool:
    """Whether `text_spans` may find anything. May be wrong towards yes only."""
    return may_hold_name(text) or may_hold_login(text) or may_hold_token(text)


def text_spans(text: str, *, prose: bool) -> list[Span]:
    """Where the secrets stand, unsorted; they may overlap. Prose (a commit message) has no `name: value`."""
    spans = [] if prose or not may_hold_name(text) else _Assignments(text).spans()
    if may_hold_login(text):
        spans += url_spans(text)
        spans += driver_spans(text)
    if may_hold_token(text):
        spans += token_spans(text)
    return spans


class _Assignments:
    """One pass over the text, from separator to separator (`=` and `:`)."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.anchor = 0
        """Where an assignment that is all of the argument, or all of a flag's value, would begin."""
        self.floor = 0
        """Nothing left of it is looked at again."""
        self.line_stop = -1
        """The end of the line that was looked for last."""
        self.first = {closer: text.find(opener) for closer, opener in _OPENERS.items()}

    def spans(self) -> list[Span]:
        text, found = self.text, []
        equals, colon = text.find("="), text.find(":")
        while equals >= 0 or colon >= 0:
            at = equals if colon < 0 or 0 <= equals < colon else colon
            span, following = self._at(at)
            if span is not None:
                found.append(span)
            self.floor = following
            if 0 <= equals < following:
                equals = text.find("=", following)
            if 0 <= colon < following:
                colon = text.find(":", following)
        return found

    def _at(self, separator: int) -> tuple[Span | None, int]:
        """The secret that the separator introduces, if any, and where to go on."""
        text = self.text
        left = text[self.floor : separator]
        if not may_hold_name(left):
            if self.floor == self.anchor and left.translate(JOINTS).isalnum():
                self.anchor = separator + 1
            return None, separator + 1
        start, stop, quoted, spaced = self._name(separator)
        name = text[start:stop]
        whole = start == self.anchor
        slashed = start == 1 and text[0] == "/"
        value = separator + 1
        if text.startswith(text[separator], value):
            value += 1
            if spaced or text[separator] == ":":
                return None, value  # a comparison (`password == x`), a namespace (`Secret::new`)
        pair = is_pair_name(name)
        if not pair and not is_secret_name(name):
            self.anchor = value if whole and name else self.anchor
            return None, value
        colon = text[separator] == ":"
        if colon and not quoted and not self._is_colon(name, start, value, slashed=slashed):
            return None, value
        if colon or spaced or quoted:
            value = self._after_blanks(value)
        if text.startswith(MARK, value):
            return None, value + len(MARK)
        inner, end = self._value(name, start, value, whole=whole or slashed, quoted=quoted)
        if inner < 0 or is_file_for(name, text[inner:end]):
            return None, end
        if pair:
            sign = text.find(":", inner, end)
            inner = sign + 1 if sign >= 0 else end
        return secret_part(text, inner, end), max(end, value)

    def _name(self, separator: int) -> tuple[int, int, bool, bool]:
        """Start and stop of the name left of the separator, whether in quotes, whether spaces follow it."""
        text, stop = self.text, separator
        while stop > self.floor and text[stop - 1] == " ":
            stop -= 1
        spaced = stop < separator
        quoted = False
        if stop > self.floor and text[stop - 1] in _QUOTES:
            quoted, stop = True, stop - 1
            if stop > self.floor and text[stop - 1] == "\\":
                stop -= 1
        elif stop > self.floor and text[stop - 1] == "]":
            stop -= 1
        start, least = stop, max(self.floor, stop - NAME_LIMIT)
        while start > least and (text[start - 1].isalnum() or text[start - 1] in "-_."):
            start -= 1
        if text.endswith(MARK, least, start):
            start -= len(MARK)  # a token that was hidden is still a part of the name
        return start, stop, quoted, spaced

    def _after_blanks(self, at: int) -> int:
        while self.text.startswith((" ", "\t"), at):
            at += 1
        return at

    def _is_colon(self, name: str, start: int, value: int, *, slashed: bool) -> bool:
        """Whether `name:` introduces a value: a header, `name: x`, `/p:x`; not a volume or an image's tag."""
        text = self.text
        if text.startswith("/", value) or (start and text[start - 1] in "/\\:" and not slashed):
            return False
        if slashed or text.startswith((" ", "\t"), value):
            return True
        plain = "-" not in name and "." not in name
        return plain or is_header_name(name) or name.lstrip("-")[:1].isupper() or name.startswith("x-")

    def _value(self, name: str, start: int, value: int, *, whole: bool, quoted: bool) -> Span:
        """Start and end of the value that begins here; start -1: it is no text but an object or a list."""
        text = self.text
        flag = whole and start == 0 and text[0] == "-"
        if flag or (whole and start == 1):
            return value, len(text)
        if text.startswith('\\"', value):
            end = text.find('\\"', value + 2)
            return value + 2, end if end >= 0 else len(text)
        if text[value : value + 1] and text[value] in _QUOTES:
            return value + 1, self._closing(text[value], value + 1)
        if quoted and text.startswith(("{", "["), value) and not text.startswith(MARK, value):
            return -1, value
        if is_header_name(name):
            return value, self._line_end(start, value)
        return value, self._plain_end(start, value, whole=whole)

    def _closing(self, quote: str, at: int) -> int:
        """The quote that closes, or the end of the text; one behind a backslash does not close."""
        end = self.text.find(quote, at)
        while end > at and self.text[end - 1] == "\\":
            end = self.text.find(quote, end + 1)
        return end if end >= 0 else len(self.text)

    def _line_end(self, start: int, value: int) -> int:
        """The end of a header: of its line, or the quote it was opened with."""
        text = self.text
        if self.line_stop < value:
            newline = text.find("\n", value)
            self.line_stop = newline if newline >= 0 else len(text)
        limit = self.line_stop
        if start and text[start - 1] in _QUOTES:
            closing = text.find(text[start - 1], value, limit)
            return closing if closing >= 0 else limit
        return limit

    def _plain_end(self, start: int, value: int, *, whole: bool) -> int:
        """The end of an unquoted value: where the next assignment begins or, inside a text, the word ends."""
        text = self.text
        for at in range(value, len(text)):
            character = text[at]
            if character in _ENDS:
                if not whole and character not in ",;":
                    return at
                if self._begins_assignment(at + 1):
                    return at
            elif not whole and 0 <= self.first.get(character, -1) < start:
                return at
        return len(text)

    def _begins_assignment(self, at: int) -> bool:
        text = self.text
        if text[at : at + 1] and text[at] in _QUOTES:
            at += 1
        stop, limit = at, min(len(text), at + NAME_LIMIT)
        while stop < limit and (text[stop].isalnum() or text[stop] in "-_.[]"):
            stop += 1
        if stop == at:
            return False
        if text[stop : stop + 1] and text[stop] in _QUOTES:
            stop += 1
        return text.startswith(("=", ":"), stop)

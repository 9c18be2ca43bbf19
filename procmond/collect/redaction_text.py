"""Finds secrets inside one argument, whatever program it belongs to. One rule: a search never goes back.

Four kinds: values after a secret name (`password=x`, `X-Api-Key: x`, `"token":"x"`, `?token=x&`), passwords
in URLs and connection strings, tokens whose shape nobody mistakes, private keys. Every search goes on where
the last one ended, so hostile text costs time in proportion to its length.
"""

from __future__ import annotations

from typing import Final

from procmond.collect.redaction_names import (
    NAME_LIMIT,
    is_file_for,
    is_header_name,
    is_pair_name,
    is_secret_name,
)

MARK: Final = "[REDACTED]"

Span = tuple[int, int]

_QUOTES: Final = "\"'`"
_ENDS: Final = frozenset(" \t\r\n&,;")
_OPENERS: Final = {'"': '"', "'": "'", "`": "`", "}": "{", ")": "(", ">": "<", "|": "|", "#": "://"}
_URL_ENDS: Final = frozenset(" \t\r\n\"'`<>\\|{}")
_NOT_SECRET: Final = frozenset(
    {"", "-", "$", MARK, "null", "true", "false", "None", "True", "False", "stdin"}
)
_REFERENCES: Final = ("env:", "file:", "fd:")

# Prefix, least number of characters after it, characters allowed besides letters and digits. Sources: the
# vendors' own secret-scanning pages (AWS unique identifiers, GitHub token formats, Slack token types).
TOKENS: Final = (
    ("AKIA", 16, ""),
    ("ASIA", 16, ""),
    ("ghp_", 30, ""),
    ("gho_", 30, ""),
    ("ghu_", 30, ""),
    ("ghs_", 30, ""),
    ("ghr_", 30, ""),
    ("github_pat_", 30, "_"),
    ("glpat-", 18, "-_"),
    ("npm_", 30, ""),
    ("xoxb-", 20, "-"),
    ("xoxp-", 20, "-"),
    ("xoxa-", 20, "-"),
    ("xoxs-", 20, "-"),
    ("xoxr-", 20, "-"),
    ("sk_live_", 16, ""),
    ("rk_live_", 16, ""),
    ("sk-ant-", 20, "-_"),
    ("sk-proj-", 20, "-_"),
    ("AIza", 35, "-_"),
    ("hvs.", 20, "-_"),
    ("eyJ", 40, "-_."),
    ("Bearer ", 16, "-_.~+/="),
    ("bearer ", 16, "-_.~+/="),
)

TOKEN_SIGNS: Final = (
    "AKIA",
    "ASIA",
    "gh",
    "glpat-",
    "npm_",
    "xox",
    "k_live_",
    "sk-",
    "AIza",
    "hvs.",
    "eyJ",
    "PRIVATE KEY",
)
"""A text without one of these holds no token: each prefix above contains one, or a name's needle."""


def secret_part(text: str, start: int, stop: int) -> Span | None:
    """The part of a secret's value to hide: none of a reference (`env:X`), what follows in `pass:X`."""
    if text.startswith(_REFERENCES, start, stop) or text[start:stop] in _NOT_SECRET:
        return None
    if text.startswith("pass:", start, stop):
        start += 5
        if text[start:stop] in _NOT_SECRET:
            return None
    return start, stop


def text_spans(text: str, *, prose: bool) -> list[Span]:
    """Where the secrets stand, unsorted; they may overlap. Prose (a commit message) has no `name: value`."""
    spans = [] if prose else _Assignments(text).spans()
    if "@" in text:
        spans += _url_spans(text)
        spans += _driver_spans(text)
    spans += _token_spans(text)
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
        start, stop, quoted, spaced = self._name(separator)
        name = text[start:stop]
        value = separator + 1
        doubled = text.startswith(text[separator], value)
        if doubled:
            value += 1
        whole = start == self.anchor
        slashed = start == 1 and text[0] == "/"
        if not name or (doubled and (spaced or text[separator] == ":")):
            return None, value
        pair = is_pair_name(name)
        if not pair and not is_secret_name(name):
            if whole:
                self.anchor = value
            return None, value
        if text[separator] == ":" or spaced or quoted:
            if text[separator] == ":" and not (quoted or self._is_colon(name, start, value, slashed=slashed)):
                return None, value
            while text.startswith((" ", "\t"), value):
                value += 1
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
        return start, stop, quoted, spaced

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
        while stop < limit and (text[stop].isalnum() or text[stop] in "-_."):
            stop += 1
        if stop == at:
            return False
        if text[stop : stop + 1] and text[stop] in _QUOTES:
            stop += 1
        return text.startswith(("=", ":"), stop)


def _url_spans(text: str) -> list[Span]:
    """The password of `scheme://user:password@host`; a `/` in it is allowed where no port could stand."""
    spans: list[Span] = []
    at = text.find("://")
    while at >= 0:
        start = at + 3
        following = text.find("://", start)
        limit = following if following >= 0 else len(text)
        end = start
        while end < limit and text[end] not in _URL_ENDS:
            end += 1
        slash = min((found for sign in "/?#" if (found := text.find(sign, start, end)) >= 0), default=end)
        sign = text.rfind("@", start, slash)
        colon = text.find(":", start, sign if sign >= 0 else slash)
        if sign < 0 <= colon and not text[colon + 1 : slash].isdigit():
            sign = text.rfind("@", colon, end)
        if 0 <= colon < sign:
            spans += [span] if (span := secret_part(text, colon + 1, sign)) else []
        at = following
    return spans


def _driver_spans(text: str) -> list[Span]:
    """The password of Go's `user:password@tcp(host)/db` and of Oracle's `thin:user/password@`."""
    spans: list[Span] = []
    for ending in ("@tcp(", "@unix("):
        floor, at = 0, text.find(ending)
        while at >= 0:
            start = max(floor, *(text.rfind(blank, floor, at) + 1 for blank in " '\"="))
            colon = text.find(":", start, at)
            if colon >= 0:
                spans += [span] if (span := secret_part(text, colon + 1, at)) else []
            floor, at = at + len(ending), text.find(ending, at + len(ending))
    at = text.find(":thin:")
    if at >= 0:
        slash = text.find("/", at)
        sign = text.find("@", slash)
        if 0 <= slash < sign:
            spans += [span] if (span := secret_part(text, slash + 1, sign)) else []
    return spans


def _token_spans(text: str) -> list[Span]:
    spans: list[Span] = []
    for prefix, least, others in TOKENS:
        at = text.find(prefix)
        while at >= 0:
            stop = start = at + len(prefix)
            while stop < len(text) and (text[stop].isalnum() or text[stop] in others):
                stop += 1
            if stop - start >= least and not (at and text[at - 1].isalnum()):
                spans.append((start if prefix.endswith(" ") else at, stop))
            at = text.find(prefix, stop)
    at = text.find("PRIVATE KEY-----")
    if at >= 0:
        end = text.find("-----END", at)
        start = at + len("PRIVATE KEY-----")
        if text[start : end if end >= 0 else len(text)] not in _NOT_SECRET:
            spans.append((start, end if end >= 0 else len(text)))
    return spans

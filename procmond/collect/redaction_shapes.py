"""Secrets that show by their own shape, without a name before them. One rule: a search never goes back.

Passwords in URLs and in drivers' connection strings, tokens with a vendor's prefix, private keys.
"""

from __future__ import annotations

from typing import Final

MARK: Final = "[REDACTED]"

Span = tuple[int, int]

_URL_ENDS: Final = frozenset(" \t\r\n\"'`<>\\|{}")
_NOT_SECRET: Final = frozenset(
    {"", "-", "$", MARK, "null", "true", "false", "None", "True", "False", "stdin"}
)
_REFERENCES: Final = ("env:", "file:", "fd:")

# Prefix, least number of characters after it, characters allowed besides letters and digits. The prefixes
# are the vendors'; the numbers are ours, a little under what they issue.
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


def may_hold_token(text: str) -> bool:
    """Whether a token or a private key may occur: each contains one of these."""
    return (
        "AKIA" in text
        or "ASIA" in text
        or "xox" in text
        or "sk-" in text
        or "AIza" in text
        or "eyJ" in text
        or "hvs." in text
        or "glpat-" in text
        or "earer " in text
        or "PRIVATE KEY" in text
        or ("_" in text and ("gh" in text or "npm_" in text or "k_live_" in text or "_pat_" in text))
    )


def may_hold_login(text: str) -> bool:
    """Whether a URL or a connection string with a user may occur."""
    return "@" in text and ("://" in text or "@tcp(" in text or "@unix(" in text or ":thin:" in text)


def secret_part(text: str, start: int, stop: int) -> Span | None:
    """The part of a secret's value to hide: none of a reference (`env:X`), what follows in `pass:X`.

    A value that begins with the mark was hidden before, by a rule that knew where the secret ends.
    """
    if (
        text.startswith(MARK, start, stop)
        or text.startswith(_REFERENCES, start, stop)
        or text[start:stop] in _NOT_SECRET
    ):
        return None
    if text.startswith("pass:", start, stop):
        start += 5
        if text[start:stop] in _NOT_SECRET:
            return None
    return start, stop


def url_spans(text: str) -> list[Span]:
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


def driver_spans(text: str) -> list[Span]:
    """The password of Go's `user:password@tcp(host)/db` and of Oracle's `thin:user/password@`."""
    spans: list[Span] = []
    for ending in ("@tcp(", "@unix("):
        floor, at = 0, text.find(ending)
        while at >= 0:
            start = max(floor, *(text.rfind(blank, floor, at) + 1 for blank in " '\"="))
            colon = text.find(":", start, at)
            if colon >= 0 and not text.endswith(MARK, start, at):
                spans += [span] if (span := secret_part(text, colon + 1, at)) else []
            floor, at = at + len(ending), text.find(ending, at + len(ending))
    at = text.find(":thin:")
    if at >= 0:
        slash = text.find("/", at)
        sign = text.find("@", slash)
        if 0 <= slash < sign:
            spans += [span] if (span := secret_part(text, slash + 1, sign)) else []
    return spans


def token_spans(text: str) -> list[Span]:
    """Tokens by their prefix, and the body of a private key."""
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

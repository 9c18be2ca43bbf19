"""Hides the values of secret arguments. One rule: a common command line costs next to nothing.

Arguments reach everybody who may ask procmond, their secrets must not. `redact` first asks cheap questions
(one lower-cased copy of the line, a few substrings, the program's name); only where one says "perhaps" is the
line taken apart. No regular expressions: hostile text costs time in proportion to its length.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from procmond.collect.redaction_command import base_name, command_spans
from procmond.collect.redaction_rules import PROGRAMS
from procmond.collect.redaction_shapes import MARK, Span
from procmond.collect.redaction_text import may_hold_secret
from procmond.collect.redaction_wrappers import SHELLS, SPEAKERS, WRAPPERS

_WITH_RULES: Final = frozenset(key.partition(" ")[0] for key in PROGRAMS)
_RUNNERS: Final = frozenset(WRAPPERS) | SHELLS
_TELLING: Final = _WITH_RULES | SPEAKERS
"""Names that make it worth while to look into what a shell or a wrapper runs."""

_JOINTS: Final = {ord(sign): " " for sign in "/;|&()'\"`\n\0<>"}
"""What stands between the names of programs in shell text, and between arguments."""


def redact(argv: tuple[str, ...], executable: str | None) -> tuple[tuple[str, ...], bool]:
    """The arguments with `[REDACTED]` for each secret, and whether there was one.

    The same tuple comes back when there was none. argv[0] is never changed, nor is the number of arguments.
    The program is known by the base name of argv[0] or of the executable. Raises nothing.
    """
    if len(argv) < 2 or not _is_suspect(argv, executable):
        return argv, False
    found = command_spans(argv, executable)
    if not found:
        return argv, False
    result = tuple(_replace(text, found[at]) if at in found else text for at, text in enumerate(argv))
    return (result, True) if result != argv else (argv, False)


def _is_suspect(argv: tuple[str, ...], executable: str | None) -> bool:
    """Whether the line may hold a secret. May be wrong towards yes only."""
    line = "\0".join(argv)
    if may_hold_secret(line):
        return True
    name = base_name(argv[0])
    other = base_name(executable) if executable else name
    if name in _WITH_RULES or other in _WITH_RULES:
        return True
    if name not in _RUNNERS and other not in _RUNNERS:
        return False
    return not _TELLING.isdisjoint(line.translate(_JOINTS).split())


def _replace(text: str, spans: Iterable[Span]) -> str:
    """The text with the mark for each span; overlapping ones become one."""
    pieces: list[str] = []
    copied, hidden = 0, -1
    for start, stop in sorted(spans):
        if start > hidden:
            pieces += (text[copied:start], MARK)
        hidden = max(hidden, stop)
        copied = max(copied, stop)
    pieces.append(text[copied:])
    return "".join(pieces)

"""Which processes a client wants. One rule: pure, iterative, and never more work than pattern times path.

A pattern is cut at its stars into segments. The first must stand at the start of the path, the last at
its end, and each between is taken at its leftmost place: a later place never matches what the leftmost
does not, so nothing before the last star is ever tried again. No recursion, no regular expression.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from common.errors import InvalidTask
from common.messages import ProcessFilter

_FIELD: Final = "process_filter.executable_pattern"


class _AnyCharacter(NamedTuple):
    """`?`: exactly one character, whatever it is."""

    def matches(self, character: str) -> bool:
        return bool(character)


class _CharacterClass(NamedTuple):
    """`[abc]`, `[!a-z]`: one character in (or, negated, outside) some characters and inclusive ranges."""

    negated: bool
    characters: frozenset[str]
    ranges: tuple[tuple[str, str], ...]

    def matches(self, character: str) -> bool:
        inside = character in self.characters or any(
            first <= character <= last for first, last in self.ranges
        )
        return inside is not self.negated


_Token = str | _AnyCharacter | _CharacterClass
_Segment = str | tuple[_Token, ...]
"""What stands between two stars: plain text where possible (searched for at the speed of C), else tokens."""


class Glob:
    """A compiled pattern: `*` any run of characters, `/` included; `?` one; `[abc]`, `[!a-z]` one of a class.

    In a class `]` is literal in the first place and `-` in the first or last; a range that runs backwards
    is empty. Everything else stands for itself; there is no escape but a class of one (`[*]`).
    Raises: InvalidTask naming the field, when a class is not closed.
    """

    __slots__ = ("_segments",)

    def __init__(self, pattern: str) -> None:
        self._segments = tuple(_segments(pattern))

    def matches(self, path: str) -> bool:
        """Whether the whole path matches, in at most `len(pattern) * len(path)` comparisons."""
        first, *middle = self._segments
        if not _stands_at(first, path, 0):
            return False
        if not middle:
            return len(path) == len(first)
        last = middle.pop()
        position, end = len(first), len(path) - len(last)
        for segment in middle:
            found = _find(segment, path, position, end)
            if found < 0:
                return False
            position = found + len(segment)
        return position <= end and _stands_at(last, path, end)


class CompiledFilter:
    """A ProcessFilter made ready: OR within a field, AND across fields; an empty field does not filter.

    `pids`: the only ones worth reading, ascending and each once; None: all.
    """

    __slots__ = ("_glob", "_names", "_pids", "pids")

    def __init__(self, wanted: ProcessFilter) -> None:
        self._names = frozenset(wanted.process_names)
        self._pids = frozenset(wanted.pids)
        self._glob = Glob(wanted.executable_pattern) if wanted.executable_pattern else None
        self.pids: tuple[int, ...] | None = tuple(sorted(self._pids)) or None

    def matches(self, pid: int, name: str, executable_path: str | None) -> bool:
        """Whether this process is wanted.

        `name` is the kernel's (comm). A name matches it, or the base name of the executable, exactly. A
        process without executable (a kernel thread, a zombie) matches no pattern, not even `*`.
        """
        if self._pids and pid not in self._pids:
            return False
        path = executable_path or ""
        if self._names and name not in self._names and path.rpartition("/")[2] not in self._names:
            return False
        return self._glob is None or (bool(path) and self._glob.matches(path))


def compile_filter(wanted: ProcessFilter) -> CompiledFilter:
    """Raises: InvalidTask naming field, value and bound when the pattern has a class that is not closed."""
    return CompiledFilter(wanted)


def _segments(pattern: str) -> Iterator[_Segment]:
    tokens: list[_Token] = []
    position = 0
    while position < len(pattern):
        character = pattern[position]
        position += 1
        if character == "*":
            yield _segment(tokens)
            tokens = []
        elif character == "?":
            tokens.append(_AnyCharacter())
        elif character == "[":
            token, position = _character_class(pattern, position)
            tokens.append(token)
        else:
            tokens.append(character)
    yield _segment(tokens)


def _segment(tokens: list[_Token]) -> _Segment:
    literals = [token for token in tokens if isinstance(token, str)]
    return "".join(literals) if len(literals) == len(tokens) else tuple(tokens)


def _character_class(pattern: str, start: int) -> tuple[_CharacterClass, int]:
    """The class whose `[` stands just before `start`, and the position after its `]`."""
    negated = pattern.startswith("!", start)
    start += negated
    end = pattern.find("]", start + 1)
    if end < 0:
        raise InvalidTask(_FIELD, pattern, "every [ needs its ]; a literal one is written [[]")
    characters: set[str] = set()
    ranges: list[tuple[str, str]] = []
    position = start
    while position < end:
        if position + 2 < end and pattern[position + 1] == "-":
            ranges.append((pattern[position], pattern[position + 2]))
            position += 3
        else:
            characters.add(pattern[position])
            position += 1
    return _CharacterClass(negated, frozenset(characters), tuple(ranges)), end + 1


def _stands_at(segment: _Segment, path: str, position: int) -> bool:
    if isinstance(segment, str):
        return path.startswith(segment, position)
    if position + len(segment) > len(path):
        return False
    for offset, token in enumerate(segment):
        character = path[position + offset]
        if not (token == character if isinstance(token, str) else token.matches(character)):
            return False
    return True


def _find(segment: _Segment, path: str, start: int, end: int) -> int:
    """The leftmost place of `segment` in `path[start:end]`, or -1."""
    if isinstance(segment, str):
        return path.find(segment, start, max(end, start))
    return next(
        (place for place in range(start, end - len(segment) + 1) if _stands_at(segment, path, place)), -1
    )

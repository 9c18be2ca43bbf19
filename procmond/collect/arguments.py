"""What a process says of itself: arguments and environment. One rule: it chooses how much, we choose how much
of that is read, shown and kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from hashlib import sha256
from typing import Final, NamedTuple

from common.limits import MAX_COMMAND_LINE_BYTES
from procmond.collect.environment import MAX_ENVIRONMENT_BYTES, select_environment
from procmond.collect.handles import Handle, read_file
from procmond.collect.procfs_parse import Stat, parse_environment, split_arguments
from procmond.collect.records import encode_record
from procmond.collect.sighting import Redact

_COUNT_BYTES: Final = 64 * 1024
_MAX_COUNTED_BYTES: Final = 8 * 1024 * 1024
"""Arguments and environment together are at most 6 MiB (execve(2)): the count ends on nonsense only."""

MAX_LENGTH: Final = 2**32 - 1
"""The largest that fits the schema. Any process may tell the kernel that its arguments end anywhere in its
address space (PR_SET_MM_MAP of prctl(2))."""


class Arguments(NamedTuple):
    """What was read of the argument vector."""

    raw: bytes
    """At most one byte more than may be shown."""
    missing: str = ""
    """Why nothing was read: `denied`, or `blocked` because reading would hang."""
    length: int = 0
    """Of all arguments in bytes where they had to be cut, else 0."""


NO_ARGUMENTS: Final = Arguments(b"")
ARGUMENTS_REFUSED: Final = Arguments(b"", missing="denied")
ARGUMENTS_BLOCKED: Final = Arguments(b"", missing="blocked")
MAX_KEPT_BYTES: Final = 4096
"""Of arguments. Longer ones are read as always, but not kept: it is the processes that choose how long."""


MAX_HIDDEN_BYTES: Final = 4 * 1024 * 1024
"""Of what redaction did to longer ones: of some thousand that each hold a few secrets."""
_ENTRY_BYTES: Final = 256
_ELEMENT_BYTES: Final = 128  # about what Python needs beside the text


class Shown(NamedTuple):
    """An argument vector as it is shown. Kept for every process, so only what `raw` does not tell is kept."""

    raw: bytes | None
    """What it was made of, together with `path`: what is redacted depends on the program."""
    path: str | None
    instead: tuple[str, ...] | None = None
    """The vector where secrets in it were replaced."""

    @property
    def redacted(self) -> bool:
        """Whether something was replaced."""
        return self.instead is not None

    @property
    def argv(self) -> tuple[str, ...]:
        """What to show, made anew each time."""
        if self.instead is not None:
            return self.instead
        return split_arguments((self.raw or b"")[:MAX_COMMAND_LINE_BYTES])


NOT_SHOWN: Final = Shown(None, None)


class _Hidden(NamedTuple):
    """What redaction did to a long argument vector."""

    elements: tuple[tuple[int, str], ...]
    """Those it changed, by position."""
    bytes: int


class Presenter:
    """Shows argument vectors. Those too long to be kept are not looked through for secrets again while they
    stay what they were: what was found in them is remembered by their digest.
    """

    def __init__(self, redact: Redact | None) -> None:
        """`redact` replaces secrets; None: they are shown."""
        self._redact = redact
        self._hidden: OrderedDict[bytes, _Hidden] = OrderedDict()
        self._bytes = 0

    def show(self, raw: bytes, path: str | None) -> Shown:
        """Cut `raw`, split it and replace its secrets; `path` is the executable's."""
        argv = split_arguments(raw[:MAX_COMMAND_LINE_BYTES])
        if not argv or self._redact is None:
            return Shown(raw, path)
        if len(raw) <= MAX_KEPT_BYTES:
            shown, redacted = self._redact(argv, path)
            return Shown(raw, path, shown if redacted else None)
        key = sha256((path or "").encode() + b"\0" + raw).digest()
        hidden = self._hidden.get(key)
        if hidden is None:
            shown, redacted = self._redact(argv, path)
            self._remember(key, argv, shown)
            return Shown(raw, path, shown if redacted else None)
        self._hidden.move_to_end(key)
        if not hidden.elements:
            return Shown(raw, path)
        changed = list(argv)
        for at, element in hidden.elements:
            changed[at] = element
        return Shown(raw, path, tuple(changed))

    def _remember(self, key: bytes, argv: tuple[str, ...], shown: tuple[str, ...]) -> None:
        elements = tuple(
            (at, after) for at, (before, after) in enumerate(zip(argv, shown, strict=True)) if before != after
        )
        hidden = _Hidden(elements, _ENTRY_BYTES + sum(_ELEMENT_BYTES + len(text) for _, text in elements))
        self._hidden[key] = hidden
        self._bytes += hidden.bytes
        while self._bytes > MAX_HIDDEN_BYTES:  # the one not asked for the longest
            self._bytes -= self._hidden.popitem(last=False)[1].bytes


def environment_missing(reason: str) -> bytes:
    """The part of a record that says why there is no environment in it: `denied` or `blocked`."""
    return encode_record({}, {"environment": reason})


def read_environment(handle: Handle, names: Collection[str], redact: Redact | None) -> bytes:
    """The part of a record that shows the variables called one of `names`, or says that it was refused."""
    try:
        raw = read_file(handle.path(b"environ"), MAX_ENVIRONMENT_BYTES)
    except PermissionError:
        return environment_missing("denied")
    except (FileNotFoundError, ProcessLookupError):
        return b""
    variables = select_environment(parse_environment(raw, names), redact)
    return encode_record({}, environment=variables)


def read_arguments(handle: Handle, stat: Stat) -> Arguments:
    """The argument vector of a process whose stat is given, cut at a byte more than may be shown.

    Raises: OSError as `Handle.arguments`, but for a refusal, which is in the result.
    """
    try:
        raw = handle.arguments(MAX_COMMAND_LINE_BYTES + 1)
    except PermissionError:
        return ARGUMENTS_REFUSED
    if len(raw) <= MAX_COMMAND_LINE_BYTES:
        return Arguments(raw)
    return Arguments(raw, length=_length(handle, stat, len(raw)))


def _length(handle: Handle, stat: Stat, seen: int) -> int:
    """The length of all arguments in bytes: the kernel's where it says, else counted."""
    if stat.argument_bytes >= seen:
        return min(stat.argument_bytes, MAX_LENGTH)
    while seen < _MAX_COUNTED_BYTES:
        more = len(handle.arguments(_COUNT_BYTES, seen))
        if not more:
            break
        seen += more
    return seen

"""Keys of a configuration, as their definition describes them. One rule: a key explains itself.

A definition is a frozen `msgspec.Struct`, its fields annotated with a `Setting`; see common/config.py. The
functions that make settings of a kind give the same words and bounds to all of that kind.
"""

from __future__ import annotations

import os
import typing
from collections.abc import Callable, Iterator
from typing import Any, Final, Literal, NamedTuple

import msgspec

from common.accounts import are_accounts, is_account
from common.limits import MAX_PATH_BYTES

MAX_SOCKET_PATH_BYTES: Final = 107
"""sun_path of sockaddr_un (unix(7)) has 108, the terminating NUL included."""


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """What a field of a definition means to the person who sets it."""

    meaning: str
    """One or two sentences, shown in the file and, for fields with a flag, in --help."""
    why: str = ""
    """Why the default is what it is; empty only for tables."""
    unit: str = ""
    minimum: float | None = None
    """Inclusive, in `unit`; numbers only. As `maximum`."""
    maximum: float | None = None
    accepts: Callable[[Any], bool] | None = None
    """A further condition, told to the person by `expected`."""
    expected: str = ""
    """Replaces the expectation worded from type and bounds."""
    flag: str = ""
    """The option of the command line (`--socket`), if it has one."""
    metavar: str = ""


class Key(NamedTuple):
    """One leaf of a definition."""

    path: tuple[str, ...]
    kind: Any
    """The field's type, bare: bool, int, float, str, a Literal, a tuple of them, or `X | None`."""
    setting: Setting
    default: Any

    @property
    def dotted(self) -> str:
        """As written in messages: `limits.connections`."""
        return ".".join(self.path)

    @property
    def is_list(self) -> bool:
        """Whether it holds several values."""
        return typing.get_origin(self.kind) is tuple

    def variable(self, prefix: str) -> str:
        """The environment variable that sets it: `PROCMOND_LIMITS__CONNECTIONS`."""
        return prefix + "__".join(self.path).upper()


def socket_path(meaning: str, *, why: str, flag: str) -> Setting:
    """Where a Unix socket is."""
    return Setting(
        meaning=meaning,
        why=why,
        accepts=is_socket_path,
        expected=f"an absolute path of at most {MAX_SOCKET_PATH_BYTES} bytes",
        flag=flag,
        metavar="PATH",
    )


def accounts(
    meaning: str, *, why: str, of: Literal["user", "group"], flag: str = "", metavar: str = ""
) -> Setting:
    """Several users or groups, by name or number."""
    return Setting(
        meaning=meaning,
        why=why,
        accepts=are_accounts,
        expected=f"a list of {of} names or numbers",
        flag=flag,
        metavar=metavar,
    )


def account(meaning: str, *, why: str) -> Setting:
    """One user, by name or number."""
    return Setting(meaning=meaning, why=why, accepts=is_account, expected="a user name or number")


def seconds(meaning: str, *, why: str, lowest: float, highest: float) -> Setting:
    """A time."""
    return Setting(meaning=meaning, why=why, unit="seconds", minimum=lowest, maximum=highest)


def number(meaning: str, *, why: str, highest: int, lowest: int = 1, unit: str = "") -> Setting:
    """How many, or how large."""
    return Setting(meaning=meaning, why=why, unit=unit, minimum=lowest, maximum=highest)


def keys_of(definition: type[msgspec.Struct], path: tuple[str, ...] = ()) -> Iterator[Key]:
    """Every leaf of `definition`, in the order of its fields, tables included."""
    hints = typing.get_type_hints(definition, include_extras=True)
    for field in msgspec.structs.fields(definition):
        kind, setting = typing.get_args(hints[field.name])[:2]
        here = (*path, field.name)
        if table := table_of(kind):
            yield from keys_of(table, here)
        else:
            yield Key(here, kind, setting, field.default)


def table_of(kind: Any) -> type[msgspec.Struct] | None:
    """The definition of a nested table, or None for a leaf."""
    return kind if isinstance(kind, type) and issubclass(kind, msgspec.Struct) else None


def expectation(key: Key) -> str:
    """What the key takes, in words that follow "expected"."""
    setting = key.setting
    if setting.expected:
        return setting.expected
    if choices := typing.get_args(key.kind) if typing.get_origin(key.kind) is Literal else ():
        return "one of " + ", ".join(choices)
    if key.kind is bool:
        return "true or false"
    if key.kind in (int, float):
        noun = "a whole number" if key.kind is int else "a number"
        return f"{noun} from {setting.minimum} to {setting.maximum} {setting.unit}".rstrip()
    return "a list of printable texts" if key.is_list else "printable text"


def is_absolute_path(value: str) -> bool:
    """For `Setting.accepts`: a daemon's working directory is nothing to rely on."""
    return os.path.isabs(value) and len(os.fsencode(value)) < MAX_PATH_BYTES


def is_socket_path(value: str) -> bool:
    """For `Setting.accepts`."""
    return os.path.isabs(value) and len(os.fsencode(value)) <= MAX_SOCKET_PATH_BYTES

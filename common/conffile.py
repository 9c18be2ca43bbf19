"""Configuration written as TOML for a person. One rule: what is written here parses back to the same values.

Pure. `render_toml` writes the file an administrator starts from, `render_effective` what --check-config
shows.
"""

from __future__ import annotations

import textwrap
import typing
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from common.config import Resolved
from common.setting import Key, Setting, expectation, keys_of, table_of

COMMENT_COLUMNS: Final = 100
"""Characters; a comment reads well in a terminal of this width."""


def literal(value: Any) -> str:
    """`value` (bool, int, float, printable str, or a tuple of them) in TOML's notation."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return "[" + ", ".join(map(literal, value)) + "]"
    if isinstance(value, str):
        # Settings accept printable text only, so these two are all that TOML wants escaped.
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return repr(value)


def render_toml(definition: type[msgspec.Struct]) -> str:
    """A file with every key of `definition`, its meaning, what it takes, and its default commented out.

    A default left commented out follows the program when a new version changes it, and a default name (of a
    user or group) that does not exist is only a warning, where a name that was given must exist.
    """
    lines = ["# Every key with its default. Take the `#` from a line to change it."]
    lines += _table_lines(definition, ())
    return "\n".join(lines) + "\n"


def _table_lines(definition: type[msgspec.Struct], path: tuple[str, ...]) -> Iterator[str]:
    hints = typing.get_type_hints(definition, include_extras=True)
    tables: list[tuple[tuple[str, ...], type[msgspec.Struct], Setting]] = []
    keys = {key.path: key for key in keys_of(definition, path)}
    for field in msgspec.structs.fields(definition):
        here = (*path, field.name)
        if here in keys:
            yield from _key_lines(keys[here])
            continue
        kind, setting = typing.get_args(hints[field.name])[:2]
        if table := table_of(kind):
            tables.append((here, table, setting))
    # TOML gives every key after a table's header to that table, so tables come last.
    for here, table, setting in tables:
        yield from ("", f"[{'.'.join(here)}]", *_comment(setting.meaning))
        yield from _table_lines(table, here)


def _key_lines(key: Key) -> Iterator[str]:
    setting = key.setting
    yield ""
    yield from _comment(setting.meaning)
    yield from _comment(f"Takes {expectation(key)}.")
    if setting.why:
        yield from _comment(f"Why this default: {setting.why}")
    if key.default is None:
        yield f"#{key.path[-1]} ="
    else:
        yield f"#{key.path[-1]} = {literal(key.default)}"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, COMMENT_COLUMNS, initial_indent="# ", subsequent_indent="# ")


def render_effective(resolved: Resolved[Any]) -> str:
    """Every key with its value, and where that comes from: TOML that resolves to the same configuration."""
    lines: list[str] = []
    tables: dict[tuple[str, ...], list[str]] = {(): []}
    for key in keys_of(type(resolved.value)):
        value: Any = resolved.value
        for name in key.path:
            value = getattr(value, name)
        unset = "" if value is not None else "# "
        line = f"{unset}{key.path[-1]} = {'' if value is None else literal(value)}"
        tables.setdefault(key.path[:-1], []).append(f"{line.rstrip()}  # {resolved.origins[key.dotted]}")
    for path, entries in tables.items():
        lines += ["", f"[{'.'.join(path)}]", *entries] if path else entries
    return "\n".join(lines) + "\n"

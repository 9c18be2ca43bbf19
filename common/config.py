"""Configuration as frozen values that explain themselves. One rule: nothing is guessed.

A key nobody defined, a value of the wrong type or out of its range stops the start with one line that names
the place, the key and what was expected. Precedence: flag > environment > file > default. Every source is
checked in full, a value that another one overrides included.

A definition is a frozen `msgspec.Struct` (tables are nested ones), its fields annotated with a `Setting`
(common/setting.py):

    class Example(msgspec.Struct, frozen=True):
        retries: Annotated[int, Setting(meaning="...", why="...", minimum=0, maximum=9)] = 3

Everything else comes from it: flags (common/arguments.py), environment variables,
the commented file (common/conffile.py). Text and mappings in, a value out; `read_file` alone touches the
system.
"""

from __future__ import annotations

import tomllib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Generic, Literal, NamedTuple, TypeVar

import msgspec

from common.errors import ConfigError
from common.limits import MIB
from common.setting import Key, Setting, expectation, keys_of, table_of

MAX_FILE_BYTES: Final = 1 * MIB
"""Bytes of a configuration file: hundreds of times what every key with its comment takes."""

MAX_SHOWN_CHARACTERS: Final = 80
"""Of a refused value, in the message: enough to recognise it, and the message stays a line."""

T = TypeVar("T", bound=msgspec.Struct)


class Origin(NamedTuple):
    """Where a value came from."""

    source: Literal["default", "file", "environment", "flag"]
    name: str
    """The file's path, the variable or the flag; empty for a default."""

    def place(self, dotted: str) -> str:
        """How a message begins that speaks of the key `dotted`."""
        if self.source == "default":
            return f"default of {dotted}"
        return f"{self.name}: {dotted}" if self.source == "file" else self.name

    def __str__(self) -> str:
        return f"{self.source} {self.name}".rstrip()


class Resolved(msgspec.Struct, Generic[T], frozen=True):
    """The effective configuration, and the origin of each leaf by its dotted key."""

    value: T
    origins: Mapping[str, Origin]

    def is_default(self, dotted: str) -> bool:
        """Whether nobody set this key (one set to the default's value was set)."""
        return self.origins[dotted].source == "default"

    def error(self, dotted: str, complaint: str) -> ConfigError:
        """The error to raise when a value turns out unusable later, in the words of the others."""
        return ConfigError(f"{self.origins[dotted].place(dotted)}: {complaint}")


class File(NamedTuple):
    """A configuration file that was read."""

    path: str
    text: str


def read_file(path: str, *, required: bool) -> File | None:
    """The file at `path`; None if it does not exist and need not (`required` is False).

    Raises: ConfigError if it cannot be read, is not UTF-8 or has more than MAX_FILE_BYTES.
    """
    try:
        with open(path, "rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        if not required:
            return None
        raise ConfigError(f"{path}: no such file; expected a configuration file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(f"{show(path)}: cannot be read: {reason}") from None
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: more than {MAX_FILE_BYTES} bytes; expected a configuration file")
    try:
        return File(path, content.decode())
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}; expected TOML") from None


def resolve(
    definition: type[T],
    *,
    prefix: str,
    file: File | None = None,
    environment: Mapping[str, str] = types.MappingProxyType({}),
    flags: Mapping[str, object] = types.MappingProxyType({}),
) -> Resolved[T]:
    """The effective value of `definition`.

    `prefix` is that of the environment's variables (`PROCMOND_`); `flags` maps dotted keys to what the
    command line said, and holds only what it said. Raises: ConfigError, see the module.
    """
    keys = {key.dotted: key for key in keys_of(definition)}
    values: dict[str, Any] = {dotted: key.default for dotted, key in keys.items()}
    origins = dict.fromkeys(keys, Origin("default", ""))
    layers = (
        _file_layer(definition, file) if file else (),
        _environment_layer(keys, prefix, environment),
        ((keys[dotted], raw, Origin("flag", keys[dotted].setting.flag)) for dotted, raw in flags.items()),
    )
    for layer in layers:
        for key, raw, origin in layer:
            values[key.dotted] = _convert(key, raw, origin)
            origins[key.dotted] = origin
    return Resolved(_build(definition, values), types.MappingProxyType(origins))


def _file_layer(definition: type[msgspec.Struct], file: File) -> Iterator[tuple[Key, Any, Origin]]:
    try:
        document = tomllib.loads(file.text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{file.path}: not valid TOML: {' '.join(str(error).split())}") from None
    keys = {key.path: key for key in keys_of(definition)}
    tables = {path[:depth] for path in keys for depth in range(1, len(path))}

    def walk(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[Key, Any, Origin]]:
        for name, raw in table.items():
            here = (*path, name)
            dotted = ".".join(here)
            if here in keys:
                yield keys[here], raw, Origin("file", file.path)
            elif here not in tables:
                siblings = {one[len(path)] for one in keys if one[: len(path)] == path}
                hint = _suggest(name, siblings) or "; expected one of " + ", ".join(sorted(siblings))
                raise ConfigError(f"{file.path}: {show(dotted)}: unknown key{hint}")
            elif not isinstance(raw, dict):
                raise ConfigError(f"{file.path}: {dotted}: expected a table, not {show(raw)}")
            else:
                yield from walk(raw, here)

    return walk(document, ())


def _environment_layer(
    keys: Mapping[str, Key], prefix: str, environment: Mapping[str, str]
) -> Iterator[tuple[Key, Any, Origin]]:
    by_variable = {key.variable(prefix): key for key in keys.values()}
    for name in sorted(environment):
        if not name.startswith(prefix):
            continue
        if name not in by_variable:
            hint = (
                _suggest(name.upper(), by_variable) or f"; expected {prefix} and a key, tables joined by __"
            )
            raise ConfigError(f"{show(name)}: unknown environment variable{hint}")
        key, text = by_variable[name], environment[name]
        raw: object = text
        if key.is_list:
            raw = [part.strip() for part in text.split(",")] if text else []
        yield key, raw, Origin("environment", name)


def _convert(key: Key, raw: object, origin: Origin) -> Any:
    """`raw` as the key's type, if it is one it accepts; only TOML's values have types of their own."""
    scalar = origin.source != "file" and isinstance(raw, str) and key.kind in (bool, int, float)
    try:
        value = msgspec.convert(raw, key.kind, strict=not scalar)
        accepted = _is_accepted(key.setting, value)
    except msgspec.ValidationError:
        accepted = False
    if not accepted:
        raise ConfigError(f"{origin.place(key.dotted)}: expected {expectation(key)}, not {show(raw)}")
    return value


def _is_accepted(setting: Setting, value: Any) -> bool:
    for text in value if isinstance(value, tuple) else (value,):
        # Whatever is not printable (a newline, a lone surrogate, nothing at all) is a slip, never meant.
        if isinstance(text, str) and not (text.strip() and text.isprintable()):
            return False
    # "Not at least" rather than "less than": a NaN is neither.
    if setting.minimum is not None and not value >= setting.minimum:
        return False
    if setting.maximum is not None and not value <= setting.maximum:
        return False
    return setting.accepts is None or setting.accepts(value)


def show(value: object) -> str:
    """`value` on one line, without control characters, and not longer than a person wants to read."""
    text = ascii(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= MAX_SHOWN_CHARACTERS else text[:MAX_SHOWN_CHARACTERS] + "..."


def _suggest(name: str, known: Iterable[str]) -> str:
    import difflib  # only a wrong name needs it

    close = difflib.get_close_matches(name[:MAX_SHOWN_CHARACTERS], known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _build(definition: type[T], values: Mapping[str, Any], path: tuple[str, ...] = ()) -> T:
    arguments: dict[str, Any] = {}
    hints = typing.get_type_hints(definition)
    for field in msgspec.structs.fields(definition):
        here = (*path, field.name)
        table = table_of(hints[field.name])
        arguments[field.name] = _build(table, values, here) if table else values[".".join(here)]
    return definition(**arguments)

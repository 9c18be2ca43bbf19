"""A daemon's command line, made from its configuration. One rule: flags say, they do not decide.

argparse only collects what was said; types and ranges are checked with all other sources by
`common.config.resolve`, so that a value is refused in the same words wherever it stands.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Generic, Literal, NoReturn, TypeVar, get_args, get_origin

import msgspec

from common import __version__
from common.conffile import literal
from common.config import Resolved, read_file, resolve
from common.setting import Key, keys_of

T = TypeVar("T", bound=msgspec.Struct)


class Program(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """A daemon as far as its configuration goes."""

    name: str
    description: str
    definition: type[T]
    prefix: str
    """Of its environment variables, with the underscore: `PROCMOND_`."""
    config_path: str
    """Where its file is looked for when --config is not given; there it may be missing."""

    def parse_arguments(self, argv: Sequence[str]) -> Arguments:
        """See the function of this name."""
        return parse_arguments(self, argv)

    def load(self, arguments: Arguments, environment: Mapping[str, str]) -> Resolved[T]:
        """See the function of this name. Raises: ConfigError."""
        return load(self, arguments, environment)


class Arguments(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line said, and nothing it did not say."""

    config_path: str | None = None
    check_config: bool = False
    flags: Mapping[str, object] = {}
    """By dotted key."""


class _Version(argparse.Action):
    """Prints the version and exits."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> NoReturn:
        sys.stdout.write(f"{parser.prog} {__version__}\n")
        parser.exit()


def build_parser(program: Program[Any]) -> argparse.ArgumentParser:
    """The parser for `program`: --config, a flag for each key that has one, --check-config, --version."""
    parser = argparse.ArgumentParser(
        prog=program.name,
        description=program.description,
        epilog=f"Precedence: flag, environment ({program.prefix}KEY, {program.prefix}TABLE__KEY), file, "
        "default. Exit status 2: wrong usage or configuration.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", metavar="FILE", help=f"TOML file to read (default: {program.config_path})"
    )
    for key in keys_of(program.definition):
        if key.setting.flag:
            _add_flag(parser, key)
    parser.add_argument(
        "--check-config",
        action="store_true",
        help="print the effective configuration and where each value comes from, and exit",
    )
    parser.add_argument(
        "--version", action=_Version, nargs=0, default=argparse.SUPPRESS, help="print the version and exit"
    )
    return parser


def _add_flag(parser: argparse.ArgumentParser, key: Key) -> None:
    # A flag that was not given must leave no trace: SUPPRESS, not None.
    common: dict[str, Any] = {"dest": key.dotted, "default": argparse.SUPPRESS}
    help_text = key.setting.meaning.replace("%", "%%")
    if key.kind is bool:
        parser.add_argument(key.setting.flag, action="store_true", help=help_text, **common)
        return
    if key.default is not None:
        help_text += f" (default: {literal(key.default)})"
    if key.is_list:
        common |= {"action": "extend", "nargs": "+"}
    choices = get_args(key.kind) if get_origin(key.kind) is Literal else ()
    common["metavar"] = "|".join(choices) or key.setting.metavar
    parser.add_argument(key.setting.flag, help=help_text, **common)


def parse_arguments(program: Program[Any], argv: Sequence[str]) -> Arguments:
    """What `argv` (without the program's name) says.

    Raises: SystemExit with status 2 and usage on stderr for wrong usage, with 0 for --help and --version.
    """
    said = vars(build_parser(program).parse_args(argv))
    config_path = said.pop("config")
    return Arguments(config_path=config_path, check_config=said.pop("check_config"), flags=said)


def load(program: Program[T], arguments: Arguments, environment: Mapping[str, str]) -> Resolved[T]:
    """Read the file and resolve all sources; on SIGHUP again, with the same `arguments`.

    Raises: ConfigError, see common/config.py; a file named by --config that does not exist included.
    """
    given = arguments.config_path is not None
    path = arguments.config_path if arguments.config_path is not None else program.config_path
    return resolve(
        program.definition,
        prefix=program.prefix,
        file=read_file(path, required=given),
        environment=environment,
        flags=arguments.flags,
    )

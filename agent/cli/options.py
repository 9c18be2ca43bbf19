"""The command line of `daemoneye`. One rule: it collects what was said; others decide.

Global options may stand before or after the command. Wrong usage is one line on stderr and exit status 2.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from importlib import metadata
from typing import NoReturn

from agent.cli.columns import DEFAULT_COLUMNS
from agent.cli.formats import FORMATS
from agent.cli.human import parse_duration
from agent.cli.kinds import KINDS
from agent.config import PROGRAM, AgentConfig, load, resolve_server_uid
from common.arguments import Arguments
from common.errors import ConfigError

# Options whose values are keys of the agent's configuration, which gives their defaults.
_CONFIGURED = ("socket", "state_dir", "server_user", "control_socket")


class Parser(argparse.ArgumentParser):
    """argparse, but wrong usage is a ConfigError like every other."""

    def error(self, message: str) -> NoReturn:
        """Raises: ConfigError; the caller prints it as one line."""
        raise ConfigError(f"{message} (see {self.prog} --help)")


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands there are."""
    parser = Parser(
        prog="daemoneye",
        description="Ask procmond what runs on this machine, and whether it is what it claims to be.",
        epilog="Exit status: 0 fine; 1 it found something (a mismatch); 2 wrong usage or configuration; "
        "3 procmond or the agent cannot be reached; 4 an answer, but partial or degraded.",
        allow_abbrev=False,
        parents=[_globals()],
    )
    parser.add_argument("--version", action="version", version=f"daemoneye {metadata.version('daemoneye')}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", parser_class=Parser)
    _add_up(_command(commands, "up", "run both daemons from a checkout, for a first look"))
    _add_ps(_command(commands, "ps", "list the processes, with the hashes of what they run"))
    _add_tree(_command(commands, "tree", "list the processes as a tree, parents first"))
    _add_watch(_command(commands, "watch", "show what processes do, as it happens"))
    _add_hash(_command(commands, "hash", "hash executables as root sees them"))
    _add_verify(
        _command(commands, "verify", "tell what an executable is, who runs it, and if it was changed")
    )
    _add_format(_command(commands, "capabilities", "what procmond can do and see here"), table=True)
    _add_format(_command(commands, "status", "what runs, and what it sees"), table=True)
    return parser


def load_config(said: argparse.Namespace, environment: Mapping[str, str]) -> tuple[AgentConfig, int]:
    """The configuration that holds for this run, and the uid procmond must have.

    Raises: ConfigError.
    """
    flags = {name: getattr(said, name) for name in _CONFIGURED if hasattr(said, name)}
    arguments = Arguments(config_path=getattr(said, "config", None), flags=flags)
    resolved = load(arguments, environment)
    return resolved.value, resolve_server_uid(resolved)


def _globals() -> Parser:
    # SUPPRESS: the same option before and after the command must not overwrite itself with a default.
    options = Parser(add_help=False, argument_default=argparse.SUPPRESS)
    group = options.add_argument_group("connection")
    group.add_argument("--socket", metavar="PATH", type=_absolute, help="procmond's socket")
    group.add_argument("--control-socket", metavar="PATH", type=_absolute, help="the agent's socket")
    group.add_argument("--state-dir", metavar="DIR", type=_absolute, help="where the agent keeps its state")
    group.add_argument(
        "--config", metavar="FILE", help=f"the agent's configuration (default: {PROGRAM.config_path})"
    )
    group.add_argument(
        "--server-user",
        metavar="USER",
        help="user as whom procmond must run to be believed (default: root); name or number",
    )
    return options


def _command(
    commands: argparse._SubParsersAction[Parser], name: str, summary: str
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        parents=[_globals()],
        allow_abbrev=False,
    )


def _add_format(parser: argparse.ArgumentParser, *, table: bool) -> None:
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="table",
        help="table for a person (default), the others for programs",
    )
    if table:
        parser.add_argument("--full", "-w", "--wide", action="store_true", help="cut nothing on a terminal")


def _add_up(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Run procmond and the agent from this checkout, print what they see, and leave nothing behind. "
        "As root, procmond runs as root and the agent under an unprivileged uid that nothing else uses."
    )
    parser.add_argument(
        "--for",
        dest="duration",
        metavar="DURATION",
        type=_duration,
        help="end after this time (10s, 2m, 1h), but not before the first inventory, which is all with 0; "
        "else on Ctrl-C",
    )
    parser.add_argument("--verbose", action="store_true", help="show the daemons' logs on stderr")


def _add_ps(parser: argparse.ArgumentParser) -> None:
    _add_filters(parser)
    parser.add_argument(
        "--columns",
        metavar="A,B,C",
        type=_names,
        help=f"columns, or any field of the schema by name (default: {','.join(DEFAULT_COLUMNS)})",
    )
    parser.add_argument(
        "--sort", metavar="A,B", type=_names, help="sort by these columns, largest first for sizes"
    )
    parser.add_argument("--reverse", action="store_true", help="turn the order around")
    parser.add_argument("--no-hashes", action="store_true", help="hash nothing; show what is known already")
    _add_format(parser, table=True)


def _add_tree(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--pid", metavar="N", type=_pid, action="append", help="only the tree under this process"
    )
    parser.add_argument("--no-hashes", action="store_true", help="hash nothing; show what is known already")
    parser.add_argument(
        "--live",
        action="store_true",
        help="go on: drawn anew on a terminal, else each change as a line; table or jsonl",
    )
    _add_format(parser, table=True)


def _add_watch(parser: argparse.ArgumentParser) -> None:
    _add_filters(parser, users=False)
    parser.add_argument(
        "--kind", choices=tuple(KINDS), action="append", help="only these events; gaps are shown always"
    )
    parser.add_argument("--snapshot", action="store_true", help="first what runs already")
    parser.add_argument("--no-hashes", action="store_true", help="hash nothing; show what is known already")
    parser.add_argument(
        "--format",
        choices=("table", "jsonl"),
        default="table",
        help="lines for a person (default), or one JSON document per event",
    )
    parser.add_argument("--full", "-w", "--wide", action="store_true", help="cut nothing on a terminal")


def _add_hash(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", nargs="*", type=_absolute, help="executables")
    parser.add_argument("--pid", metavar="N", type=_pid, action="append", help="the image this process runs")
    _add_expectation(parser)
    _add_format(parser, table=True)


def _add_verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="PATH", nargs="*", type=_absolute, help="executables")
    parser.add_argument("--pid", metavar="N", type=_pid, action="append", help="the image this process runs")
    parser.add_argument("--all", action="store_true", help="every distinct executable that runs now")
    _add_expectation(parser)
    _add_format(parser, table=True)


def _add_expectation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--algorithm", metavar="NAME", default="", help="sha256 (default), sha512, sha1, md5, blake3"
    )
    parser.add_argument(
        "--expect", metavar="HEX", default="", help="the hash it should have; exit status 1 if not"
    )


def _add_filters(parser: argparse.ArgumentParser, *, users: bool = True) -> None:
    filters = parser.add_argument_group("filters", "Values of one filter are alternatives; filters add up.")
    filters.add_argument(
        "--name", metavar="NAME", action="append", help="kernel's name or executable's base name"
    )
    filters.add_argument(
        "--pid", metavar="N", type=_pid, action="append", help=None if users else "it and all that it starts"
    )
    filters.add_argument("--exe", metavar="PATTERN", help="whole path; * and ? match / too; [abc], [!a-z]")
    if users:
        filters.add_argument("--user", metavar="USER", action="append", help="real user, name or number")


def _absolute(path: str) -> str:
    # An empty path stays empty, for the configuration or procmond to refuse: abspath would name a directory.
    return os.path.abspath(path) if path else path


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _pid(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 2**32):
        raise argparse.ArgumentTypeError(f"{text!r} is not a process id")
    return int(text)


def _duration(text: str) -> float:
    try:
        return parse_duration(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error

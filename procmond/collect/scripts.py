"""Which script an interpreter runs. One rule: from the arguments alone, and rather none than a wrong one.

The kernel runs `#!` scripts as `interpreter [argument] script arguments...` (execve(2)), which looks the same
as calling the interpreter by hand, so one reading serves both. An interpreter that is not in the table, an
option that may or may not take a value, and code given on the command line all mean: none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple


class _Options(NamedTuple):
    """Options of an interpreter that decide where its script stands."""

    values: frozenset[str]
    """Options whose value is the next argument."""
    none: frozenset[str]
    """Options after which there is no script: code, modules, standard input."""
    letters: bool = True
    """Whether short options may be joined: `-uc`."""


def _options(values: str, none: str, *, letters: bool = True) -> _Options:
    return _Options(frozenset(values.split()), frozenset(none.split()), letters)


_SHELL: Final = _options("-o +o -O +O --rcfile --init-file", "-c -s")
_INTERPRETERS: Final = {
    "python": _options("-W -X --check-hash-based-pycs", "-c -m -h -V --help --version -"),
    "pypy": _options("-W -X", "-c -m -h -V --help --version -"),
    "perl": _options("-I", "-e -E -h -v -V -"),
    "ruby": _options("-I -r -C -E --encoding", "-e -h -v --help --version -"),
    "node": _options("-r --require --import --loader -C", "-e -p -i -h -v --eval --print -", letters=False),
    "php": _options("-c -d -z", "-r -B -R -E -S -i -m -h -v -a -"),
    "lua": _options("-l", "-e -i -v -"),
    "tclsh": _options("-encoding", "", letters=False),
    "Rscript": _options("", "-e --help --version"),
    **dict.fromkeys(("sh", "bash", "dash", "ash", "zsh", "ksh", "mksh"), _SHELL),
}  # fmt: skip


def script_path(executable: str, argv: Sequence[str], cwd: str) -> str:
    """The absolute path of the script, or empty.

    `executable` is what runs, `cwd` its present directory: a relative script is resolved against it and not
    looked up, so a process that changed directory since gets a name that may not exist.
    """
    options = _INTERPRETERS.get(_family(executable.rpartition("/")[2]))
    if options is None:
        return ""
    script = _first_operand(argv, options)
    if not script or script.startswith("/"):
        return script
    return f"{cwd.rstrip('/')}/{script.removeprefix('./')}" if cwd.startswith("/") else ""


def _family(name: str) -> str:
    """The interpreter without its version: `python3.11` is `python`, `lua5.4` is `lua`."""
    return name.removesuffix("-static").rstrip("0123456789.-") if name else name


def _first_operand(argv: Sequence[str], options: _Options) -> str:
    rest = iter(argv[1:])
    for argument in rest:
        if argument == "--":
            return next(rest, "")
        if argument in options.none:
            return ""
        if argument in options.values:
            next(rest, None)
        elif argument[:1] not in ("-", "+") or argument in ("-", "+"):
            return argument
        elif options.letters and argument[:2] != "--" and _ends_options(argument, options):
            return ""
    return ""


def _ends_options(argument: str, options: _Options) -> bool:
    """Whether joined short options contain one after which there is no script, such as `-lc`.

    A letter that takes a value takes the rest of the word, or the next argument, which is then not ours to
    tell from a script: none either, unless the value is in the word.
    """
    for index, letter in enumerate(argument[1:], start=1):
        option = argument[0] + letter
        if option in options.none:
            return True
        if option in options.values:
            return index == len(argument) - 1
    return False

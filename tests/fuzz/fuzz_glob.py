"""Patterns and paths from strangers. One rule: InvalidTask is the only error a pattern may cause."""

from __future__ import annotations

from common.errors import InvalidTask
from common.messages import ProcessFilter
from procmond.collect.filters import compile_filter

SEEDS = (
    b"/usr/bin/*\n/usr/bin/ls",
    b"*/ls\n/usr/bin/ls",
    b"/opt/?[a-c]*/bin/[!x-z]?\n/opt/1b2/bin/sh",
    b"[]a][!]^-]\n]b",
    b"ab**ba*?\nabba1",
    b"/usr/bin/ls\n/usr/bin/lsof",
    "/home/ü[ä-ö]*\n/home/üäß".encode(),
)


def target(data: bytes) -> None:
    """The first line is the pattern, the rest the path."""
    pattern, _, path = data.decode("utf-8", "replace").partition("\n")
    try:
        wanted = compile_filter(ProcessFilter(executable_pattern=pattern))
    except InvalidTask as error:
        if error.field != "process_filter.executable_pattern" or "[" not in pattern:
            raise AssertionError(f"refused for no reason: {error}") from error
        return
    if wanted.matches(1, "", path) and set(pattern).isdisjoint("*?[") and pattern not in {"", path}:
        raise AssertionError("plain text matched another text")

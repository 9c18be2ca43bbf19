"""Command lines from strangers. One rule: nothing is raised, the line keeps its shape."""

from __future__ import annotations

from procmond.collect.redaction import redact
from tests.procmond.collect.redaction_corpus import CASES

SEEDS = tuple("\0".join(argv).encode() for case in CASES for argv in (case.argv, case.look_alike))


def target(data: bytes) -> None:
    """The bytes as the kernel shows them in /proc/PID/cmdline: arguments that end with NUL."""
    argv = tuple(data.decode("utf-8", "backslashreplace").split("\0"))
    result, hidden = redact(argv, None)
    if len(result) != len(argv) or result[0] != argv[0] or (result is argv) is hidden:
        raise AssertionError(f"bent: {argv!r} became {result!r}")
    again, more = redact(result, None)
    if more:
        raise AssertionError(f"not settled: {argv!r} became {result!r}, then {again!r}")

"""Exit statuses of `daemoneye`. One rule: a script can tell "found nothing" from "could not look".

0 fine; 1 it found something (a mismatch); 2 wrong usage or configuration; 3 procmond or the agent cannot be
reached; 4 an answer, but partial or degraded. Pure.
"""

from __future__ import annotations

from typing import Final

from agent.answer import Answer
from agent.cli.human import count
from common.errors import ConfigError, DaemonEyeError, TaskError
from common.messages import ErrorCode

FINE: Final = 0
FOUND: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3
PARTIAL: Final = 4

_USAGE_CODES = frozenset({ErrorCode.INVALID, ErrorCode.UNSUPPORTED})
_PARTIAL_CODES = frozenset(
    {
        ErrorCode.DEADLINE,
        ErrorCode.CANCELLED,
        ErrorCode.TOO_LARGE,
        ErrorCode.NOT_FOUND,
        ErrorCode.REFUSED,
        ErrorCode.INTERNAL,
    }
)


def status_of(error: DaemonEyeError) -> int:
    """The exit status for an error that ended a command."""
    if isinstance(error, ConfigError):
        return USAGE
    if isinstance(error, TaskError):
        if error.code in _USAGE_CODES:
            return USAGE
        return PARTIAL if error.code in _PARTIAL_CODES else UNREACHABLE
    return UNREACHABLE


def worst(first: int, second: int) -> int:
    """The status that says more: what could not be told goes before what was found."""
    return max(first, second)


def shortfalls(answer: Answer, *, legacy: bool, hashes: bool) -> list[str]:
    """Why an answer is not all that was asked for, a line each; empty when it is.

    `hashes`: whether the caller wanted them, so that pending ones count.
    """
    reasons = []
    if answer.error is not None:
        reasons.append(f"the answer ended early: {answer.error}")
    if legacy:
        reasons.append("this procmond knows only the specification: no identities, no hash states, no events")
    summary = answer.summary
    if summary is None:
        return reasons
    if hashes and summary.executables_pending:
        pending = count(summary.executables_pending, "executable")
        reasons.append(f"{pending} not hashed within the time of one sweep; ask again for the rest")
    reasons += [f"lost: {loss.count:,} ({loss.reason})" for loss in summary.losses if loss.count]
    return reasons

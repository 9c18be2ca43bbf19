"""What the agent has on record of the times it did not see. One rule: an interruption counts as recorded when
an interval with its reason covers it, has ended, and was made good.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from tests.systemd.container import Container, wait_for

LOST: Final = ("connection_lost", "procmond_unreachable", "procmond_stopped")
"""The reasons of an agent that procmond left."""
STARTED: Final = ("agent_started",)
"""The reason of an agent that begins: it has not seen since the one before it ended."""
COLLECTOR: Final = ("collector_lost",)


class Span(NamedTuple):
    """From before an interruption to after what caused it, Unix milliseconds."""

    before_ms: int
    after_ms: int


def interrupt(cause: Callable[..., object], *arguments: Any) -> Span:
    """When `cause(*arguments)` did its work. The container has this machine's clock."""
    before_ms = time.time_ns() // 1_000_000
    cause(*arguments)
    return Span(before_ms, time.time_ns() // 1_000_000)


def agent_status(container: Container) -> dict[str, Any]:
    """What the agent tells over its control socket; empty when it does not answer."""
    output = container.run("daemoneye", "status", "--format=json", check=False).stdout
    agent = json.loads(output)["agent"] if output else {}
    return dict(agent.get("status", {}))


def recorded(container: Container, span: Span, reasons: tuple[str, ...]) -> dict[str, Any]:
    """The blind interval that covers an interruption, in a few words, as soon as it is over and made good."""

    def look() -> dict[str, Any] | None:
        for interval in agent_status(container).get("intervals", ()):
            if interval["reason"] in reasons and _covers(interval, span) and interval["repaired"]:
                return dict(interval)
        return None

    interval = wait_for(f"a blind interval for {' or '.join(reasons)}", look)
    return {
        "reason": interval["reason"],
        "began_ms_after": interval["from_ms"] - span.before_ms,
        "lasted_ms": interval["to_ms"] - interval["from_ms"],
        "lost": interval["count"],
    }


def _covers(interval: dict[str, Any], span: Span) -> bool:
    ended_ms = interval.get("to_ms")
    return ended_ms is not None and interval["from_ms"] <= span.after_ms and ended_ms >= span.before_ms

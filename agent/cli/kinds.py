"""The events a person may choose among. One rule: gaps and the end of a snapshot are nobody's choice."""

from __future__ import annotations

from common.messages import ProcessEventKind

KINDS = {
    "fork": ProcessEventKind.FORK,
    "exec": ProcessEventKind.EXEC,
    "exit": ProcessEventKind.EXIT,
    "credentials": ProcessEventKind.CREDENTIALS,
}
"""What `watch --kind` may name."""

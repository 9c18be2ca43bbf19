"""The control socket's messages as frozen values. One rule: same names as proto/control.proto.

As in common/messages.py: repeated fields are tuples, an optional field that is not set is None, and what the
fields mean stands in the schema.
"""

from __future__ import annotations

from enum import IntEnum

from common.messages import Message


class RequestKind(IntEnum):
    """What a ControlRequest asks."""

    UNSPECIFIED = 0
    STATUS = 1


class Sight(IntEnum):
    """What the agent sees of what happens."""

    UNSPECIFIED = 0
    LIVE = 1
    POLLING = 2
    BLIND = 3


class ControlRequest(Message, frozen=True, gc=False, kw_only=True):
    request_id: str = ""
    kind: RequestKind = RequestKind.UNSPECIFIED
    max_intervals: int = 0


class Counter(Message, frozen=True, gc=False, kw_only=True):
    name: str = ""
    value: int = 0


class Procmond(Message, frozen=True, gc=False, kw_only=True):
    socket: str = ""
    connected: bool = False
    detail: str = ""
    server_version: str = ""
    collector: str = ""
    event_source: str = ""
    event_source_reason: str = ""
    legacy: bool = False


class Repair(Message, frozen=True, gc=False, kw_only=True):
    time_ms: int = 0
    started: int = 0
    ended: int = 0
    changed: int = 0
    explained: bool = False


class Events(Message, frozen=True, gc=False, kw_only=True):
    sight: Sight = Sight.UNSPECIFIED
    detail: str = ""
    received: int = 0
    kinds: tuple[Counter, ...] = ()
    losses: tuple[Counter, ...] = ()
    subscriptions: int = 0
    last_event_ms: int = 0
    processes: int = 0
    table_full: int = 0
    last_repair: Repair | None = None
    repairs: int = 0
    unexplained: int = 0


class BlindInterval(Message, frozen=True, gc=False, kw_only=True):
    reason: str = ""
    detail: str = ""
    from_ms: int = 0
    to_ms: int | None = None
    from_boot_ns: int = 0
    to_boot_ns: int | None = None
    count: int = 0
    repaired: bool = False


class Sweep(Message, frozen=True, gc=False, kw_only=True):
    time_ms: int = 0
    duration_us: int = 0
    processes: int = 0
    new_processes: int = 0
    gone_processes: int = 0
    executables: int = 0
    hashed: int = 0
    inaccessible: int = 0
    losses: tuple[Counter, ...] = ()


class Memory(Message, frozen=True, gc=False, kw_only=True):
    resident_bytes: int = 0
    highest_bytes: int = 0


class Status(Message, frozen=True, gc=False, kw_only=True):
    version: str = ""
    uid: int = 0
    pid: int = 0
    started_ms: int = 0
    uptime_ms: int = 0
    procmond: Procmond | None = None
    events: Events | None = None
    last_sweep: Sweep | None = None
    sweep_error: str | None = None
    intervals: tuple[BlindInterval, ...] = ()
    intervals_total: int = 0
    blind_ns: int = 0
    memory: Memory | None = None
    counters: tuple[Counter, ...] = ()


class ControlResponse(Message, frozen=True, gc=False, kw_only=True):
    request_id: str = ""
    success: bool = False
    error_message: str = ""
    status: Status | None = None

"""What the front needs to know. One rule: plain values made by the supervisor, nothing looked up here."""

from __future__ import annotations

import msgspec

from common import limits
from procmond.confinement import NOT_CONFINED, Confinement


class FrontSettings(msgspec.Struct, frozen=True):
    """Who may ask, and how much at a time."""

    allowed_uids: frozenset[int]
    """Uids whose peers may connect."""
    allowed_gids: frozenset[int] = frozenset()
    """Gids whose members may connect, by primary or supplementary group."""
    admin_uids: frozenset[int] = frozenset()
    """Uids that learn why a path was refused."""
    max_frame_size: int = limits.DEFAULT_MAX_FRAME_SIZE
    """Bytes, both ways."""
    max_connections: int = limits.MAX_CONNECTIONS
    max_connections_per_uid: int = limits.MAX_CONNECTIONS_PER_UID
    max_tasks_per_connection: int = limits.MAX_TASKS_PER_CONNECTION
    max_tasks: int = limits.MAX_TASKS_IN_FLIGHT
    """Tasks in flight over all connections."""
    frame_deadline_s: float = limits.FRAME_DEADLINE_S
    stall_limit_s: float = limits.STALL_LIMIT_S
    task_deadline_s: float = limits.DEFAULT_TASK_DEADLINE_S
    """For tasks that name none."""
    supervisor: Confinement = NOT_CONFINED
    """What the supervisor gave up, for the capability answer."""
    front: Confinement = NOT_CONFINED
    """What the front gave up; it says so itself."""

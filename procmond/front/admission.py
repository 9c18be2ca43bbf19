"""Who gets in and how much runs at once. One rule: pure counting, and every refusal is counted by reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from common.errors import Busy, Denied
from common.messages import Permission
from procmond.front.settings import FrontSettings


class Admission:
    """Counts connections and tasks against their limits, for the life of the front."""

    def __init__(self, settings: FrontSettings) -> None:
        self.settings = settings
        self.refusals: Counter[str] = Counter()
        """Refusals by reason since the front started."""
        self._connections: Counter[int] = Counter()
        self._tasks = 0

    @property
    def connections(self) -> int:
        """Connections open now."""
        return self._connections.total()

    @property
    def tasks(self) -> int:
        """Tasks in flight now."""
        return self._tasks

    def permission(self, uid: int, gids: Collection[int]) -> Permission:
        """What a peer with these credentials may do. Raises: Denied when that is nothing."""
        settings = self.settings
        if uid not in settings.allowed_uids and settings.allowed_gids.isdisjoint(gids):
            self.refusals["peer_denied"] += 1
            raise Denied(f"uid {uid} may not ask here")
        return Permission.ADMINISTER if uid in settings.admin_uids else Permission.QUERY

    def connect(self, uid: int) -> None:
        """One more connection of `uid`. Raises: Busy when a limit is reached."""
        limit = self.settings.max_connections
        if self.connections >= limit:
            self.refusals["too_many_connections"] += 1
            raise Busy(f"{limit} connections are open, the limit; try again")
        limit = self.settings.max_connections_per_uid
        if self._connections[uid] >= limit:
            self.refusals["too_many_connections_of_uid"] += 1
            raise Busy(f"{limit} connections of uid {uid} are open, the limit; close some")
        self._connections[uid] += 1

    def disconnect(self, uid: int) -> None:
        """A connection that `connect` admitted has ended."""
        self._connections[uid] -= 1
        if not self._connections[uid]:
            del self._connections[uid]

    def begin(self, in_flight: int) -> None:
        """One more task on a connection that has `in_flight`. Raises: Busy when a limit is reached."""
        limit = self.settings.max_tasks_per_connection
        if in_flight >= limit:
            self.refusals["too_many_tasks_of_connection"] += 1
            raise Busy(f"{limit} tasks are in flight on this connection, the limit; wait for an answer")
        limit = self.settings.max_tasks
        if self._tasks >= limit:
            self.refusals["too_many_tasks"] += 1
            raise Busy(f"{limit} tasks are in flight here, the limit; try again")
        self._tasks += 1

    def end(self) -> None:
        """A task that `begin` admitted has ended."""
        self._tasks -= 1

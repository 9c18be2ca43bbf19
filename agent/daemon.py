"""The parts of daemoneye-agent put together. One rule: a part that fails ends all of it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import NoReturn

from agent.config import AgentConfig, ControlAccess
from agent.control import Control
from agent.control_messages import Sight, Status
from agent.inventory import SweepReport
from agent.report import status_line, status_of
from agent.service import Agent
from agent.subscription import Subscription
from agent.vision import now
from common.service import notify


class Daemon:
    """Sweeps, follows events, and tells of both on `listener` (which stays its owner's) to `access`.

    `on_sweep` is called on the loop after each completed sweep and must not block. `seen_ms` is when an agent
    before this one last saw what happens (Unix milliseconds).
    """

    def __init__(
        self,
        config: AgentConfig,
        server_uid: int,
        listener: socket.socket,
        access: ControlAccess,
        *,
        version: str,
        on_sweep: Callable[[SweepReport], None] | None = None,
        seen_ms: int | None = None,
    ) -> None:
        self._version = version
        self._started = now()
        self._on_sweep = on_sweep
        self._agent = Agent(
            config, server_uid, version=version, on_sweep=self._swept, on_capabilities=self._note_source
        )
        self._subscription = Subscription(
            config, server_uid, version=version, resync=self._agent.resync, seen_ms=seen_ms
        )
        self._subscription.vision.on_change = self._tell
        self._told = ""
        self._control = Control(listener, access, self._status)

    @property
    def sees(self) -> bool:
        """Whether what happens is seen at present, as well as the source of events can."""
        return self._subscription.vision.sight is not Sight.BLIND

    async def run(self) -> NoReturn:
        """Work until cancelled."""
        self._tell()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._agent.run(), name="sweeps")
            group.create_task(self._subscription.run(), name="events")
            group.create_task(self._control.run(), name="control")
        raise AssertionError("none of them ends by itself")

    def reconfigure(self, config: AgentConfig) -> None:
        """Take over what can change while it runs."""
        self._agent.reconfigure(config)
        self._subscription.reconfigure(config)

    def _swept(self, report: SweepReport) -> None:
        self._subscription.keeper.swept(report)
        self._tell()
        if self._on_sweep is not None:
            self._on_sweep(report)

    def _tell(self) -> None:
        """The service manager learns what has changed for a person who looks."""
        line = status_line(self._agent.last_sweep, self._subscription.vision)
        if line != self._told:
            self._told = line
            notify(f"STATUS={line}")

    def _note_source(self) -> None:
        if self._agent.capabilities is not None:
            self._subscription.note_source(self._agent.capabilities)

    def _status(self, intervals: int) -> Status:
        return status_of(
            self._agent,
            self._subscription,
            version=self._version,
            started=self._started,
            at=now(),
            intervals=intervals,
        )

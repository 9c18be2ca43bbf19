"""The daemon: looks at every process again and again. One rule: what it could not see, it says.

A sweep that failed, a procmond that is away and one that is back are each logged once, when it happens.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import random
import time
from collections.abc import Callable
from typing import Final, NoReturn, Protocol

import msgspec

from agent.answer import Answer
from agent.backoff import Backoff, Breaker
from agent.client import Client
from agent.config import AgentConfig
from agent.inventory import Inventory, SweepReport, count, take_inventory
from agent.pending import Counters
from agent.schedule import Schedule
from common.errors import (
    ConnectionLost,
    DaemonEyeError,
    DeadlineExceeded,
    InternalError,
    PeerError,
    TaskError,
    Unreachable,
    UntrustedServer,
)
from common.limits import RESYNC_EVERY_S
from common.logs import get_logger
from common.messages import CapabilityResponse, CollectionOptions, DetectionTask, TaskType
from common.service import notify

_log = get_logger(__name__)

CLIENT_NAME: Final = "daemoneye-agent"

_SWEEP: Final = DetectionTask(
    task_type=TaskType.ENUMERATE_PROCESSES, stream=True, options=CollectionOptions(environment=True)
)
"""Everything procmond can say of every process."""

_MORE_ATTEMPTS: Final = 3
"""When a process held up procmond's collector the sweep it was in is lost, and at once the next one leaves
that process alone. As many culprits of one user end in all of that user's being left alone."""

_EXPECTED: Final = (Unreachable, ConnectionLost, TaskError, PeerError)
"""What a procmond that is away, overloaded or broken looks like from here."""


class Agent:
    """Sweeps every `scan_interval` over a connection it makes and remakes.

    `server_uid` is whom procmond must run as. `on_sweep` is called on the loop after each completed sweep,
    `on_capabilities` when procmond was asked anew what it can; both must not block.
    """

    def __init__(
        self,
        config: AgentConfig,
        server_uid: int,
        *,
        version: str | None = None,
        on_sweep: Callable[[SweepReport], None] | None = None,
        on_capabilities: Callable[[], None] | None = None,
    ) -> None:
        self.inventory: Inventory | None = None
        """Of the last completed sweep; a failed one leaves it as it was."""
        self.last_sweep: tuple[SweepReport, int] | None = None
        """The last completed one, and when (Unix milliseconds)."""
        self.sweep_error: str | None = None
        """Why the last attempt failed; None when it did not."""
        self.capabilities: CapabilityResponse | None = None
        """What procmond last said of itself."""
        self.legacy = False
        self.connected = False
        self.away_reason = "not yet tried"
        """Why it is not connected; empty when it is."""
        self.counters = Counters()
        self._config = config
        self._server_uid = server_uid
        self._version = version
        self._on_sweep = on_sweep
        self._on_capabilities = on_capabilities
        self._backoff = Backoff(config.client.backoff_base, config.client.backoff_cap)
        self._breaker = Breaker(
            threshold=config.client.breaker_threshold, cool_down_s=config.client.breaker_cool_down
        )
        self._loop = asyncio.get_running_loop()
        self._schedule = Schedule(config.scan_interval, start=self._loop.time())
        self._waiting: asyncio.Timeout | None = None
        self._away_since: float | None = None
        self._away_logged: bool | None = None
        self._connections = 0
        self._last_began = -math.inf
        self._resync_at: float | None = None

    @property
    def socket(self) -> str:
        """Where procmond is asked."""
        return self._config.socket

    async def run(self) -> NoReturn:
        """Work until cancelled."""
        while True:
            try:
                async with self._new_client() as client:
                    self._note_connected(client)
                    await self._sweep_until_lost(client)
            except _EXPECTED as error:
                self._note_away(error)
            await self._wait_to_retry()

    def reconfigure(self, config: AgentConfig) -> None:
        """Take over a new `scan_interval`, counted from the last sweep."""
        last = self._schedule.due_at - self._config.scan_interval
        if config.scan_interval != self._config.scan_interval:
            start = max(self._loop.time(), last + config.scan_interval)
            self._schedule = Schedule(config.scan_interval, start=start)
            if self._waiting is not None and not self._waiting.expired():
                self._waiting.reschedule(start)
        self._config = config

    def resync(self) -> None:
        """Sweep soon, and ask procmond anew what it can: events were lost. Many calls cost one sweep."""
        if self._resync_at is None:
            self._resync_at = max(self._loop.time(), self._last_began + RESYNC_EVERY_S)
            if self._waiting is not None and not self._waiting.expired():
                self._waiting.reschedule(min(self._resync_at, self._schedule.due_at))

    def _new_client(self) -> Client:
        return Client(
            self._config.socket,
            server_uids=(self._server_uid,),
            name=CLIENT_NAME,
            version=self._version,
            counters=self.counters,
            connect_timeout_s=self._config.client.connect_timeout,
        )

    async def _wait_to_retry(self) -> None:
        wait = self._backoff.wait(self._breaker.failures, random.random)
        await asyncio.sleep(max(wait, self._breaker.remaining(self._loop.time())))

    # ------------------------------------------------------------------------------------------ sweeps

    async def _sweep_until_lost(self, client: Client) -> NoReturn:
        while True:
            due_at = self._schedule.due_at if self._resync_at is None else self._resync_at
            try:
                async with asyncio.timeout_at(min(due_at, self._schedule.due_at)) as self._waiting:
                    await client.wait_lost()
            except TimeoutError:
                pass
            finally:  # one that is over must not be rescheduled, however it ended
                self._waiting = None
            missed = self._schedule.begin(self._loop.time())
            if missed:
                _log.warning("sweeps_skipped", count=missed, total=self._schedule.skipped)
            if self._resync_at is not None:
                self._resync_at = None
                await self._ask_capabilities(client)
            self._last_began = self._loop.time()
            await self._sweep(client)

    async def _ask_capabilities(self, client: Client) -> None:
        """Raises: what ends the connection too."""
        if client.legacy:
            return
        try:
            await client.negotiate()
        except TaskError as error:
            _log.warning("capabilities_refused", exc_info=error)
            return
        self.capabilities = client.capabilities
        if self._on_capabilities is not None:
            self._on_capabilities()

    async def _sweep(self, client: Client) -> None:
        """One sweep. Raises: what ends the connection too; a typed refusal is only logged."""
        began = time.monotonic()  # uvloop's own clock has a resolution of 1 ms
        began_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        try:
            answer = await self._ask_sweep(client)
        except (ConnectionLost, TaskError, PeerError) as error:
            self._note_failed(error, began)
            # A server that refuses is well; one that is silent or sends nonsense is not.
            if not isinstance(error, TaskError) or isinstance(error, DeadlineExceeded):
                raise
            self._breaker.succeeded()
            return
        self._breaker.succeeded()
        if answer.error is not None:
            self._note_failed(answer.error, began, processes=len(answer.processes))
            return
        self._complete(answer, time.monotonic() - began, began_ns)

    async def _ask_sweep(self, client: Client) -> Answer:
        """One whole answer. Raises: as `Client.ask`."""
        for _ in range(_MORE_ATTEMPTS):
            try:
                answer = await client.ask(_SWEEP, deadline_s=self._config.client.call_deadline)
            except InternalError as error:
                _log.info("sweep_asked_again", error=str(error))
                continue
            if not isinstance(answer.error, InternalError):
                return answer
            _log.info("sweep_asked_again", error=str(answer.error))
        return await client.ask(_SWEEP, deadline_s=self._config.client.call_deadline)

    def _complete(self, answer: Answer, duration_s: float, began_ns: int) -> None:
        current = take_inventory(answer)
        counts = count(answer, current, self.inventory)
        self.inventory = current
        losses = answer.summary.losses if answer.summary is not None else ()
        _log.info(
            "sweep_completed",
            **msgspec.structs.asdict(counts),
            duration_ms=round(duration_s * 1000, 1),
            weak_keys=current.weak,
            losses={loss.reason: loss.count for loss in losses},
            skipped_sweeps=self._schedule.skipped,
            counters=dataclasses.asdict(self.counters),
        )
        report = SweepReport(
            inventory=current, answer=answer, counts=counts, duration_s=duration_s, began_ns=began_ns
        )
        self.sweep_error = None
        self.last_sweep = (report, time.time_ns() // 1_000_000)
        if self._on_sweep is not None:
            self._on_sweep(report)

    def _note_failed(self, error: DaemonEyeError, began: float, processes: int = 0) -> None:
        self.sweep_error = str(error)
        _log.warning(
            "sweep_failed",
            exc_info=error,
            processes_received=processes,
            duration_ms=round((time.monotonic() - began) * 1000, 1),
            counters=dataclasses.asdict(self.counters),
        )

    # ---------------------------------------------------------------------------------- state of the way

    def _note_connected(self, client: Client) -> None:
        first = self._connections == 0
        self._connections += 1
        self.counters.reconnects = self._connections - 1
        known = self.capabilities = client.capabilities
        self.connected, self.away_reason, self.legacy = True, "", client.legacy
        _log.info(
            "procmond_connected" if first else "procmond_reconnected",
            socket=client.path,
            legacy=client.legacy,
            server_version=known.server_version if known is not None else None,
            away_s=round(self._loop.time() - self._away_since, 1) if self._away_since is not None else 0.0,
            failures=self._breaker.failures,
            breaker=self._breaker.state(self._loop.time()).value,
        )
        if client.legacy:
            _log.warning("procmond_legacy", meaning="weak identities, no events, one frame per answer")
        self._away_since = self._away_logged = None

    def _note_away(self, error: DaemonEyeError) -> None:
        now = self._loop.time()
        opened = self._breaker.failed(now)
        self.connected, self.away_reason = False, str(error)
        if self._away_since is None:
            self._away_since = now
        # A socket in the wrong hands is another state than none, and worth a line of its own.
        untrusted = isinstance(error, UntrustedServer)
        if self._away_logged is not untrusted:
            self._away_logged = untrusted
            _log.error(
                "procmond_unreachable", exc_info=error, socket=self._config.socket, untrusted=untrusted
            )
        if opened:
            _log.warning("breaker_opened", failures=self._breaker.failures)


class Endless(Protocol):
    """What works until it is cancelled."""

    async def run(self) -> NoReturn: ...


async def serve(agent: Endless, stop: asyncio.Event) -> int:
    """Run `agent` until `stop` is set; the exit status. Nothing of procmond's is waited for."""
    async with asyncio.TaskGroup() as group:
        work = group.create_task(agent.run(), name="agent")
        notify("READY=1")
        await stop.wait()
        notify("STOPPING=1")
        work.cancel()
    _log.info("agent_stopped")
    return 0

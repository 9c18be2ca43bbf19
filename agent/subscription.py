"""The agent's live events. One rule: at every moment it is known whether it sees, since when not, and why.

A connection of its own, so that events delay no answer. What to make of events is decided elsewhere
(sequence, table, reconcile, blind, execlog); this moves them there.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from typing import Final, NoReturn

from agent.answer import failure_of
from agent.backoff import Backoff
from agent.blind import STARTED, Moment
from agent.client import Client
from agent.config import AgentConfig
from agent.control_messages import Sight
from agent.execlog import exec_entry, exit_entry
from agent.keeper import Keeper
from agent.sequence import SequenceCheck
from agent.vision import Vision, now
from common.errors import (
    ConnectionLost,
    DaemonEyeError,
    InvalidTask,
    PeerError,
    ShuttingDown,
    TaskError,
    Unreachable,
    Unsupported,
    UntrustedServer,
)
from common.limits import EVENT_SLACK_S
from common.logs import get_logger
from common.messages import (
    CapabilityResponse,
    CollectionOptions,
    DetectionResult,
    DetectionTask,
    EventSource,
    Gap,
    ProcessEvent,
    ProcessEventKind,
    TaskType,
)

_log = get_logger(__name__)

CLIENT_NAME: Final = "daemoneye-agent-events"

LIVE_TASK: Final = DetectionTask(
    task_type=TaskType.MONITOR_PROCESS_TREE,
    stream=True,
    options=CollectionOptions(live=True, environment=True),
)
"""Everything that happens, and every fact about it."""

LEGACY: Final = "legacy_server"
UNSUPPORTED: Final = "events_unsupported"
HOLE: Final = "sequence_hole"

_EXPECTED: Final = (Unreachable, ConnectionLost, TaskError, PeerError)
_NO_EVENTS: Final = (Unsupported, InvalidTask)
"""How a server refuses that does not know live events, or not these."""


class Subscription:
    """Follows procmond's events, for as long as `run` runs, and keeps what they tell.

    `resync` is called when a sweep should follow soon, to make a gap good. `seen_ms` is when an agent before
    this one last saw events (Unix milliseconds). `clock` is replaced by tests.
    """

    def __init__(
        self,
        config: AgentConfig,
        server_uid: int,
        *,
        version: str | None = None,
        resync: Callable[[], None] = lambda: None,
        seen_ms: int | None = None,
        clock: Callable[[], Moment] = now,
    ) -> None:
        self.vision = Vision(clock(), seen_ms)
        self.keeper = Keeper(self.vision.intervals, clock, log_execs=config.log_execs)
        self.kinds: Counter[ProcessEventKind] = Counter()
        """Events received."""
        self.subscriptions = 0
        self.last_event_ms = 0
        """Unix time; 0: none yet."""
        self._config = config
        self._server_uid = server_uid
        self._version = version
        self._resync = resync
        self._clock = clock
        self._backoff = Backoff(config.client.backoff_base, config.client.backoff_cap)
        self._failures = 0
        self._sequence = SequenceCheck()
        self._boot_id = ""
        self._last_event_ns = 0
        self._source = EventSource.UNSPECIFIED
        self._source_reason = ""
        self._unnamed_since: Moment | None = None
        """Since when events come whose source procmond could not name yet: no collector ran."""
        self._asked_anew = False

    async def run(self) -> NoReturn:
        """Work until cancelled."""
        try:
            while True:
                try:
                    async with self._new_client() as client:
                        await self._follow(client)
                except _EXPECTED as error:
                    self._note_lost(error)
                self._failures += 1
                await asyncio.sleep(self._backoff.wait(self._failures, random.random))
        finally:
            self.keeper.stop()

    def reconfigure(self, config: AgentConfig) -> None:
        """Take over a new `log_execs`."""
        self._config = config
        self.keeper.log_execs = config.log_execs

    def note_source(self, known: CapabilityResponse) -> None:
        """What procmond says of itself: after a gap its events may come from elsewhere."""
        if known.event_source is EventSource.UNSPECIFIED and not self._asked_anew:
            self._asked_anew = True  # once: a server that never names it must not be swept for ever
            self._resync()
            return
        self._asked_anew = False
        self._source, self._source_reason = known.event_source, known.event_source_reason
        self.keeper.confession = known.event_source_reason
        since, self._unnamed_since = self._unnamed_since, None
        if self.vision.sight is not Sight.BLIND or since is not None:
            self.vision.see(self._source, self._source_reason, since or self._clock())
        if since is not None:  # the snapshot may have been compared before it was known who sees
            self.vision.intervals.repair(self.keeper.compared_ns)

    def _new_client(self) -> Client:
        return Client(
            self._config.socket,
            server_uids=(self._server_uid,),
            name=CLIENT_NAME,
            version=self._version,
            connect_timeout_s=self._config.client.connect_timeout,
        )

    async def _follow(self, client: Client) -> NoReturn:
        """Take events until there are no more. Raises: the reason."""
        if client.legacy:
            detail = "this procmond knows only the specification: no events"
            self.vision.lose(LEGACY, detail, self._clock())
            await client.wait_lost()
        self._source, self._unnamed_since = EventSource.UNSPECIFIED, None
        if client.capabilities is not None:
            self.note_source(client.capabilities)
        self._sequence = SequenceCheck()
        self.subscriptions += 1
        try:
            async with client.stream(LIVE_TASK) as frames:
                async for frame in frames:
                    self._take(frame)
                    if not (frame.success or frame.more):
                        raise failure_of(frame)
        except _NO_EVENTS as error:
            self.vision.lose(UNSUPPORTED, str(error), self._clock())
            await client.wait_lost()
        raise ConnectionLost("procmond ended the stream of events")

    def _take(self, frame: DetectionResult) -> None:
        """Raises: EventOrderError."""
        if frame.boot_id and frame.boot_id != self._boot_id:
            # The agent may outlive a boot where it is restored on another host.
            self._boot_id = frame.boot_id
            self.keeper.forget()
        for event in frame.events:
            self.kinds[event.kind] += 1
            missing = self._sequence.check(event)
            if missing:
                self._note_hole(missing, event)
            self._last_event_ns = max(self._last_event_ns, event.boot_time_ns)
            self._handle(event)
        if frame.events:
            self.keeper.heard(self._last_event_ns)
            self.last_event_ms = self._clock().wall_ms

    def _handle(self, event: ProcessEvent) -> None:
        table = self.keeper.table
        match event.kind:
            case ProcessEventKind.GAP:
                self.vision.note_gap(event.gap or Gap(reason="unspecified"), self._clock())
                self._resync()
            case ProcessEventKind.SNAPSHOT:
                self.keeper.take_snapshot(event)
            case ProcessEventKind.SNAPSHOT_END:
                self._failures = 0
                at = self._clock()
                # Events have been listened to since before the first process was looked at.
                since_ns = self.keeper.end_snapshot() or event.boot_time_ns or at.boot_ns
                if self._source is EventSource.UNSPECIFIED:
                    # Who sees is not known yet. By now procmond can tell, and is asked before the next sweep.
                    self._unnamed_since, self._asked_anew = at.at(since_ns), False
                    self._resync()
                else:
                    self.vision.see(self._source, self._source_reason, at.at(since_ns))
            case ProcessEventKind.EXEC:
                entry = table.apply(event)
                if entry is not None and event.process is not None and self._config.log_execs:
                    _log.info("exec_seen", **exec_entry(event.process, table.parent_of(entry)))
            case ProcessEventKind.EXIT:
                ended = table.apply(event)
                _log.debug("exit_seen", **exit_entry(event, None if ended is None else ended.record))
            case _:
                table.apply(event)

    def _note_hole(self, missing: int, event: ProcessEvent) -> None:
        hole = Gap(
            reason=HOLE,
            count=missing,
            from_boot_time_ns=self._last_event_ns,
            to_boot_time_ns=event.boot_time_ns,
        )
        self.vision.note_gap(hole, self._clock())
        self._resync()

    def _note_lost(self, error: DaemonEyeError) -> None:
        """The connection ended, or there is none."""
        self.keeper.abandon_snapshot()
        at = self._clock()
        blind = self.vision.intervals.open
        if self.vision.sight is not Sight.BLIND:
            # Events under way are lost as well.
            quiet_ns = at.boot_ns - int(EVENT_SLACK_S * 1e9)
            if not isinstance(error, ShuttingDown):
                # One that hung first looks like a quiet host: only a comparison tells them apart.
                quiet_ns = min(quiet_ns, self.keeper.compared_ns)
            since_ns = max(self._last_event_ns, quiet_ns)
            self.vision.lose(_reason_of(error), str(error), at.at(min(since_ns, at.boot_ns)))
        elif blind is None or blind.reason in (STARTED, LEGACY, UNSUPPORTED):
            self.vision.lose(_reason_of(error), str(error), at)


def _reason_of(error: DaemonEyeError) -> str:
    """A few words for why there are no events."""
    match error:
        case UntrustedServer():
            return "procmond_untrusted"
        case Unreachable():
            return "procmond_unreachable"
        case ShuttingDown():
            return "procmond_stopped"
        case ConnectionLost():
            return "connection_lost"
        case TaskError():
            return f"refused_{error.code.name.lower()}"
        case _:
            return "stream_broken"

"""The agent's live events, against a scripted procmond: what it logs, and that it knows when it is blind."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
import structlog

from agent.answer import Answer
from agent.blind import BlindLog, Moment
from agent.config import AgentConfig, ClientSettings
from agent.control_messages import Sight
from agent.inventory import SweepReport, count, take_inventory
from agent.subscription import LIVE_TASK, Subscription
from agent.vision import now
from common.messages import (
    CapabilityResponse,
    DetectionResult,
    DetectionTask,
    ErrorCode,
    EventSource,
    Loss,
    ProcessEvent,
    ProcessRecord,
    failure,
)
from tests.support.logtap import LogTap
from tests.support.peer import CAPABILITIES, Peer, scripted
from tests.support.stories import (
    BOOT_ID,
    TICK_NS,
    execution,
    exited,
    fork,
    lost,
    numbered,
    process,
    snapshot,
    snapshot_end,
)

PATIENCE_S = 20.0
SOON_S = 0.01

EBPF = msgspec.structs.replace(CAPABILITIES, event_source=EventSource.EBPF)
POLLING = msgspec.structs.replace(
    CAPABILITIES, event_source=EventSource.POLLING, event_source_reason="no BTF here"
)
UNNAMED = msgspec.structs.replace(CAPABILITIES, event_source=EventSource.UNSPECIFIED)
SECOND_NS = 1_000_000_000
INIT = process(1, name="init")
SHELL = process(7, name="bash")
CURL = process(9, name="curl", command_line=("curl", "http://x"), ppid=7, parent_start_ticks=7)


@pytest.fixture
def logs() -> Iterator[LogTap]:
    tap = LogTap()
    structlog.configure(processors=[tap])
    yield tap
    structlog.reset_defaults()


@pytest.fixture
def config(tmp_path: Path) -> AgentConfig:
    return AgentConfig(
        socket=str(tmp_path / "procmond.sock"),
        client=ClientSettings(backoff_base=SOON_S, backoff_cap=SOON_S),
    )


@pytest.fixture(autouse=True)
def settle_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.keeper.EVENT_SETTLE_S", SOON_S)


@contextlib.asynccontextmanager
async def running(subscription: Subscription) -> AsyncIterator[None]:
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        task = group.create_task(subscription.run(), name="events")
        try:
            yield
        finally:
            task.cancel()


async def tell(peer: Peer, task: DetectionTask, number: int, *events: ProcessEvent) -> None:
    """One frame of a live answer."""
    await peer.answer(
        DetectionResult(
            task_id=task.task_id,
            success=True,
            more=True,
            sequence=number,
            events=events,
            boot_id=BOOT_ID,
        )
    )


async def begin(peer: Peer, *running: ProcessRecord, known: CapabilityResponse = EBPF) -> DetectionTask:
    """Negotiate, take the subscription and send a snapshot."""
    await peer.negotiate(known)
    task = await peer.task()
    at_ns = now().boot_ns
    shown = [snapshot(record, at_ns) for record in running]
    await tell(peer, task, 0, *numbered(*shown, snapshot_end(at_ns)))
    return task


def reasons(log: BlindLog) -> list[str]:
    return [interval.reason for interval in log.last(99)]


async def until_blind(subscription: Subscription, logs: LogTap, times: int = 1) -> None:
    """Until so many intervals began, besides the one at the start."""
    await logs.seen("blind_interval_began", times + 1)


async def test_an_exec_is_one_entry_with_its_parents_image(config: AgentConfig, logs: LogTap) -> None:
    async def script(peer: Peer) -> None:
        task = await begin(peer, INIT, SHELL)
        assert task.options == LIVE_TASK.options
        assert task.deadline_ms == 0
        assert task.process_filter is None
        child = process(9, name="bash")
        told = numbered(fork(child, SHELL), execution(CURL), exited(CURL), first=4)
        await tell(peer, task, 1, *told)
        await peer.task_or_end()

    subscription = Subscription(config, os.geteuid())
    async with scripted(config.socket, script), running(subscription):
        (entry,) = await logs.seen("exec_seen")
        await logs.seen("exit_seen")
    assert entry["level"] == "info"
    assert (entry["pid"], entry["arguments"], entry["user"]) == (9, ["curl", "http://x"], "alice")
    assert (entry["image"], entry["parent_image"]) == ("/usr/bin/curl", "/usr/bin/bash")
    assert logs.of("exit_seen")[0]["level"] == "debug"
    assert subscription.kinds.total() == 6
    assert sorted(subscription.keeper.table) == [(1, 1), (7, 7)]


async def test_the_time_before_the_first_snapshot_is_blind_and_no_alarm(
    config: AgentConfig, logs: LogTap
) -> None:
    async def script(peer: Peer) -> None:
        await begin(peer, INIT)
        await peer.task_or_end()

    subscription = Subscription(config, os.geteuid())
    before = subscription.vision.sight
    async with scripted(config.socket, script), running(subscription):
        (ended,) = await logs.seen("blind_interval_ended")
    assert (before, subscription.vision.sight) == (Sight.BLIND, Sight.LIVE)
    assert ended["reason"] == "agent_started"
    assert {entry["level"] for entry in logs.entries} == {"info"}


async def test_execs_are_not_logged_when_switched_off(config: AgentConfig, logs: LogTap) -> None:
    async def script(peer: Peer) -> None:
        task = await begin(peer, INIT)
        await tell(peer, task, 1, *numbered(execution(CURL), lost("x"), first=3))
        await peer.task_or_end()

    quiet = msgspec.structs.replace(config, log_execs=False)
    async with scripted(config.socket, script), running(Subscription(quiet, os.geteuid())):
        await logs.seen("events_lost")
    assert "exec_seen" not in logs.events


async def test_a_gap_is_recorded_and_asks_for_a_sweep(config: AgentConfig, logs: LogTap) -> None:
    asked = asyncio.Event()

    async def script(peer: Peer) -> None:
        task = await begin(peer, INIT)
        gap = lost(
            "subscriber_queue_full",
            now().boot_ns,
            numbers=(3, 7),
            count=5,
            losses=(Loss(reason="subscriber_queue_full", count=5),),
        )
        await tell(peer, task, 1, msgspec.structs.replace(gap, sequence=8))
        await peer.task_or_end()

    subscription = Subscription(config, os.geteuid(), resync=asked.set)
    async with scripted(config.socket, script), running(subscription):
        await asked.wait()
    assert subscription.vision.intervals.losses == {"subscriber_queue_full": 5}
    assert reasons(subscription.vision.intervals)[-1] == "subscriber_queue_full"
    assert logs.of("events_lost")[0]["count"] == 5
    assert subscription.vision.sight is Sight.LIVE


async def test_a_hole_nobody_explained_is_an_interval_too(config: AgentConfig, logs: LogTap) -> None:
    asked = asyncio.Event()

    async def script(peer: Peer) -> None:
        task = await begin(peer, INIT)
        await tell(peer, task, 1, *numbered(execution(CURL), first=13))
        await peer.task_or_end()

    subscription = Subscription(config, os.geteuid(), resync=asked.set)
    async with scripted(config.socket, script), running(subscription):
        await asked.wait()
        await logs.seen("exec_seen")
    assert subscription.vision.intervals.losses == {"sequence_hole": 10}


async def test_events_that_step_back_end_the_stream_and_a_new_one_begins(
    config: AgentConfig, logs: LogTap
) -> None:
    async def script(peer: Peer) -> None:
        task = await begin(peer, INIT)
        await tell(peer, task, 1, *numbered(execution(CURL), first=1))
        await peer.task_or_end()

    subscription = Subscription(config, os.geteuid())
    async with scripted(config.socket, script), running(subscription):
        await until_blind(subscription, logs)
        await logs.seen("blind_interval_ended", 2)
    assert "stream_broken" in reasons(subscription.vision.intervals)
    assert "exec_seen" not in logs.events


async def test_a_lost_procmond_is_one_interval_and_the_next_snapshot_tells_what_was_missed(
    config: AgentConfig, logs: LogTap
) -> None:
    first = True

    async def script(peer: Peer) -> None:
        nonlocal first
        if first:
            first = False
            await begin(peer, INIT, SHELL)
            return  # killed
        await begin(peer, INIT, CURL)
        await peer.task_or_end()

    subscription = Subscription(config, os.geteuid())
    async with scripted(config.socket, script), running(subscription):
        (repaired,) = await logs.seen("table_repaired")
    blind = subscription.vision.intervals
    assert reasons(blind) == ["agent_started", "connection_lost"]
    (interval,) = blind.last(1)
    assert interval.to_boot_ns is not None
    assert 0 <= interval.to_boot_ns - interval.from_boot_ns < PATIENCE_S * 1e9
    assert (repaired["started_pids"], repaired["ended_pids"]) == (["9 curl"], ["7 bash"])
    assert (repaired["explained"], repaired["level"]) == (True, "info")
    (found,) = logs.of("exec_found")
    assert (found["found_by"], found["arguments"]) == ("snapshot", ["curl", "http://x"])
    assert sorted(subscription.keeper.table) == [(1, 1), (9, 9)]
    assert interval.repaired


async def test_a_procmond_that_is_away_keeps_one_interval_open(config: AgentConfig, logs: LogTap) -> None:
    subscription = Subscription(config, os.geteuid())
    async with running(subscription):
        await until_blind(subscription, logs)
    blind = subscription.vision.intervals
    assert reasons(blind) == ["agent_started", "procmond_unreachable"]
    assert blind.open is not None
    assert blind.open.to_ms is None
    assert len(logs.of("blind_interval_began")) == 2


async def test_a_stopping_procmond_says_so(config: AgentConfig, logs: LogTap) -> None:
    async def script(peer: Peer) -> None:
        task = await begin(peer, INIT)
        end = failure(task.task_id, "ending", ErrorCode.SHUTTING_DOWN)
        await peer.answer(msgspec.structs.replace(end, sequence=1))

    subscription = Subscription(config, os.geteuid())
    async with scripted(config.socket, script), running(subscription):
        await until_blind(subscription, logs)
    assert "procmond_stopped" in reasons(subscription.vision.intervals)


async def test_polling_is_told_as_a_lasting_degradation(config: AgentConfig, logs: LogTap) -> None:
    async def script(peer: Peer) -> None:
        await begin(peer, INIT, known=POLLING)
        await peer.task_or_end()

    subscription = Subscription(config, os.geteuid())
    async with scripted(config.socket, script), running(subscription):
        await until_blind(subscription, logs)
        assert subscription.vision.sight is Sight.POLLING
    assert subscription.vision.detail == "no BTF here"
    assert reasons(subscription.vision.intervals) == ["agent_started", "polling_source"]
    assert subscription.vision.intervals.open is not None


async def test_a_source_that_was_lost_is_noticed_when_procmond_is_asked_anew(
    config: AgentConfig, logs: LogTap
) -> None:
    async def script(peer: Peer) -> None:
        await begin(peer, INIT)
        await peer.task_or_end()

    subscription = Subscription(config, os.geteuid())
    async with scripted(config.socket, script), running(subscription):
        await logs.seen("blind_interval_ended")
        subscription.note_source(POLLING)
        assert subscription.vision.sight is Sight.POLLING


async def test_of_a_source_that_is_not_named_yet_it_asks_before_it_claims_to_see(
    config: AgentConfig, logs: LogTap
) -> None:
    async def script(peer: Peer) -> None:
        await begin(peer, INIT, known=UNNAMED)
        await peer.task_or_end()

    asked = asyncio.Semaphore(0)
    subscription = Subscription(config, os.geteuid(), resync=asked.release)
    async with scripted(config.socket, script), running(subscription):
        for _ in ("for the answer", "for the snapshot"):
            await asked.acquire()
        while not subscription.keeper.compared_ns:
            await asyncio.sleep(0)
        seen = [subscription.vision.sight]
        for answer in (UNNAMED, POLLING):
            subscription.note_source(answer)
            seen.append(subscription.vision.sight)
    assert seen == [Sight.BLIND, Sight.BLIND, Sight.POLLING]
    assert subscription.vision.intervals.last(2)[0].repaired
    assert reasons(subscription.vision.intervals) == ["agent_started", "polling_source"]


async def test_a_collector_that_is_being_replaced_changes_nothing_until_it_is_asked_anew(
    config: AgentConfig, logs: LogTap
) -> None:
    async def script(peer: Peer) -> None:
        await begin(peer, INIT, known=POLLING)
        await peer.task_or_end()

    subscription = Subscription(config, os.geteuid())
    async with scripted(config.socket, script), running(subscription):
        await until_blind(subscription, logs)
        subscription.note_source(UNNAMED)
        assert subscription.vision.sight is Sight.POLLING


async def test_a_procmond_that_hung_before_it_was_killed_was_not_quiet(
    config: AgentConfig, logs: LogTap
) -> None:
    at = Moment(1000 * SECOND_NS, 5_000_000)
    first = True

    async def script(peer: Peer) -> None:
        nonlocal first, at
        if first:
            first = False
            await peer.negotiate(EBPF)
            task = await peer.task()
            shown = numbered(snapshot(INIT, at.boot_ns), snapshot_end(at.boot_ns))
            await tell(peer, task, 0, *shown)
            await logs.seen("blind_interval_ended")
            at = Moment(at.boot_ns + 60 * SECOND_NS, at.wall_ms + 60_000)
            return  # killed, after a minute without a word
        await peer.task_or_end()

    subscription = Subscription(config, os.geteuid(), clock=lambda: at)
    async with scripted(config.socket, script), running(subscription):
        await until_blind(subscription, logs)
    (interval,) = subscription.vision.intervals.last(1)
    assert (interval.reason, interval.from_boot_ns) == ("connection_lost", 1000 * SECOND_NS)


@pytest.mark.parametrize("code", [ErrorCode.UNSUPPORTED, ErrorCode.INVALID])
async def test_a_server_without_live_events_is_asked_once(
    config: AgentConfig, logs: LogTap, code: ErrorCode
) -> None:
    async def script(peer: Peer) -> None:
        await peer.negotiate()
        await peer.answer(failure((await peer.task()).task_id, "no live events", code))
        await peer.end()

    subscription = Subscription(config, os.geteuid())
    async with scripted(config.socket, script), running(subscription):
        await until_blind(subscription, logs)
    assert reasons(subscription.vision.intervals)[1] == "events_unsupported"
    assert "no live events" in subscription.vision.detail
    assert subscription.subscriptions == 1


async def test_a_server_that_knows_only_the_specification_has_no_events(
    config: AgentConfig, logs: LogTap
) -> None:
    async def script(peer: Peer) -> None:
        await peer.answer(failure((await peer.task()).task_id, "unknown task type"))
        await peer.end()

    subscription = Subscription(config, os.geteuid())
    async with scripted(config.socket, script), running(subscription):
        await until_blind(subscription, logs)
    assert reasons(subscription.vision.intervals)[1] == "legacy_server"


async def test_a_busy_server_is_asked_again(config: AgentConfig, logs: LogTap) -> None:
    refused = False

    async def script(peer: Peer) -> None:
        nonlocal refused
        if not refused:
            refused = True
            await peer.negotiate()
            await peer.answer(failure((await peer.task()).task_id, "full", ErrorCode.BUSY))
            return
        await begin(peer, INIT)
        await peer.task_or_end()

    subscription = Subscription(config, os.geteuid())
    async with scripted(config.socket, script), running(subscription):
        await logs.seen("blind_interval_ended", 2)
    assert reasons(subscription.vision.intervals) == ["agent_started", "refused_busy"]


async def test_a_socket_in_the_wrong_hands_is_told_apart(config: AgentConfig, logs: LogTap) -> None:
    async def never(peer: Peer) -> None:
        await peer.end()

    subscription = Subscription(config, os.geteuid() + 1)
    async with scripted(config.socket, never), running(subscription):
        await until_blind(subscription, logs)
    assert reasons(subscription.vision.intervals)[1] == "procmond_untrusted"


def report(*records: ProcessRecord, boot_id: str = BOOT_ID) -> SweepReport:
    answer = Answer(processes=records, boot_id=boot_id)
    inventory = take_inventory(answer)
    return SweepReport(
        inventory=inventory,
        answer=answer,
        counts=count(answer, inventory, None),
        duration_s=0.1,
        began_ns=now().boot_ns,
    )


async def test_what_a_sweep_finds_without_an_excuse_is_an_alarm_and_an_interval(
    config: AgentConfig, logs: LogTap
) -> None:
    async def script(peer: Peer) -> None:
        await begin(peer, INIT)
        await peer.task_or_end()

    subscription = Subscription(config, os.geteuid())
    keeper = subscription.keeper
    async with scripted(config.socket, script), running(subscription):
        await logs.seen("blind_interval_ended")
        while keeper.table.get((1, 1)) is None or subscription.vision.intervals.explains():
            await asyncio.sleep(SOON_S)
        keeper.swept(report(INIT))
        while keeper.last is None:
            await asyncio.sleep(SOON_S)
        assert (keeper.last.started, keeper.last.explained, keeper.repairs) == (0, True, 0)
        keeper.swept(report(INIT, CURL))
        (repaired,) = await logs.seen("table_repaired")
    assert (repaired["level"], repaired["explained"]) == ("warning", False)
    assert keeper.unexplained == 1
    assert reasons(subscription.vision.intervals)[-1] == "unexplained"
    assert logs.of("exec_found")[0]["found_by"] == "sweep"


@pytest.mark.parametrize("confession", ["", "changes of credentials are not seen"])
async def test_credentials_a_source_confesses_not_to_see_are_no_alarm(
    config: AgentConfig, logs: LogTap, confession: str
) -> None:
    known = msgspec.structs.replace(EBPF, event_source_reason=confession)

    async def script(peer: Peer) -> None:
        await begin(peer, INIT, SHELL, known=known)
        await peer.task_or_end()

    subscription = Subscription(config, os.geteuid())
    keeper = subscription.keeper
    async with scripted(config.socket, script), running(subscription):
        await logs.seen("blind_interval_ended")
        while subscription.vision.intervals.explains():
            await asyncio.sleep(SOON_S)
        keeper.swept(report(INIT, process(7, name="bash", effective_uid=0)))
        (repaired,) = await logs.seen("table_repaired")
    assert (repaired["changed"], repaired["explained"]) == (1, bool(confession))


async def test_without_events_sweeps_alone_tell_what_came_and_went(config: AgentConfig, logs: LogTap) -> None:
    subscription = Subscription(config, os.geteuid())
    keeper = subscription.keeper
    async with running(subscription):
        keeper.swept(report(INIT, SHELL))
        while not len(keeper.table):
            await asyncio.sleep(SOON_S)
        keeper.swept(report(INIT, CURL))
        (repaired,) = await logs.seen("table_repaired")
    assert (repaired["explained"], repaired["started"], repaired["ended"]) == (True, 1, 1)


async def test_weak_identities_are_compared_with_nothing(config: AgentConfig, logs: LogTap) -> None:
    subscription = Subscription(config, os.geteuid())
    subscription.keeper.swept(report(INIT, boot_id=""))
    await asyncio.sleep(3 * SOON_S)
    assert len(subscription.keeper.table) == 0


async def test_identities_of_another_boot_are_forgotten(config: AgentConfig, logs: LogTap) -> None:
    async def script(peer: Peer) -> None:
        task = await begin(peer, INIT, SHELL)
        frame = DetectionResult(
            task_id=task.task_id,
            success=True,
            more=True,
            sequence=1,
            boot_id="another",
            events=numbered(execution(CURL), first=4),
        )
        await peer.answer(frame)
        await peer.task_or_end()

    subscription = Subscription(config, os.geteuid())
    async with scripted(config.socket, script), running(subscription):
        await logs.seen("exec_seen")
        assert list(subscription.keeper.table) == [(9, 9)]


def test_a_tick_is_what_the_kernel_counts_in() -> None:
    assert TICK_NS * os.sysconf("SC_CLK_TCK") == 1_000_000_000

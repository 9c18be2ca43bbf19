"""The agent against a scripted procmond: what it sweeps, says, survives."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
import structlog

from agent.client import Client
from agent.config import AgentConfig, ClientSettings
from agent.inventory import SweepReport
from agent.service import Agent, serve
from common.messages import (
    CollectionOptions,
    CollectionSummary,
    DetectionResult,
    ErrorCode,
    EventSource,
    Loss,
    ProcessRecord,
    failure,
    success,
)
from tests.support.logtap import LogTap
from tests.support.peer import CAPABILITIES, Peer, scripted, whole

PATIENCE_S = 20.0
"""Ends a test that hangs; no test waits for it."""

SOON_S = 0.01
"""Seconds of every interval and wait the agent is configured with."""

INIT = ProcessRecord(pid=1, start_ticks=1)
SHELL = ProcessRecord(pid=2, start_ticks=5)


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
        scan_interval=SOON_S,
        client=ClientSettings(backoff_base=SOON_S, backoff_cap=SOON_S, breaker_cool_down=SOON_S),
    )


@contextlib.asynccontextmanager
async def running(agent: Agent) -> AsyncIterator[None]:
    """The agent at work; stopped, as a signal would, when the block ends."""
    stop = asyncio.Event()
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        group.create_task(serve(agent, stop), name="serve")
        try:
            yield
        finally:
            stop.set()


async def answer_for_ever(peer: Peer, *sweeps: tuple[ProcessRecord, ...]) -> None:
    """Answer each sweep in turn, then the last one again and again until the agent leaves."""
    await peer.negotiate()
    number = 0
    while (task := await peer.task_or_end()) is not None:
        records = sweeps[min(number, len(sweeps) - 1)]
        await peer.answer(whole(task, processes=records, boot_id="boot"))
        number += 1


async def test_a_sweep_asks_for_every_fact_and_is_one_line(config: AgentConfig, logs: LogTap) -> None:
    summary = CollectionSummary(
        processes_vanished=1, executables_hashed=2, losses=(Loss(reason="collector_lost", count=3),)
    )

    async def script(peer: Peer) -> None:
        await peer.negotiate()
        task = await peer.task()
        assert task.options == CollectionOptions(environment=True)
        assert task.stream
        assert task.deadline_ms == 30_000
        await peer.answer(whole(task, processes=(INIT,), boot_id="boot", summary=summary))
        await peer.task_or_end()

    async with scripted(config.socket, script), running(Agent(config, os.geteuid())):
        (completed,) = await logs.seen("sweep_completed")
    assert completed["processes"] == completed["new"] == 1
    assert (completed["vanished"], completed["hashed"], completed["gone"]) == (1, 2, 0)
    assert completed["losses"] == {"collector_lost": 3}
    assert completed["weak_keys"] is False
    assert completed["duration_ms"] > 0
    assert completed["counters"]["unknown"] == 0
    assert logs.events[0] == "procmond_connected"
    assert logs.events[-1] == "agent_stopped"


async def test_sweeps_follow_each_other_and_each_is_handed_on(config: AgentConfig) -> None:
    reports: asyncio.Queue[SweepReport] = asyncio.Queue()

    async def script(peer: Peer) -> None:
        await answer_for_ever(peer, (INIT,), (INIT, SHELL), (SHELL,))

    agent = Agent(config, os.geteuid(), on_sweep=reports.put_nowait)
    async with scripted(config.socket, script), running(agent):
        seen = [(await reports.get()).counts for _ in range(3)]
    assert [(one.processes, one.new, one.gone) for one in seen] == [(1, 1, 0), (2, 1, 0), (1, 0, 1)]
    assert agent.inventory is not None
    assert list(agent.inventory.records.values()) == [SHELL]


async def test_a_sweep_that_is_refused_or_ends_early_changes_nothing(
    config: AgentConfig, logs: LogTap
) -> None:
    async def script(peer: Peer) -> None:
        await peer.negotiate()
        await peer.answer(whole(await peer.task(), processes=(INIT,), boot_id="boot"))
        await peer.answer(failure((await peer.task()).task_id, "full", ErrorCode.BUSY))
        task = await peer.task()
        await peer.answer(whole(task, processes=(SHELL,), success=False, error_code=ErrorCode.DEADLINE))
        await peer.answer(whole(await peer.task(), processes=(INIT,), boot_id="boot"))
        await peer.task_or_end()

    async with scripted(config.socket, script), running(Agent(config, os.geteuid())):
        _, completed = await logs.seen("sweep_completed", 2)
    assert (completed["new"], completed["gone"]) == (0, 0)
    assert [
        (type(one["exc_info"]).__name__, one["processes_received"]) for one in logs.of("sweep_failed")
    ] == [
        ("Busy", 0),
        ("DeadlineExceeded", 1),
    ]
    assert "procmond_unreachable" not in logs.events


async def test_a_procmond_lost_in_mid_answer_is_reported_once_and_found_again(
    config: AgentConfig, logs: LogTap
) -> None:
    async def dying(peer: Peer) -> None:
        await peer.negotiate()
        task = await peer.task()
        await peer.answer(DetectionResult(task_id=task.task_id, success=True, more=True))

    async def answering_once(peer: Peer) -> None:
        await peer.negotiate()
        await peer.answer(whole(await peer.task(), processes=(INIT,), boot_id="boot"))

    async with running(Agent(config, os.geteuid())):
        async with scripted(config.socket, dying):
            await logs.seen("sweep_failed")
        os.unlink(config.socket)
        await logs.seen("breaker_opened")
        async with scripted(config.socket, answering_once):
            await logs.seen("sweep_completed")
    story = [event for event in logs.events if event not in {"sweeps_skipped", "agent_stopped"}]
    assert story[:6] == [
        "procmond_connected",
        "sweep_failed",
        "procmond_unreachable",
        "breaker_opened",
        "procmond_reconnected",
        "sweep_completed",
    ]
    (again,) = logs.of("procmond_reconnected")[:1]
    assert again["failures"] >= 5
    assert logs.of("sweep_completed")[0]["counters"]["reconnects"] == 1


async def test_a_procmond_that_goes_between_sweeps_is_noticed_at_once(
    config: AgentConfig, logs: LogTap
) -> None:
    async def script(peer: Peer) -> None:
        await peer.negotiate()
        if (task := await peer.task_or_end()) is not None:
            await peer.answer(whole(task))

    rarely = msgspec.structs.replace(config, scan_interval=3600.0)
    async with scripted(config.socket, script), running(Agent(rarely, os.geteuid())):
        (lost,) = await logs.seen("procmond_unreachable")
        await logs.seen("procmond_reconnected")
    assert type(lost["exc_info"]).__name__ == "ConnectionLost"


async def test_a_silent_procmond_is_left_after_the_deadline(
    config: AgentConfig, logs: LogTap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.service.Client", functools.partial(Client, grace_s=SOON_S))

    async def silent(peer: Peer) -> None:
        await peer.negotiate()
        while await peer.task_or_end() is not None:
            pass

    settings = msgspec.structs.replace(config.client, call_deadline=SOON_S)
    agent = Agent(msgspec.structs.replace(config, client=settings), os.geteuid())
    async with scripted(config.socket, silent), running(agent):
        await logs.seen("procmond_reconnected")
    assert logs.of("procmond_unreachable")[0]["exc_info"].code == ErrorCode.DEADLINE
    assert agent.counters.expired >= 1


async def test_a_socket_in_the_wrong_hands_is_a_line_of_its_own(config: AgentConfig, logs: LogTap) -> None:
    async def never(peer: Peer) -> None:
        await peer.end()

    async with running(Agent(config, os.geteuid() + 1)):
        await logs.seen("breaker_opened")
        async with scripted(config.socket, never):
            first, second = await logs.seen("procmond_unreachable", 2)
    assert (first["untrusted"], second["untrusted"]) == (False, True)


async def test_a_legacy_procmond_gives_weak_identities_and_it_is_said(
    config: AgentConfig, logs: LogTap
) -> None:
    async def script(peer: Peer) -> None:
        await peer.answer(failure((await peer.task()).task_id, "unknown task type"))
        while (task := await peer.task_or_end()) is not None:
            await peer.answer(success(task.task_id, (ProcessRecord(pid=1, start_time=9),)))

    async with scripted(config.socket, script), running(Agent(config, os.geteuid())):
        (completed,) = (await logs.seen("sweep_completed"))[:1]
    assert completed["weak_keys"] is True
    assert completed["vanished"] is None
    assert "procmond_legacy" in logs.events


async def test_sweeps_missed_while_one_takes_long_are_counted(config: AgentConfig, logs: LogTap) -> None:
    async def slow(peer: Peer) -> None:
        await peer.negotiate()
        while (task := await peer.task_or_end()) is not None:
            await asyncio.sleep(3 * SOON_S)  # takes three intervals
            await peer.answer(whole(task))

    async with scripted(config.socket, slow), running(Agent(config, os.geteuid())):
        (skipped,) = await logs.seen("sweeps_skipped")
    assert skipped["count"] >= 1


async def test_stopping_does_not_wait_for_a_procmond_that_hangs(config: AgentConfig, logs: LogTap) -> None:
    asked = asyncio.Event()

    async def hanging(peer: Peer) -> None:
        await peer.negotiate()
        await peer.task()
        asked.set()
        await peer.end()

    async with scripted(config.socket, hanging), asyncio.timeout(5), running(Agent(config, os.geteuid())):
        await asked.wait()
    assert logs.events[-1] == "agent_stopped"


async def test_a_shorter_interval_ends_the_wait_for_the_next_sweep(config: AgentConfig, logs: LogTap) -> None:
    async def script(peer: Peer) -> None:
        await answer_for_ever(peer, (INIT,))

    agent = Agent(msgspec.structs.replace(config, scan_interval=3600.0), os.geteuid())
    async with scripted(config.socket, script), running(agent):
        await logs.seen("sweep_completed")
        agent.reconfigure(config)
        await logs.seen("sweep_completed", 3)


async def test_many_gaps_cost_one_early_sweep_and_one_question(config: AgentConfig, logs: LogTap) -> None:
    asked_anew = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.negotiate()
        await peer.answer(whole(await peer.task(), processes=(INIT,), boot_id="boot"))
        response = msgspec.structs.replace(CAPABILITIES, event_source=EventSource.POLLING)
        await peer.negotiate(response)
        await peer.answer(whole(await peer.task(), processes=(INIT,), boot_id="boot"))
        await peer.end()

    rarely = msgspec.structs.replace(config, scan_interval=3600.0)
    agent = Agent(rarely, os.geteuid(), on_capabilities=asked_anew.set)
    async with scripted(config.socket, script), running(agent):
        await logs.seen("sweep_completed")
        for _ in range(5):
            agent.resync()
        await asked_anew.wait()
        await logs.seen("sweep_completed", 2)
    assert agent.capabilities is not None
    assert agent.capabilities.event_source is EventSource.POLLING


async def test_a_gap_told_while_procmond_is_away_is_made_good_when_it_is_back(
    config: AgentConfig, logs: LogTap
) -> None:
    connections = 0

    async def script(peer: Peer) -> None:
        nonlocal connections
        connections += 1
        await peer.negotiate()
        if connections > 1:
            await peer.negotiate()  # asked anew, because events were lost
        await peer.answer(whole(await peer.task()))
        if connections > 1:
            await peer.end()

    rarely = msgspec.structs.replace(config, scan_interval=3600.0)
    agent = Agent(rarely, os.geteuid())
    async with scripted(config.socket, script), running(agent):
        await logs.seen("procmond_unreachable")
        agent.resync()
        await logs.seen("sweep_completed", 2)


async def test_a_sweep_knows_when_it_was_begun(config: AgentConfig) -> None:
    async def script(peer: Peer) -> None:
        await answer_for_ever(peer, (INIT,))

    reports: asyncio.Queue[SweepReport] = asyncio.Queue()
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    agent = Agent(config, os.geteuid(), on_sweep=reports.put_nowait)
    async with scripted(config.socket, script), running(agent):
        report = await reports.get()
    assert before <= report.began_ns <= time.clock_gettime_ns(time.CLOCK_BOOTTIME)

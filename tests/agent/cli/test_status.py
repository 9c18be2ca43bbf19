"""`capabilities` and `status` against a procmond that follows a script."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
import pytest

from agent.cli.status import AgentState, ProcmondState, agent_state, capability_lines, status_lines
from agent.config import AgentConfig, ControlAccess
from agent.control import Control
from agent.control_messages import BlindInterval, Events, Sight, Status
from agent.main import LOCK_NAME
from common.listening import Listener
from common.messages import (
    AdvancedCapabilities,
    CapabilityResponse,
    CollectionCapabilities,
    CollectionSummary,
    DetectionResult,
    DetectionTask,
    EventSource,
    Loss,
    MonitoringDomain,
    Permission,
    ProcessEventKind,
    TaskType,
)
from tests.agent.cli.records import record
from tests.agent.cli.server import Cli
from tests.support.privilege import needs_root

HOLD = """
import sys
from common.service import InstanceLock
with InstanceLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""
FULL = CapabilityResponse(
    negotiation_success=True,
    capabilities=CollectionCapabilities(
        supported_domains=(MonitoringDomain.PROCESS,), advanced=AdvancedCapabilities(system_wide=True)
    ),
    server_version="1.2.3",
    protocol_version=1,
    task_types=(TaskType.ENUMERATE_PROCESSES, TaskType.CANCEL_TASK),
    digests=("sha256", "md5"),
    event_source=EventSource.PROCESS_CONNECTOR,
    event_source_reason="no BTF",
    max_frame_size=1048576,
    max_tasks_in_flight=16,
    retained_capabilities=("cap_sys_ptrace",),
    confined=True,
    collector="procfs",
    permission=Permission.QUERY,
    limitations=("hidepid hides others",),
)


def one_process(task: DetectionTask) -> Iterable[DetectionResult]:
    summary = CollectionSummary(processes_seen=5, processes_vanished=2, duration_us=30_000)
    yield DetectionResult(success=True, processes=(record(1),), summary=summary, boot_id="b0")


def test_every_capability_is_told(cli: Cli) -> None:
    outcome = cli.ask(one_process, "capabilities", capabilities=FULL)
    assert outcome.status == 0
    for fact in (
        "1.2.3",
        "query",
        "procfs",
        "process connector (no BTF)",
        "yes",
        "cap_sys_ptrace",
        "enumerate_processes, cancel_task",
        "sha256, md5",
        "system_wide",
        "1,048,576 bytes",
        "16 tasks",
        "hidepid hides others",
    ):
        assert fact in outcome.out


def test_no_field_of_the_capabilities_is_forgotten() -> None:
    told = dict(capability_lines(FULL))
    for field in FULL.__struct_fields__:
        empty = msgspec.structs.replace(FULL, **{field: getattr(CapabilityResponse(), field)})
        if field != "error_message":  # set only when negotiation failed
            assert dict(capability_lines(empty)) != told, field


def test_capabilities_for_programs_have_the_schemas_names(cli: Cli) -> None:
    document = json.loads(cli.ask(one_process, "capabilities", "--format", "json", capabilities=FULL).out)
    assert set(document) <= set(CapabilityResponse.__struct_fields__)
    assert document["event_source"] == "process_connector"
    assert document["capabilities"]["supported_domains"] == ["process"]


def test_an_old_procmond_has_no_capabilities(cli: Cli) -> None:
    outcome = cli.ask(one_process, "capabilities", capabilities=None)
    assert (outcome.status, outcome.out) == (4, "")


@contextlib.contextmanager
def agent_at(path: Path, status: Status) -> Iterator[list[str]]:
    """An agent's control socket that answers `status`; the arguments that name it."""
    ready, stop = threading.Event(), threading.Event()
    access = ControlAccess(frozenset({os.geteuid()}), frozenset(), os.getegid())

    async def serve() -> None:
        with contextlib.closing(Listener(str(path), os.getegid())) as listener:
            server = Control(listener.open(), access, lambda _intervals: status)
            async with asyncio.TaskGroup() as group:
                task = group.create_task(server.run(), name="control")
                ready.set()
                await asyncio.to_thread(stop.wait)
                task.cancel()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), name="agent")
    thread.start()
    try:
        assert ready.wait(10)
        yield ["--control-socket", str(path)]
    finally:
        stop.set()
        thread.join(10)
    assert not thread.is_alive()


SEEING = Status(version="1.2.3", events=Events(sight=Sight.LIVE, last_event_ms=1, received=7))
BLIND = Status(
    version="1.2.3",
    events=Events(sight=Sight.BLIND, detail="it left"),
    intervals=(BlindInterval(reason="connection_lost", from_ms=1),),
    intervals_total=1,
)


def test_status_tells_of_procmond_and_agent(cli: Cli, tmp_path: Path) -> None:
    with agent_at(tmp_path / "c.sock", SEEING) as arguments:
        outcome = cli.ask(one_process, "status", "--state-dir", str(tmp_path), *arguments, capabilities=FULL)
    assert outcome.status == 0
    assert outcome.out.startswith("seeing   quiet: ")
    assert "1.2.3, answers in" in outcome.out
    assert "5 processes in 0.03s" in outcome.out
    assert "hidepid hides others" in outcome.out
    assert f"answers, pid {os.getpid()}, uid {os.geteuid()}" in outcome.out
    assert "7 received" in outcome.out


def test_a_blind_agent_is_a_degraded_answer(cli: Cli, tmp_path: Path) -> None:
    with agent_at(tmp_path / "c.sock", BLIND) as arguments:
        outcome = cli.ask(one_process, "status", *arguments, capabilities=FULL)
    assert outcome.status == 4
    assert outcome.out.startswith("BLIND for ")


def test_without_the_agent_it_is_unknown_and_status_3(cli: Cli, tmp_path: Path) -> None:
    arguments = ("--state-dir", str(tmp_path), "--control-socket", str(tmp_path / "none.sock"))
    outcome = cli.ask(one_process, "status", *arguments, capabilities=FULL)
    assert outcome.status == 3
    assert outcome.out.startswith("UNKNOWN")
    assert f"agent           not running (no lock in {tmp_path})" in outcome.out
    assert outcome.err.startswith(f"daemoneye: cannot reach daemoneye-agent at {tmp_path}/none.sock: ")


def test_without_procmond_a_blind_agent_is_still_status_3(cli: Cli, tmp_path: Path) -> None:
    with agent_at(tmp_path / "c.sock", BLIND) as arguments:
        outcome = cli.run("status", "--socket", str(tmp_path / "none.sock"), *arguments)
    assert outcome.status == 3
    assert "BLIND" in outcome.out


def test_what_procmond_lost_is_told_by_reason_and_kind(cli: Cli, tmp_path: Path) -> None:
    losses = (
        Loss(reason="kernel_ring_full", count=12, kind=ProcessEventKind.EXEC),
        Loss(reason="peers_refused", count=0),
    )
    procmond = ProcmondState(account=CollectionSummary(events_delivered=1234, losses=losses))
    told = dict(status_lines(AgentConfig(), procmond, AgentState(None, None, "?"), None, 0))
    assert told["  delivered"] == "1,234 events"
    assert told["  lost"] == "12 exec (kernel_ring_full)"


def test_the_agents_state_is_in_the_document(cli: Cli, tmp_path: Path) -> None:
    with agent_at(tmp_path / "c.sock", BLIND) as arguments:
        outcome = cli.ask(one_process, "status", "--format", "json", *arguments, capabilities=FULL)
    agent = json.loads(outcome.out)["agent"]
    assert agent["reachable"] is True
    assert agent["status"]["events"]["sight"] == "blind"
    assert agent["status"]["intervals"][0]["reason"] == "connection_lost"
    assert "to_ms" not in agent["status"]["intervals"][0]


def test_status_is_a_document_too(cli: Cli, tmp_path: Path) -> None:
    arguments = ("status", "--state-dir", str(tmp_path), "--format", "json")
    document = json.loads(cli.ask(one_process, *arguments, capabilities=FULL).out)
    assert document["procmond"]["reachable"] is True
    assert document["procmond"]["summary"]["processes_seen"] == 5
    assert document["procmond"]["capability_response"]["collector"] == "procfs"
    assert document["agent"]["running"] is False


def test_without_procmond_the_rest_is_told(cli: Cli, tmp_path: Path) -> None:
    outcome = cli.run(
        "status", "--socket", str(tmp_path / "none.sock"), "--state-dir", str(tmp_path), "--format", "json"
    )
    document = json.loads(outcome.out)
    assert outcome.status == 3
    assert outcome.err.startswith(f"daemoneye: cannot reach procmond at {tmp_path}/none.sock: ")
    assert document["procmond"]["reachable"] is False
    assert "start procmond" in document["procmond"]["error_message"]
    assert document["agent"]["running"] is False


def test_a_running_agent_is_known_by_its_lock(tmp_path: Path) -> None:
    lock = tmp_path / LOCK_NAME
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            HOLD,
            str(lock),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert agent_state(str(tmp_path))[:2] == (True, holder.pid)
        assert holder.stdin is not None
        holder.stdin.close()
    assert agent_state(str(tmp_path))[:2] == (False, None)


def test_a_state_directory_that_is_not_there_has_no_agent(tmp_path: Path) -> None:
    assert agent_state(str(tmp_path / "none"))[:2] == (False, None)
    (tmp_path / "file").touch()
    assert agent_state(str(tmp_path / "file"))[:2] == (False, None)


@needs_root
def test_what_may_not_be_looked_at_is_not_called_absent(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    (private / LOCK_NAME).touch()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setresuid(65534, 65534, 65534)
            os.write(writer, repr(agent_state(str(private)).running).encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(pid, 0)
    with os.fdopen(reader) as stream:
        assert stream.read() == "None"


@pytest.mark.parametrize("format_name", ["json", "jsonl", "csv"])
def test_every_format_has_one_record(cli: Cli, format_name: str) -> None:
    lines = cli.ask(one_process, "capabilities", "--format", format_name, capabilities=FULL).out.splitlines()
    assert len(lines) == (2 if format_name == "csv" else 1)

"""`capabilities` and `status` against a procmond that follows a script."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest

from agent.cli.status import agent_state, capability_lines
from agent.main import LOCK_NAME
from common.messages import (
    AdvancedCapabilities,
    CapabilityResponse,
    CollectionCapabilities,
    CollectionSummary,
    DetectionResult,
    DetectionTask,
    EventSource,
    MonitoringDomain,
    Permission,
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


def test_status_tells_of_procmond_and_agent(cli: Cli, tmp_path: Path) -> None:
    outcome = cli.ask(one_process, "status", "--state-dir", str(tmp_path), capabilities=FULL)
    assert outcome.status == 0
    assert "1.2.3, answers in" in outcome.out
    assert "5 processes in 0.03s" in outcome.out
    assert "hidepid hides others" in outcome.out
    assert f"agent           not running (no lock in {tmp_path})" in outcome.out


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

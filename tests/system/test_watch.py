"""Live events from the real procmond to a person, to the agent's log, and over a crash of all of procmond."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from common.messages import (
    CapabilityRequest,
    CapabilityResponse,
    DetectionTask,
    EventSource,
    TaskType,
)
from tests.support.daemons import Procmond, eventually, public_directory
from tests.support.privilege import needs_root

PATIENCE_S = 30.0
RUNS = 50
FROM_KERNEL = (EventSource.EBPF, EventSource.PROCESS_CONNECTOR)

pytestmark = needs_root


def known_of(procmond: Procmond) -> CapabilityResponse:
    with procmond.connect() as client:
        request = CapabilityRequest(client_id="test", protocol_version=1)
        task_type = TaskType.NEGOTIATE_CAPABILITIES
        answer = client.ask(DetectionTask(task_id="n", task_type=task_type, capability_request=request))
    known = answer[-1].capability_response
    assert known is not None
    return known


@pytest.fixture
def procmond() -> Iterator[Procmond]:
    """One of the test's own, whose events come from the kernel."""
    with Procmond("--allow-user", "root") as running:
        known = known_of(running)
        if known.event_source not in FROM_KERNEL:
            pytest.skip(f"no events from the kernel here: {known.event_source_reason}")
        yield running


class Lines:
    """A program, and the JSON lines it writes to one of its outputs."""

    def __init__(self, *argv: str, errors: bool = False) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", *argv],
            stdout=None if errors else subprocess.PIPE,
            stderr=subprocess.PIPE if errors else None,
        )
        self.documents: list[dict[str, Any]] = []
        self._stream = self.process.stderr if errors else self.process.stdout
        self._reader = threading.Thread(target=self._read, name="lines")
        self._reader.start()

    def of(self, event: str) -> list[dict[str, Any]]:
        return [one for one in tuple(self.documents) if one.get("event") == event]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        self._reader.join(PATIENCE_S)
        self.process.wait(PATIENCE_S)
        assert self._stream is not None
        self._stream.close()

    def _read(self) -> None:
        assert self._stream is not None
        for line in self._stream:
            if line.startswith(b"{"):
                self.documents.append(json.loads(line))


@contextlib.contextmanager
def agent(procmond: Procmond, interval_s: float = 1.0) -> Iterator[tuple[Lines, list[str]]]:
    """An agent of procmond's, and the arguments that name it."""
    directory = public_directory()
    place = ["--state-dir", directory, "--control-socket", f"{directory}/control.sock"]
    config = Path(directory, "agent.toml")
    config.write_text(f"scan_interval = {interval_s}\n")
    arguments = ["--socket", procmond.socket, *place]
    with Lines("agent.main", "--config", str(config), *arguments, errors=True) as running:
        eventually(lambda: running.of("blind_interval_ended"), PATIENCE_S)
        yield running, arguments
    for name in os.listdir(directory):
        os.unlink(f"{directory}/{name}")
    os.rmdir(directory)


def status(arguments: list[str]) -> tuple[int, dict[str, Any]]:
    command = [sys.executable, "-m", "agent.cli.main", "status", "--format", "json", *arguments]
    result = subprocess.run(command, capture_output=True, timeout=PATIENCE_S, check=False)
    told: dict[str, Any] = json.loads(result.stdout)
    return result.returncode, told["agent"]["status"]


def run_tagged(tag: str) -> None:
    """As fast as one shell can start them."""
    script = f"for i in $(seq {RUNS}); do /bin/true {tag}$i; done"
    subprocess.run(["/bin/bash", "-c", script], check=True, timeout=PATIENCE_S)


def tagged(tag: str) -> set[str]:
    return {f"{tag}{number}" for number in range(1, RUNS + 1)}


def test_watch_shows_every_exec_with_its_arguments(procmond: Procmond) -> None:
    command = ("agent.cli.main", "--socket", procmond.socket, "watch", "--format", "jsonl", "--snapshot")
    with Lines(*command) as watch:
        eventually(lambda: any(one["kind"] == "snapshot_end" for one in tuple(watch.documents)), PATIENCE_S)
        run_tagged("watched")

        def seen() -> set[str]:
            arguments = [
                one["process"]["command_line"] for one in tuple(watch.documents) if one["kind"] == "exec"
            ]
            return {one[1] for one in arguments if len(one) == 2} & tagged("watched")

        if known_of(procmond).event_source is EventSource.EBPF:
            assert eventually(lambda: seen() == tagged("watched"), PATIENCE_S)
        else:
            assert eventually(seen, PATIENCE_S)
        watch.process.send_signal(signal.SIGINT)
        assert watch.process.wait(PATIENCE_S) == 0
    assert not [one for one in watch.documents if one["kind"] == "gap"]
    numbers = [one["sequence"] for one in watch.documents]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_the_agents_log_is_a_record_of_what_ran_and_sweeps_find_nothing_more(procmond: Procmond) -> None:
    with agent(procmond) as (running, arguments):
        run_tagged("recorded")

        def recorded() -> list[dict[str, Any]]:
            return [one for one in running.of("exec_seen") if set(one["arguments"]) & tagged("recorded")]

        assert eventually(lambda: len(recorded()) == RUNS, PATIENCE_S)
        sweeps = len(running.of("sweep_completed"))
        eventually(lambda: len(running.of("sweep_completed")) >= sweeps + 3, PATIENCE_S)
        code, told = status(arguments)
    entry = recorded()[-1]
    assert (entry["user"], entry["uid"]) == ("root", 0)
    assert os.path.basename(entry["parent_image"]) == "bash"
    assert len(entry["sha256"]) == 64
    assert entry["hash_provenance"] in ("proc", "file")
    assert (code, told["events"]["sight"]) == (0, "live")
    assert told["events"]["unexplained"] == 0
    assert told["intervals_total"] == 1
    troubles = {one["event"] for one in running.documents if one["level"] not in ("info", "debug")}
    assert troubles <= {"sweeps_skipped"}  # a second may be too short for one on a busy machine


@contextlib.contextmanager
def load() -> Iterator[None]:
    """Processes that start and end, as fast as one shell can start them, until the block ends."""
    with subprocess.Popen(["/bin/sh", "-c", "while :; do /bin/true load; done"]) as shell:
        try:
            yield
        finally:
            shell.kill()


def test_a_crash_of_all_of_procmond_is_one_interval_and_what_started_meanwhile_is_found(
    procmond: Procmond,
) -> None:
    with agent(procmond) as (running, arguments), load():
        assert procmond.process is not None
        children = procmond.children()
        procmond.process.kill()
        procmond.process.wait()
        for pid in children.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        eventually(lambda: len(running.of("blind_interval_began")) == 2, PATIENCE_S)
        code, blind = status(arguments)
        assert (code, blind["events"]["sight"]) == (3, "blind")
        assert "to_ms" not in blind["intervals"][-1]
        with subprocess.Popen(["/bin/sleep", "1000"]) as unseen:
            procmond.start()
            try:
                eventually(lambda: running.of("table_repaired"), PATIENCE_S)
                eventually(lambda: running.of("procmond_reconnected"), PATIENCE_S)
                eventually(lambda: len(running.of("blind_interval_ended")) == 2, PATIENCE_S)
                found = running.of("exec_found")
                code, told = status(arguments)
            finally:
                unseen.kill()
    assert unseen.pid in [one["pid"] for one in found]
    # The front may have time for last words, or not.
    reasons = [one["reason"] for one in told["intervals"]]
    assert reasons in (["agent_started", "connection_lost"], ["agent_started", "procmond_stopped"])
    interval = told["intervals"][-1]
    assert interval["from_ms"] < interval["to_ms"]
    assert interval["repaired"] is True
    assert (told["events"]["sight"], told["events"]["unexplained"]) == ("live", 0)
    assert code != 3

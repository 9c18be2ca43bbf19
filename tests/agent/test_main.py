"""`daemoneye-agent` as a process: exit statuses, signals, one instance, and JSON lines alone on stderr."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.main import EXIT_USAGE, LOCK_NAME, main
from common.messages import DetectionResult, EventSource, ProcessRecord
from tests.support.peer import CAPABILITIES, Peer, scripted, whole
from tests.support.stories import numbered, snapshot_end

PATIENCE_S = 30.0
"""Ends a test that hangs; no test waits for it."""

STOP_S = 5.0
"""Seconds in which the agent ends after SIGTERM, as promised."""

TICK_MS = 10
"""Of the clock that file times are taken from, at CONFIG_HZ=100."""

COMMAND = (sys.executable, "-m", "agent.main")


class Running:
    """An agent of its own, and what it logs."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.entries: list[dict[str, Any]] = []

    async def seen(self, event: str) -> dict[str, Any]:
        """Read its log until the next such entry. Every line on the way must be JSON."""
        assert self.process.stderr is not None
        while line := await self.process.stderr.readline():
            entry: dict[str, Any] = json.loads(line)
            self.entries.append(entry)
            if entry["event"] == event:
                return entry
        raise AssertionError(f"ended without {event}; it logged {self.entries}")

    async def stop(self) -> int:
        """Send SIGTERM; the exit status, which must come within STOP_S."""
        began = time.monotonic()
        self.process.terminate()
        await self.seen("agent_stopped")
        status = await self.process.wait()
        assert time.monotonic() - began < STOP_S
        return status


def environment(**more: str) -> Mapping[str, str]:
    return {**os.environ, "DAEMONEYE_AGENT_SERVER_USER": str(os.geteuid()), **more}


@contextlib.asynccontextmanager
async def agent(tmp_path: Path, *flags: str) -> AsyncIterator[Running]:
    """An agent that asks `tmp_path/procmond.sock` and keeps its state in `tmp_path`."""
    async with asyncio.timeout(PATIENCE_S):
        process = await asyncio.create_subprocess_exec(
            *COMMAND,
            *("--socket", str(tmp_path / "procmond.sock"), "--state-dir", str(tmp_path)),
            *("--control-socket", str(tmp_path / "control.sock"), *flags),
            env=environment(),
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            yield Running(process)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.communicate()


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line with which `main` refuses to start."""
    assert main(argv) == EXIT_USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("daemoneye-agent: ")
    return captured.err


def test_a_missing_state_directory_is_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = str(tmp_path / "nowhere")
    line = refused(capsys, "--state-dir", missing)
    assert "--state-dir" in line
    assert missing in line
    assert not os.path.exists(missing)


def test_an_unwritable_state_directory_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    # Nobody, root included, makes files in /proc.
    assert "/proc/agent.lock" in refused(capsys, "--state-dir", "/proc")


def test_something_else_in_the_place_of_the_lock_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / LOCK_NAME).mkdir()
    assert LOCK_NAME in refused(capsys, "--state-dir", str(tmp_path))
    assert (tmp_path / LOCK_NAME).is_dir()


def test_a_socket_path_too_long_is_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = "/" + "x" * 107
    assert "--socket" in refused(capsys, "--state-dir", str(tmp_path), "--socket", path)


def test_an_unknown_server_user_is_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAEMONEYE_AGENT_SERVER_USER", "nobody-has-this-name")
    line = refused(capsys, "--state-dir", str(tmp_path))
    assert "DAEMONEYE_AGENT_SERVER_USER" in line
    assert "nobody-has-this-name" in line


def test_check_config_shows_what_holds_and_starts_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = str(tmp_path / "nowhere")
    assert main(["--check-config", "--state-dir", missing]) == 0
    captured = capsys.readouterr()
    assert missing in captured.out
    assert captured.err == ""


async def test_a_second_instance_says_so_and_ends_with_2(tmp_path: Path) -> None:
    async with agent(tmp_path) as first:
        await first.seen("procmond_unreachable")
        second = subprocess.run(
            [*COMMAND, "--state-dir", str(tmp_path)],
            env=environment(),
            check=False,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert second.returncode == EXIT_USAGE
        assert second.stderr.count("\n") == 1
        assert f"already running, as pid {first.process.pid}" in second.stderr
        assert await first.stop() == 0


async def test_an_agent_without_procmond_says_so_once_and_ends_on_sigterm(tmp_path: Path) -> None:
    async with agent(tmp_path) as running:
        entry = await running.seen("procmond_unreachable")
        assert str(tmp_path / "procmond.sock") in entry["error"]
        await running.seen("breaker_opened")
        assert await running.stop() == 0
    assert [one["event"] for one in running.entries].count("procmond_unreachable") == 1


async def test_sigterm_in_mid_sweep_ends_it_though_procmond_hangs(tmp_path: Path) -> None:
    asked = asyncio.Semaphore(0)

    async def hanging(peer: Peer) -> None:
        await peer.negotiate()
        await peer.task()
        asked.release()
        await peer.end()

    async with scripted(str(tmp_path / "procmond.sock"), hanging), agent(tmp_path) as running:
        for _ in ("the sweep", "the events"):
            await asked.acquire()
        assert await running.stop() == 0


async def test_sighup_takes_over_a_good_configuration_and_refuses_a_bad_one(tmp_path: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.negotiate()
        while (task := await peer.task_or_end()) is not None:
            await peer.answer(whole(task, processes=(ProcessRecord(pid=1),), boot_id="boot"))

    file = tmp_path / "agent.toml"
    file.write_text("scan_interval = 3600\n")
    async with (
        scripted(str(tmp_path / "procmond.sock"), script),
        agent(tmp_path, "--config", str(file)) as running,
    ):
        assert (await running.seen("sweep_completed"))["processes"] == 1
        file.write_text("scan_interval = 'often'\n")
        running.process.send_signal(signal.SIGHUP)
        assert "scan_interval" in (await running.seen("config_refused"))["reason"]
        file.write_text("scan_interval = 1\n[client]\ncall_deadline = 9\n")
        running.process.send_signal(signal.SIGHUP)
        entry = await running.seen("config_reloaded")
        assert (entry["changed"], entry["needs_restart"]) == (["scan_interval"], ["client"])
        await running.seen("sweep_completed")
        assert await running.stop() == 0


async def test_its_blindness_begins_where_the_agent_before_it_stopped_seeing(tmp_path: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.negotiate(msgspec.structs.replace(CAPABILITIES, event_source=EventSource.EBPF))
        while (task := await peer.task_or_end()) is not None:
            if task.options is not None and task.options.live:
                shown = numbered(snapshot_end())
                await peer.answer(
                    DetectionResult(task_id=task.task_id, success=True, more=True, events=shown)
                )
            else:
                await peer.answer(whole(task, processes=(ProcessRecord(pid=1),), boot_id="boot"))

    async with scripted(str(tmp_path / "procmond.sock"), script):
        async with agent(tmp_path) as first:
            first_began = await first.seen("blind_interval_began")
            await first.seen("blind_interval_ended")
            stopping_ms = time.time_ns() // 1_000_000
            assert await first.stop() == 0
        starting_ms = time.time_ns() // 1_000_000
        async with agent(tmp_path) as second:
            began = await second.seen("blind_interval_began")
            await second.seen("blind_interval_ended")
            assert await second.stop() == 0
    assert first_began["detail"] == "no snapshot yet"
    assert (began["reason"], began["detail"]) == ("agent_started", "no agent saw what ran in between")
    assert stopping_ms - TICK_MS <= began["from_ms"] <= starting_ms

"""The parts of `up` that need no daemon; the whole is tested in tests/system/test_up.py."""

from __future__ import annotations

import os
import signal
import stat
import sys
import time
from pathlib import Path

import pytest

from agent.cli.daemons import Account, Child, Place, start, stop
from agent.cli.up import introduction, last_lines, suitable_directory, this_program
from common.errors import ConfigError
from common.setting import MAX_SOCKET_PATH_BYTES
from tests.support.daemons import eventually
from tests.support.privilege import needs_root

CHILDREN = (Child("procmond", 5, -1), Child("daemoneye-agent", 6, -1))


def told(own_uid: int) -> dict[str, str]:
    return dict(introduction(Place("/tmp/d"), *CHILDREN, Account(61200, 61200), own_uid))


def test_the_introduction_says_who_runs_as_whom() -> None:
    assert told(0)["procmond"] == "pid 5, runs as root (uid 0)"
    assert told(0)["daemoneye-agent"] == "pid 6, runs as uid 61200, which nothing else here has"
    assert "not seen" not in told(0)


def test_without_root_it_says_what_is_not_seen() -> None:
    assert "without root" in told(61200)["not seen"]
    assert told(61200)["ask it"].endswith("--socket /tmp/d/procmond.sock --server-user 61200 ps")
    assert told(61200)["its state"].endswith("--state-dir /tmp/d/state --server-user 61200 status")


def test_the_line_to_paste_names_the_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/opt/no such/daemoneye", "up"])
    assert told(0)["ask it"] == "'/opt/no such/daemoneye' --socket /tmp/d/procmond.sock ps"
    assert "--control-socket /tmp/d/state/control.sock" in told(0)["its state"]


def test_a_command_on_the_path_is_named_shortly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = tmp_path / "daemoneye"
    command.write_text("")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert this_program(str(command)) == ["daemoneye"]
    assert this_program("/elsewhere/daemoneye") == ["/elsewhere/daemoneye"]
    assert this_program("/x/agent/cli/main.py") == [sys.executable, "-m", "agent.cli.main"]


def test_a_place_leaves_room_for_the_sockets_name(tmp_path: Path) -> None:
    long = tmp_path / ("x" * MAX_SOCKET_PATH_BYTES)
    long.mkdir()
    assert suitable_directory([str(long), "/tmp"]) == "/tmp"
    with pytest.raises(ConfigError, match="set TMPDIR to a short path"):
        suitable_directory([str(long)])


@needs_root
def test_a_place_can_be_reached_by_any_uid(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    inner = tmp_path / "t"
    inner.mkdir(mode=0o755)
    assert suitable_directory([str(inner), str(tmp_path / "none"), "/tmp"]) == "/tmp"


def test_the_last_lines_of_a_log_are_found(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"line {number}\n" for number in range(20_000)))
    assert last_lines(str(log), 2) == ["line 19998", "line 19999"]
    assert last_lines(str(tmp_path / "none"), 2) == []


def test_a_child_logs_its_failure_and_ends(tmp_path: Path) -> None:
    def fail() -> int:
        raise RuntimeError("on purpose")

    log = tmp_path / "log"
    child = start("daemon", fail, str(log))
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    stop(child, 1)
    assert "on purpose" in log.read_text()
    assert "Traceback" not in log.read_text()
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_a_child_that_ignores_the_request_is_killed_with_its_children(tmp_path: Path) -> None:
    pids = tmp_path / "pids"

    def stubborn() -> int:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if (grandchild := os.fork()) == 0:
            while True:
                signal.pause()
        pids.write_text(f"{grandchild}\n")
        while True:
            signal.pause()

    child = start("daemon", stubborn, str(tmp_path / "log"))
    while not (pids.exists() and pids.read_text().endswith("\n")):
        os.sched_yield()
    began = time.monotonic()
    stop(child, 0.2)
    assert time.monotonic() - began < 3
    assert not os.path.exists(f"/proc/{child.pid}")
    grandchild = int(pids.read_text())
    eventually(lambda: not runs(grandchild))  # a kill takes a moment


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False

"""`daemoneye up` with the real daemons: who runs as whom, what is told, and that nothing is left."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import pytest

from agent.cli.identity import TRANSIENT_IDS
from tests.support.daemons import eventually
from tests.support.privilege import needs_root

ROOT = Path(__file__).parents[2]
SOMEBODY = 64_999  # no account and no process has it

# Fails where the interpreter's files cannot be read, on any machine: says which import came too late.
WATCH_IMPORTS = """
import os, sys

class Late:
    def find_spec(self, name, path=None, target=None):
        if os.getuid() != 0:
            os.write(2, f"LATE IMPORT {name}\\n".encode())
        return None

sys.meta_path.insert(0, Late())
from agent.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


class Running(NamedTuple):
    """A run that has told its inventory."""

    process: subprocess.Popen[str]
    procmond: int
    agent: int
    directory: str
    lines: list[str]


def up(
    *arguments: str,
    program: tuple[str, ...] = ("-m", "agent.cli.main"),
    stderr: int | IO[str] = subprocess.PIPE,
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *program, "up", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        start_new_session=True,
    )


def until_told(process: subprocess.Popen[str]) -> Running:
    """Read until the first live line: the inventory is out then."""
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if re.match(r"\d\d:\d\d:\d\d  sweep 2: ", line):
            break
    else:
        raise AssertionError(f"it ended early:\n{lines}\n{process.communicate()[1]}")
    text = "\n".join(lines)
    pids = [int(number) for number in re.findall(r"^\S+ +pid (\d+), runs as ", text, re.MULTILINE)]
    found = re.search(r"^socket +(\S+)/procmond\.sock$", text, re.MULTILINE)
    assert found is not None
    return Running(process, pids[0], pids[1], found[1], lines)


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    process = up()
    try:
        yield until_told(process)
    finally:
        process.terminate()
        process.communicate(timeout=10)


def ids(pid: int, label: str) -> set[str]:
    for line in Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines():
        if line.startswith(f"{label}:"):
            return set(line.split()[1:])
    raise AssertionError(label)


def in_group(leader: int) -> list[int]:
    """Processes of the group that `leader` leads."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = Path(f"/proc/{name}/stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        if fields[2] == str(leader) and fields[0] != "Z":
            found.append(int(name))
    return found


def assert_nothing_left(running: Running) -> None:
    assert not os.path.exists(running.directory)
    assert in_group(running.procmond) == []
    assert in_group(running.agent) == []


@needs_root
def test_procmond_is_root_and_the_agent_is_nobody_known(running: Running) -> None:
    assert ids(running.procmond, "Uid") == {"0"}
    (uid,) = ids(running.agent, "Uid")
    assert ids(running.agent, "Gid") == {uid}
    assert ids(running.agent, "Groups") == set()
    assert int(uid) in TRANSIENT_IDS
    assert f"runs as uid {uid}, which nothing else here has" in "\n".join(running.lines)
    assert os.stat(running.directory).st_mode & 0o777 == 0o750


def test_the_inventory_is_told(running: Running) -> None:
    text = "\n".join(running.lines)
    for label in (
        "Processes",
        "Executables",
        "  hashed",
        "Inaccessible",
        "Longest running",
        "Most interesting",
    ):
        assert re.search(rf"^{label}", text, re.MULTILINE), label
    counted = re.search(r"^Processes +([\d,]+)", text, re.MULTILINE)
    assert counted is not None
    assert int(counted[1].replace(",", "")) > 3
    report = running.lines[running.lines.index("First sweep") : -1]
    assert max(map(len, report)) <= 120


def test_the_line_to_paste_answers(running: Running) -> None:
    (line,) = [line for line in running.lines if line.startswith("ask it")]
    command = line.split(None, 2)[2] + " --format json --no-hashes"
    result = subprocess.run(
        command, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
    )
    pids = {process["pid"] for process in json.loads(result.stdout)["processes"]}
    assert {running.procmond, running.agent, os.getpid()} <= pids


def test_the_second_line_to_paste_tells_the_agents_state(running: Running) -> None:
    (line,) = [line for line in running.lines if line.startswith("its state")]
    command = line.split(None, 2)[2] + " --format json"
    result = subprocess.run(
        command, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )
    document = json.loads(result.stdout)
    agent, status = document["agent"], document["agent"]["status"]
    assert (agent["running"], agent["pid"]) == (True, running.agent)
    assert (agent["reachable"], status["pid"]) == (True, running.agent)
    assert document["procmond"]["reachable"] is True
    assert status["last_sweep"]["processes"] > 3
    # Where the kernel gives no events, the answer is told as degraded.
    assert result.returncode == (0 if status["events"]["sight"] == "live" else 4)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_within_five_seconds_and_nothing_is_left(number: signal.Signals) -> None:
    running = until_told(up())
    began = time.monotonic()
    running.process.send_signal(number)
    _, err = running.process.communicate(timeout=10)
    assert time.monotonic() - began < 5
    assert (running.process.returncode, err) == (0, "")
    assert_nothing_left(running)


def test_it_ends_by_itself_but_not_before_the_inventory() -> None:
    process = up("--for", "0.5s")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert "Most interesting" in out
    found = re.search(r"^socket +(\S+)/procmond\.sock$", out, re.MULTILINE)
    assert found is not None
    assert not os.path.exists(found[1])


def test_a_reader_that_goes_ends_it_silently() -> None:
    running = until_told(up())
    assert running.process.stdout is not None
    assert running.process.stderr is not None
    running.process.stdout.close()
    assert running.process.wait(timeout=15) == 0
    assert running.process.stderr.read() == ""
    running.process.stderr.close()
    assert_nothing_left(running)


@pytest.mark.parametrize("which", ["procmond", "agent"])
def test_a_daemon_that_dies_is_said_with_its_last_words(which: str) -> None:
    running = until_told(up())
    os.kill(running.procmond if which == "procmond" else running.agent, signal.SIGKILL)
    _, err = running.process.communicate(timeout=15)
    assert running.process.returncode == 3
    name = "procmond" if which == "procmond" else "daemoneye-agent"
    *words, last = err.splitlines()
    assert f"cannot reach {name}" in last
    assert any(f"daemoneye: {name}: " in line and '"event"' in line for line in words)
    assert_nothing_left(running)


def test_children_end_when_it_is_killed() -> None:
    running = until_told(up())
    running.process.kill()
    running.process.communicate(timeout=10)
    try:
        eventually(lambda: not in_group(running.procmond) and not in_group(running.agent))
    finally:
        shutil.rmtree(running.directory)


@needs_root
def test_nothing_is_imported_once_root_is_given_up(tmp_path: Path) -> None:
    with open(tmp_path / "err", "w") as log:  # a pipe nobody reads would be full of what runs here
        process = up("--verbose", program=("-c", WATCH_IMPORTS), stderr=log)
    until_told(process)
    process.terminate()
    process.communicate(timeout=10)
    err = (tmp_path / "err").read_text()
    assert process.returncode == 0, err
    assert '"sweep_completed"' in err  # the agent's log is what was looked at
    assert "LATE IMPORT" not in err


@needs_root
def test_an_ordinary_user_runs_both_and_hears_what_is_not_seen() -> None:
    command = command_for_everybody()
    if command is None:
        pytest.skip("no interpreter of this version, with this checkout, that other users can read")
    result = subprocess.run(
        [*command, "up", "--for", "1s"],
        check=False,
        capture_output=True,
        text=True,
        user=SOMEBODY,
        group=SOMEBODY,
        extra_groups=[],
        cwd="/",
        env={"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        timeout=60,
    )
    out = result.stdout
    assert (result.returncode, result.stderr) == (0, "")
    assert re.search(rf"^procmond +pid \d+, runs as uid {SOMEBODY}$", out, re.MULTILINE)
    assert re.search(rf"^daemoneye-agent +pid \d+, runs as uid {SOMEBODY}$", out, re.MULTILINE)
    assert re.search(r"^not seen +what processes of other users run", out, re.MULTILINE)
    assert f"--server-user {SOMEBODY}" in out
    assert "First sweep" in out
    assert "denied" in out  # what root runs


def command_for_everybody() -> list[str] | None:
    """The command by an interpreter that other users can run; root's own may lie in its home."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for interpreter in (sys.executable, f"/usr/bin/{name}", f"/usr/local/bin/{name}"):
        command = [interpreter, "-m", "agent.cli.main"]
        with contextlib.suppress(OSError):
            probe = subprocess.run(
                [*command, "--version"],
                check=False,
                capture_output=True,
                user=SOMEBODY,
                group=SOMEBODY,
                extra_groups=[],
                cwd="/",
                env={"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
            )
            if probe.returncode == 0:
                return command
    return None

"""What can be used to hear of every exec. One rule: all processor time of a contender counts, of all its
processes and threads, the kernel's own among them."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from tests.support.daemons import Procmond, eventually

Watcher = Callable[[], AbstractContextManager[Callable[[], list[int]]]]
"""Something that watches until the block ends; gives a function that names its processes."""

_AUDIT_KEY: Final = "daemoneye-bench"
_AUDIT_RULE: Final = ["always,exit", "-F", "arch=b64", "-S", "execve,execveat", "-k", _AUDIT_KEY]
_AUDIT_BACKLOG: Final = "8192"
"""As the rules that distributions ship set it; the kernel's 64 would lose nearly everything."""
_READER: Final = """
import sys
from tests.support.daemons import Client
from tests.support.live import live_task
client = Client(sys.argv[1])
client.sock.settimeout(None)
client.send(live_task())
while client.sock.recv(1 << 20):
    sys.stdout.write(".")
    sys.stdout.flush()
"""


class CannotRun(Exception):
    """A contender is not there, or this machine does not let it work; the message says which."""


def processor_s(pids: list[int]) -> float:
    """Processor time so far, of all their threads that live, to the nanosecond."""
    total = 0
    for pid in pids:
        for task in os.listdir(f"/proc/{pid}/task"):
            total += int(Path(f"/proc/{pid}/task/{task}/schedstat").read_bytes().split()[0])
    return total / 1e9


@contextlib.contextmanager
def procmond_alone() -> Iterator[Callable[[], list[int]]]:
    """Nobody listens: what it costs to be there."""
    with Procmond() as procmond:
        yield lambda: [procmond.pid, *procmond.children().values()]


@contextlib.contextmanager
def procmond_subscribed() -> Iterator[Callable[[], list[int]]]:
    """One subscriber takes every event, from a process of its own, which does not count."""
    with (
        Procmond() as procmond,
        subprocess.Popen([sys.executable, "-c", _READER, procmond.socket], stdout=subprocess.PIPE) as reader,
    ):
        assert reader.stdout is not None
        assert reader.stdout.read(1), "the first frame of the snapshot"
        os.set_blocking(reader.stdout.fileno(), False)
        try:
            yield lambda: [procmond.pid, *procmond.children().values()]
        finally:
            reader.kill()


@contextlib.contextmanager
def forkstat() -> Iterator[Callable[[], list[int]]]:
    """Forks, execs and exits, by the process connector. Raises: CannotRun."""
    with _running(["forkstat", "-e", "fork,exec,exit"]) as process:
        yield lambda: [process.pid]


@contextlib.contextmanager
def auditd() -> Iterator[Callable[[], list[int]]]:
    """Every execve, written to a file. Raises: CannotRun, also where auditing is in use already."""
    if _audit("-s").get("enabled", "0") != "0":
        raise CannotRun("auditing is in use here already")
    kauditd = _kernel_thread("kauditd")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o700)
        Path(folder, "auditd.conf").write_text(_configuration(f"{folder}/audit.log"))
        os.chmod(f"{folder}/auditd.conf", 0o640)
        with _running(["auditd", "-n", "-c", folder]) as process:
            try:
                eventually(lambda: _audit("-s").get("pid") == str(process.pid))
                _audit("-b", _AUDIT_BACKLOG)
                _audit("-e", "1")
                _audit("-a", *_AUDIT_RULE)
                yield lambda: [process.pid, kauditd]
                seen = Path(folder, "audit.log").read_bytes().count(b"type=EXECVE")
                if not seen:
                    raise CannotRun("auditd wrote nothing of what ran")
            finally:
                for arguments in (["-d", *_AUDIT_RULE], ["-e", "0"]):
                    with contextlib.suppress(CannotRun):
                        _audit(*arguments)


def _configuration(log_file: str) -> str:
    """The distribution's, but for where the log lies and how large it may grow: it is counted at the end.

    Raises: CannotRun.
    """
    ours = {"log_file": log_file, "max_log_file": "500", "space_left": "10", "admin_space_left": "5"}
    try:
        lines = Path("/etc/audit/auditd.conf").read_text().splitlines()
    except OSError as error:
        raise CannotRun(f"auditd's configuration: {error}") from None
    kept = [line for line in lines if line.partition("=")[0].strip() not in ours]
    return "\n".join([*kept, *(f"{key} = {value}" for key, value in ours.items()), ""])


@contextlib.contextmanager
def _running(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    if shutil.which(command[0]) is None:
        raise CannotRun(f"{command[0]} is not installed")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            time.sleep(0.3)
            if process.poll() is not None:
                raise CannotRun(f"{command[0]} ended with status {process.returncode}")
            yield process
        finally:
            process.terminate()


def _audit(*arguments: str) -> dict[str, str]:
    """What auditctl says, by its first word. Raises: CannotRun."""
    if shutil.which("auditctl") is None:
        raise CannotRun("auditctl is not installed")
    told = subprocess.run(["auditctl", *arguments], capture_output=True, text=True, check=False)
    if told.returncode:
        raise CannotRun(f"auditctl {arguments[0]}: {told.stderr.strip()}")
    return {line.split()[0]: line.split()[1] for line in told.stdout.splitlines() if len(line.split()) == 2}


def _kernel_thread(name: str) -> int:
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            named = Path(f"/proc/{pid}/comm").read_text().strip() == name
            if named and not Path(f"/proc/{pid}/cmdline").read_bytes():
                return int(pid)
    raise CannotRun(f"no {name}: this kernel has no auditing")

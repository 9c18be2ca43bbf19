"""A booted systemd in systemd-nspawn. One rule: it is driven from outside, by entering its namespaces.

The host need not run systemd, so nothing is registered with it (`--register=no --keep-unit`). It has no
network: whatever an installation needs must be in the package.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Self, TypeVar

T = TypeVar("T")

BOOT_TIMEOUT_S: Final = 120.0
COMMAND_TIMEOUT_S: Final = 120.0
REBOOTED: Final = 133
"""systemd-nspawn's exit status when the system inside asked for a reboot."""
EBPF_ALLOWED: Final = ("--capability=CAP_BPF,CAP_PERFMON", "--system-call-filter=bpf")
_NAMESPACES: Final = ("-m", "-u", "-i", "-n", "-p", "-C")


def wait_for(what: str, probe: Callable[..., T | None], *arguments: Any, timeout_s: float = 60.0) -> T:
    """The first true thing `probe(*arguments)` returns. Raises: AssertionError saying what did not come."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = probe(*arguments)
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"within {timeout_s:.0f} s there was not: {what}")
        time.sleep(0.2)


class Container:
    """One tree, booted as often as wanted."""

    def __init__(self, tree: Path, *flags: str, private_network: bool = True) -> None:
        """`flags` of systemd-nspawn; without `private_network` it shares this machine's network namespace."""
        self.tree = tree
        self.flags = (*flags, "--private-network") if private_network else flags
        self.leader = 0
        """Its PID 1, as the host numbers it."""
        self._nspawn: subprocess.Popen[bytes] | None = None

    # -------------------------------------------------------------------------------------- its life

    def __enter__(self) -> Self:
        try:
            self.boot()
        except BaseException:
            self.power_off()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.power_off()

    def boot(self) -> None:
        """Start it and wait until systemd has nothing left to start."""
        command = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--console=pipe"]
        command += [
            "--machine=daemoneye-test",
            *self.flags,
            "-b",
            f"--directory={self.tree}",
        ]
        with open(f"{self.tree}.console", "ab") as console:
            self._nspawn = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=console)
        self.leader = wait_for("PID 1 of the container", self._find_leader, timeout_s=BOOT_TIMEOUT_S)
        try:
            wait_for("a booted system", self._is_up, timeout_s=BOOT_TIMEOUT_S)
        except AssertionError as error:
            waiting = self.run("systemctl", "list-jobs", "--no-pager", "--plain", check=False).stdout
            raise AssertionError(f"{error}; jobs: {waiting}") from None

    def _find_leader(self) -> int | None:
        assert self._nspawn is not None
        if self._nspawn.poll() is not None:
            console = Path(f"{self.tree}.console").read_text(errors="replace")[-2000:]
            raise AssertionError(f"systemd-nspawn ended with {self._nspawn.returncode}:\n{console}")
        pid = self._nspawn.pid
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            if "systemd" in os.readlink(f"/proc/{child}/exe"):
                return int(child)
        return None

    def _is_up(self) -> bool:
        state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
        return state in {"running", "degraded"}

    def power_off(self) -> None:
        """End it in order, or at once when it does not."""
        if self._nspawn is None:
            return
        self._nspawn.send_signal(signal.SIGTERM)
        try:
            self._nspawn.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._nspawn.kill()
            self._nspawn.wait()
        self._nspawn = None

    def reboot(self) -> int:
        """Reboot from inside; the exit status with which the container asked for it."""
        assert self._nspawn is not None
        self.run("systemctl", "reboot", check=False)
        status = self._nspawn.wait(timeout=60)
        self.boot()
        return status

    # ------------------------------------------------------------------------------------ inside it

    def command(self, *words: str, user: str | None = None) -> list[str]:
        """The host's command line for running `words` inside, with nothing of our environment."""
        entering = [
            "nsenter",
            f"--target={self.leader}",
            *_NAMESPACES,
            "--wdns=/",
            "--",
            "/usr/bin/env",
            "-i",
        ]
        entering += ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"]
        if user is not None:
            entering += ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]
        return [*entering, *words]

    def run(
        self, *words: str, user: str | None = None, check: bool = True, timeout_s: float = COMMAND_TIMEOUT_S
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside. Raises: AssertionError with its output when it fails and `check` is set."""
        result = subprocess.run(
            self.command(*words, user=user),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if check and result.returncode != 0:
            said = (result.stdout + result.stderr)[-2000:]
            raise AssertionError(f"{' '.join(words)} ended with {result.returncode}:\n{said}")
        return result

    def json(self, *words: str, user: str | None = None) -> Any:
        """The document a command inside prints."""
        return json.loads(self.run(*words, user=user).stdout)

    def path(self, inside: str) -> Path:
        """Where the host sees a file of the container, its own mounts included."""
        return Path(f"/proc/{self.leader}/root{inside}")

    # ------------------------------------------------------------------------------------- its units

    def property(self, unit: str, name: str) -> str:
        """One property of a unit, as `systemctl show` prints it."""
        return self.run("systemctl", "show", unit, f"--property={name}", "--value").stdout.strip()

    def main_pid(self, unit: str) -> int:
        """The unit's main process as the container numbers it; 0 when it does not run."""
        return int(self.property(unit, "MainPID"))

    def is_active(self, unit: str) -> bool:
        """Whether the unit is active."""
        return self.property(unit, "ActiveState") == "active"

    def journal(self, *arguments: str, after: str | None = None) -> list[dict[str, Any]]:
        """Entries of the journal, oldest first; with `after` only those behind that cursor.

        Not by journalctl's --after-cursor: together with a filter that the cursor's own entry does not match,
        systemd 252 skips the first entry that does.
        """
        since = () if after is None else (f"--cursor={after}",)
        output = self.run("journalctl", "--no-pager", "--output=json", *arguments, *since).stdout
        entries = [json.loads(line) for line in output.splitlines()]
        return [entry for entry in entries if entry["__CURSOR"] != after]

    def cursor(self) -> str:
        """Where the journal ends now, for `journal`."""
        return str(self.journal("--lines=1")[-1]["__CURSOR"])

    def events(self, unit: str, name: str, after: str | None = None) -> list[dict[str, Any]]:
        """What one of our daemons logged as `name`, as it logged it."""
        entries = self.journal(f"--unit={unit}", after=after)
        return [event for event in map(own_event, entries) if event.get("event") == name]

    # ----------------------------------------------------------------------------------- processes

    def status_of(self, pid: int) -> dict[str, str]:
        """/proc/PID/status of a process inside."""
        text = self.run("cat", f"/proc/{pid}/status").stdout
        return dict(_fields(text.splitlines()))

    def children(self, pid: int) -> list[int]:
        """The children of a process inside."""
        return [int(word) for word in self.run("cat", f"/proc/{pid}/task/{pid}/children").stdout.split()]

    def kill(self, pid: int, number: signal.Signals) -> None:
        """Send a signal to a process inside."""
        self.run("sh", "-c", f"kill -{int(number)} {pid}")


def own_event(entry: dict[str, Any]) -> dict[str, Any]:
    """The JSON line one of our daemons wrote, or nothing when the entry is of another kind."""
    message = entry.get("MESSAGE")
    if not isinstance(message, str) or not message.startswith("{"):
        return {}
    found = json.loads(message)
    return found if isinstance(found, dict) else {}


def _fields(lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    for line in lines:
        name, _, value = line.partition(":")
        yield name, value.strip()

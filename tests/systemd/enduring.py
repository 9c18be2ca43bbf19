"""Promises about a healthy run: quiet, within its directories, and the same after many sweeps."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Final

from tests.systemd.breaking import answers
from tests.systemd.container import Container, wait_for
from tests.systemd.installed import processes
from tests.systemd.report import Report

UNITS: Final = ("procmond.service", "daemoneye-agent.service", "procmond.socket", "daemoneye.target")
SWEEPS: Final = 60
"""Half an hour of them at the default interval of 30 s; here one a second."""
HIGHEST_GROWTH: Final = 1.25
"""Memory after the sweeps over memory at their start."""

DECLARED: Final = (
    "/run/daemoneye",
    "/run/daemoneye-agent",
    "/var/lib/daemoneye",
    "/var/log/daemoneye",
)
OTHERS: Final = re.compile(
    # What the system itself writes while it runs: its journal, its own state, units' runtime files.
    r"/(var/log/(journal|wtmp|lastlog|btmp)|var/lib/systemd|run/(initctl|systemd|log|user|udev|dbus|utmp|credentials)|dev|proc|sys"
    r"|tmp/systemd-private|var/tmp/systemd-private|run/host)(/|$|\.|-)"
)
OURS: Final = "/etc/daemoneye/agent.toml"
"""What the check itself changes, to have it sweep once a second."""
_WHERE: Final = ("/", "/run", "/tmp", "/var/tmp", "/dev/shm")

Snapshot = dict[str, tuple[int, int, int]]


def snapshot(container: Container) -> Snapshot:
    """Every file and directory with its inode, size and change time; not the mounts below."""
    found: Snapshot = {}
    for place in _WHERE:
        root = container.path(place)
        if not root.is_dir():
            continue
        device = root.stat().st_dev
        for folder, folders, files in os.walk(root):
            folders[:] = [name for name in folders if _device(Path(folder, name)) == device]
            inside = folder.removeprefix(str(container.path(""))) or "/"
            for name in (*folders, *files):
                status = os.lstat(os.path.join(folder, name))
                path = os.path.normpath(f"/{inside}/{name}").replace("//", "/")
                found[path] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return found


def _device(path: Path) -> int:
    try:
        return path.lstat().st_dev
    except FileNotFoundError:
        return -1


def differences(before: Snapshot, after: Snapshot) -> list[str]:
    """What changed, apart from what the system itself writes."""
    changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    return sorted(path for path in changed if not OTHERS.match(path))


def complaints(container: Container) -> list[str]:
    """What our units, and systemd about them, logged at warning or above."""
    units = [f"--unit={unit}" for unit in UNITS]
    return [str(entry["MESSAGE"]) for entry in container.journal("--priority=warning", *units)]


def memory(container: Container) -> dict[str, float]:
    """Proportional share of each of our processes, MiB."""
    pids = {**processes(container), "agent": container.main_pid("daemoneye-agent.service")}
    return {name: round(_share_kib(container, pid) / 1024, 1) for name, pid in pids.items()}


def _share_kib(container: Container, pid: int) -> int:
    text = container.run("cat", f"/proc/{pid}/smaps_rollup").stdout
    match = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    assert match, text
    return int(match[1])


def check_endurance(report: Report, container: Container) -> None:
    """Sweep once a second, and look before and after."""
    after = container.cursor()

    def sweeps() -> dict[str, Any]:
        path = container.tree / "etc/daemoneye/agent.toml"
        good = path.read_text()
        before = {**processes(container), "agent": container.main_pid("daemoneye-agent.service")}
        path.write_text(f"scan_interval = 1\n{good}")
        try:
            container.run("systemctl", "reload", "daemoneye-agent.service")
            _sweeps(container, after, 5)
            at_start = memory(container)
            files = snapshot(container)
            container.run("daemoneye", "verify", "--all")
            done = _sweeps(container, after, SWEEPS)
            assert answers(container)
        finally:
            path.write_text(good)
        now = {**processes(container), "agent": container.main_pid("daemoneye-agent.service")}
        assert now == before, (before, now)
        at_end = memory(container)
        grown = {name: at_end[name] / at_start[name] for name in at_end}
        assert max(grown.values()) < HIGHEST_GROWTH, (at_start, at_end)
        report.check("nothing is written outside the declared directories", written, files)
        return {"sweeps": done, "MiB at start": at_start, "MiB at the end": at_end}

    def written(before: Snapshot) -> dict[str, Any]:
        changed = differences(before, snapshot(container))
        outside = [path for path in changed if not path.startswith(DECLARED) and path != OURS]
        assert not outside, outside
        return {"changed": changed, "files looked at": len(before)}

    def quiet() -> dict[str, Any]:
        found = complaints(container)
        assert not found, found
        return {"entries at warning or above": 0, "since": "the boot"}

    report.check(f"the same daemons answer after {SWEEPS} sweeps, no larger than before", sweeps)
    report.check("a healthy run logs nothing at warning or above", quiet)


def _sweeps(container: Container, after: str, wanted: int) -> int:
    def count() -> int | None:
        done = len(container.events("daemoneye-agent", "sweep_completed", after))
        return done if done >= wanted else None

    return wait_for(f"{wanted} sweeps", count, timeout_s=30 + 4 * wanted)

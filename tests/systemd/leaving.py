"""Promises about the package: upgrade, removal, purge, installation into a tree that does not run."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any, Final

from tests.systemd.breaking import answers, no_socket, recover
from tests.systemd.container import Container, wait_for
from tests.systemd.enduring import Snapshot, differences, snapshot
from tests.systemd.gaps import STARTED, interrupt, recorded
from tests.systemd.installed import UNITS
from tests.systemd.report import Report

USERS: Final = ("daemoneye", "daemoneye-front")
CHANGE: Final = 'log_level = "debug"\n'
_DPKG: Final = (
    "/var/lib/dpkg",
    "/var/log/dpkg.log",
    "/var/cache",
    "/var/log/apt",
    "/var/log/alternatives.log",
)
_ACCOUNTS: Final = ("/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow", "/etc/subuid", "/etc/subgid")


def install(container: Container, package: Path) -> str:
    """Install a package from the host, offline; the last thing dpkg said."""
    place = container.tree / "root" / package.name
    place.write_bytes(package.read_bytes())
    try:
        return container.run("dpkg", "--install", f"/root/{package.name}", timeout_s=300).stdout.splitlines()[
            -1
        ]
    finally:
        place.unlink()


def check_upgrade(report: Report, container: Container, older: Path, package: Path) -> None:
    """From an earlier version number, with a changed configuration."""

    def upgraded() -> dict[str, Any]:
        install(container, older)
        recover(container)
        configuration = container.tree / "etc/daemoneye/agent.toml"
        configuration.write_text(CHANGE + configuration.read_text())
        before = {unit: container.main_pid(unit) for unit in UNITS if unit.endswith(".service")}
        span = interrupt(install, container, package)
        wait_for("an answer", answers, container, timeout_s=30)
        after = {unit: container.main_pid(unit) for unit in before}
        assert all(after[unit] not in (0, before[unit]) for unit in before), (before, after)
        assert configuration.read_text().startswith(CHANGE), "the changed configuration file was replaced"
        version = container.run("dpkg-query", "--show", "--showformat=${Version}", "daemoneye").stdout
        states = {unit: container.property(unit, "ActiveState") for unit in UNITS}
        assert set(states.values()) == {"active"}, states
        gap = recorded(container, span, STARTED)
        return {"before": before, "after": after, "version": version, "gap": gap}

    def disabled() -> dict[str, str]:
        container.run("systemctl", "disable", "--now", "daemoneye-agent.service")
        install(container, package)
        unit = "daemoneye-agent.service"
        found = {name: container.property(unit, name) for name in ("UnitFileState", "ActiveState")}
        assert found == {"UnitFileState": "disabled", "ActiveState": "inactive"}, found
        container.run("systemctl", "enable", "--now", unit)
        return found

    report.check(
        "an upgrade restarts both services, keeps a changed configuration, the gap is recorded", upgraded
    )
    report.check("an upgrade leaves a disabled service disabled and stopped", disabled)


def check_removal(report: Report, container: Container, before: Snapshot) -> None:
    """Remove, then purge; `before` is the tree before the package was ever installed."""

    def removed() -> dict[str, Any]:
        container.run("dpkg", "--remove", "daemoneye")
        states = {unit: container.property(unit, "ActiveState") for unit in UNITS}
        assert set(states.values()) == {"inactive"}, states
        wait_for("no socket", no_socket, container, timeout_s=10)
        running = container.run(
            "sh", "-c", "grep -ls -e procmond -e daemoneye /proc/[0-9]*/comm", check=False
        )
        assert running.stdout == "", running.stdout
        failed = container.run("systemctl", "--failed", "--plain", "--no-legend").stdout
        assert "procmond" not in failed, failed
        assert container.path("/etc/daemoneye/agent.toml").is_file(), "removal took the configuration"
        return {"units": states, "left running": "nothing"}

    def purged() -> dict[str, Any]:
        container.run("dpkg", "--purge", "daemoneye")
        for user in USERS:
            assert container.run("getent", "passwd", user, check=False).stdout == "", user
            assert container.run("getent", "group", user, check=False).stdout == "", user
        changed = differences(before, snapshot(container))
        left = [
            path
            for path in changed
            if not path.startswith((*_DPKG, *_ACCOUNTS, "/home", "/root", "/var/mail"))
        ]
        folders = [path for path in left if container.path(path).is_dir() and path in before]
        left = [
            path for path in left if path not in folders
        ]  # a directory's own time changes with its entries
        assert not left, left
        return {"left": left, "accounts": "as before"}

    report.check("removing stops everything and leaves no socket", removed)
    report.check("purging leaves nothing", purged)


def install_offline(tree: Path, package: Path) -> str:
    """Install into a tree that is not running, as somebody who builds an image does."""
    place = tree / "root" / package.name
    place.write_bytes(package.read_bytes())
    command = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--private-network", "--pipe"]
    command += [f"--directory={tree}", "dpkg", "--install", f"/root/{package.name}"]
    try:
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, timeout=300
        ).stdout.splitlines()[-1]
    finally:
        place.unlink()

"""`make test-systemd`: install the package in a booted systemd and check every promise. Needs root.

One rule: whatever keeps it from looking is a failure, never a pass. Exit status: 0 when every promise was
kept; 1 when one was broken; 2 when the machine lacks what it takes.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.systemd import tree
from tests.systemd.attacked import check_attacks
from tests.systemd.breaking import answers, check_broken, recover
from tests.systemd.connector import allow_in_container, check_connector
from tests.systemd.container import EBPF_ALLOWED, Container, wait_for
from tests.systemd.enduring import check_endurance, complaints, snapshot
from tests.systemd.installed import add_people, check_installation
from tests.systemd.leaving import check_removal, check_upgrade, install, install_offline
from tests.systemd.ordering import check_orders, check_reboot
from tests.systemd.report import BROKEN, Report
from tests.systemd.watching import check_events

ROOT: Final = Path(__file__).resolve().parents[2]
OLDER_VERSION: Final = "0.0.1"
UNPROVEN: Final = (
    "MemoryMax= and TasksMax= are not enforced inside systemd-nspawn on a host with version 1 control groups",
    "events of the process connector in the unit: the kernel answers only in the initial pid namespace",
    "changes of credentials by eBPF where the kernel does not allow fentry programs: see the source's reason",
)


def lacking() -> str:
    """What this machine lacks, in a sentence; empty if nothing."""
    if os.geteuid() != 0:
        return "it needs root, to boot a container"
    if tools := tree.missing_tools():
        return f"{', '.join(tools)} missing; {tree.APT_LINE}"
    if not tree.claim():
        return f"another run is using {tree.CACHE}"
    return ""


def build_packages() -> tuple[Path, Path]:
    """The package of this checkout, and the same with an earlier version number."""
    script = ROOT / "systemd/package/deb.py"
    made: list[Path] = []
    for extra in ([], ["--version", OLDER_VERSION, "--dist", str(ROOT / "build/older")]):
        output = subprocess.run(
            [sys.executable, script, *extra], stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT
        ).stdout
        (package,) = (Path(line.split()[1]) for line in output.splitlines() if line.endswith(".deb"))
        made.append(package)
    return made[0], made[1]


def facts(package: Path, container: Container) -> dict[str, object]:
    """What was tested, on what."""
    version = container.run("systemctl", "--version").stdout.splitlines()[0]
    pretty = dict(
        line.partition("=")[::2]
        for line in (container.tree / "etc/os-release").read_text().splitlines()
        if line
    )["PRETTY_NAME"].strip('"')
    return {
        "package": package.name,
        "sha256": hashlib.sha256(package.read_bytes()).hexdigest(),
        "commit": subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False, cwd=ROOT
        ).stdout.strip(),
        "kernel": platform.release(),
        "systemd": version,
        "distribution": pretty,
        "python": container.run("python3", "--version").stdout.strip(),
        "unproven here": UNPROVEN,
    }


def degraded(report: Report, container: Container) -> None:
    """The first look at a boot without eBPF."""

    def first() -> list[str]:
        wait_for("an answer", answers, container, timeout_s=30)
        found = wait_for("the one complaint", complaints, container, timeout_s=30)
        assert len(found) == 1, found
        assert '"reason": "polling_source"' in found[0], found
        return found

    report.check("it answers, and complains of nothing but its source of events, once", first)


def with_ebpf(report: Report, package: Path, older: Path, now: float) -> None:
    """The main run: the whole life of the package, in a container that is allowed eBPF."""
    report.boot("eBPF allowed, installed while running")
    with Container(tree.fresh_tree("allowed", now), *EBPF_ALLOWED) as container:
        before = snapshot(container)
        report.check("the package installs offline", install, container, package)
        report.facts.update(facts(package, container))
        add_people(container)
        report.check("soon after, the agent sees and has compared", recover, container)
        check_installation(report, container)
        recover(container)
        check_events(report, container, ebpf=True)
        check_endurance(report, container)
        check_attacks(report, container)
        check_broken(report, container)
        check_orders(report, container)
        check_reboot(report, container)
        container.run("dpkg", "--purge", "daemoneye")
        check_upgrade(report, container, older, package)
        check_removal(report, container, before)


def without_ebpf(report: Report, package: Path, _older: Path, now: float) -> None:
    """A container that is denied bpf(2), installed while it did not run."""
    report.boot("bpf denied, installed before the first boot")
    place = tree.fresh_tree("denied", now)
    report.check("the package installs into a tree that does not run", install_offline, place, package)
    with Container(place) as container:
        add_people(container)
        degraded(report, container)
        check_events(report, container, ebpf=False)


def with_connector(report: Report, package: Path, _older: Path, now: float) -> None:
    """A container in the initial network namespace, where systemd can make the process connector's socket."""
    report.boot("bpf denied, in the initial network namespace, procmond-connector.socket allowed")
    place = tree.fresh_tree("connector", now)
    report.check("the package installs into a tree that does not run", install_offline, place, package)
    allow_in_container(place)
    # As `--private-network` has it, which is what gives procmond this right elsewhere.
    with Container(place, "--capability=CAP_NET_ADMIN", private_network=False) as container:
        check_connector(report, container)


BOOTS: Final[dict[str, Callable[[Report, Path, Path, float], None]]] = {
    "ebpf": with_ebpf,
    "denied": without_ebpf,
    "connector": with_connector,
}


def main() -> int:
    """Run everything and write the report."""
    parser = argparse.ArgumentParser(description="Check the package in a booted systemd.")
    parser.add_argument("--report", type=Path, default=ROOT / "dist/test-systemd.json")
    parser.add_argument(
        "--boot", choices=tuple(BOOTS), action="append", help="only this one; may be repeated"
    )
    said = parser.parse_args()
    if reason := lacking():
        sys.stderr.write(f"test-systemd cannot run here: {reason}\n")
        return 2
    began = time.time()
    report = Report()
    package, older = build_packages()
    try:
        for name, boot in BOOTS.items():
            if said.boot is None or name in said.boot:
                report.check(
                    f"the whole of boot {name!r} was gone through",
                    boot,
                    report,
                    package,
                    older,
                    began,
                )
    finally:
        report.facts["seconds"] = round(time.time() - began)
        report.write(said.report)
    totals = report.totals()
    sys.stdout.write(f"\n{totals} in {report.facts['seconds']} s; {said.report}\n")
    return 1 if totals[BROKEN] else 0


if __name__ == "__main__":
    sys.exit(main())

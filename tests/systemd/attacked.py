"""The attack list inside the real unit. One rule: a drop-in replaces the program that starts, no more."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tests.support.attacks import ATTACKS, NOBODY, Role, Stage
from tests.systemd.breaking import answers
from tests.systemd.container import Container, wait_for
from tests.systemd.report import Report

ROOT: Final = Path(__file__).resolve().parents[2]
PLACE: Final = "/opt/daemoneye-test"
DROP_IN: Final = "run/systemd/system/procmond.service.d/attack.conf"
STAGE: Final = "/dev/shm/daemoneye-stage"
PYTHON: Final = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
UNREACHED_ADDRESS: Final = 0x1000
"""In a victim's memory; no attack gets as far as to use it."""


@contextlib.contextmanager
def _victims(container: Container) -> Iterator[tuple[int, int]]:
    """A process of nobody's and one of root's, as the container numbers them."""
    with contextlib.ExitStack() as stack:
        pids = []
        for uid in (NOBODY, 0):
            script = f"echo $$; exec setpriv --reuid={uid} --clear-groups sleep 600"
            victim = stack.enter_context(
                subprocess.Popen(container.command("sh", "-c", script), stdout=subprocess.PIPE, text=True)
            )
            assert victim.stdout is not None
            pids.append(int(victim.stdout.readline()))
            stack.callback(container.run, "sh", "-c", f"kill -9 {pids[-1]}", check=False)
        yield pids[0], pids[1]


def _prepare(container: Container, victims: tuple[int, int]) -> None:
    place = container.tree / PLACE.lstrip("/")
    library = place / "library/tests/support"
    library.mkdir(parents=True)
    shutil.copyfile(ROOT / "tests/systemd/attack_unit.py", place / "attack_unit.py")
    shutil.copyfile(ROOT / "tests/support/attacks.py", library / "attacks.py")
    for folder in (library, library.parent):
        (folder / "__init__.py").touch()
    stage = Stage(STAGE, *victims, UNREACHED_ADDRESS, 0)
    (place / "stage.json").write_text(json.dumps(stage._asdict()))
    for path in (place, *place.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    listen = f"import socket; s = socket.socket(socket.AF_UNIX); s.bind('{STAGE}/socket')"
    container.run("mkdir", "--mode=0755", STAGE)
    container.run("sh", "-c", f"echo untouched >{STAGE}/file; echo untouched >{STAGE}/other")
    container.run(PYTHON, "-c", listen)
    drop_in = container.path(f"/{DROP_IN}")
    drop_in.parent.mkdir(parents=True, exist_ok=True)
    drop_in.write_text(f"[Service]\nExecStart=\nExecStart={PYTHON} -IS {PLACE}/attack_unit.py\n")
    container.run("systemctl", "daemon-reload")


def _clear(container: Container) -> None:
    container.path(f"/{DROP_IN}").unlink(missing_ok=True)
    container.run("rm", "-rf", STAGE)
    shutil.rmtree(container.tree / PLACE.lstrip("/"), ignore_errors=True)
    container.run("systemctl", "daemon-reload")
    container.run("systemctl", "restart", "procmond.service")
    wait_for("an answer", answers, container)


def _listing(container: Container) -> dict[str, Any]:
    folder = container.path(STAGE)
    facts = {name: os.lstat(folder / name) for name in sorted(os.listdir(folder))}
    return {
        name: (status.st_mode, status.st_uid, status.st_size, status.st_mtime_ns)
        for name, status in facts.items()
    }


def attacked(container: Container) -> dict[str, Any]:
    """Every attack in every process; then it answers, as if nothing had been."""
    with _victims(container) as victims:
        _prepare(container, victims)
        try:
            before, after = _listing(container), container.cursor()
            container.run("systemctl", "restart", "procmond.service")
            wait_for("an answer", answers, container)
            told = container.events("procmond", "attacked", after)
            outcomes = {event["role"]: event["outcomes"] for event in told}
            for role in Role:
                expected = {attack.name: attack.expected(role) for attack in ATTACKS}
                wrong = {
                    name: (outcome, expected[name])
                    for name, outcome in outcomes[role.value].items()
                    if outcome != expected[name]
                }
                assert not wrong, f"{role}: {wrong} (outcome, expected)"
            assert _listing(container) == before
            for victim in victims:
                assert container.path(f"/proc/{victim}").exists(), f"victim {victim} is gone"
        finally:
            _clear(container)
    return {"attacks": len(ATTACKS), "processes": sorted(outcomes), "refused as expected": True}


def check_attacks(report: Report, container: Container) -> None:
    """Everything in this module."""
    report.check("inside the real unit each process refuses every attack and goes on", attacked, container)

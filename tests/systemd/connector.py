"""Promises about procmond-connector.socket: what systemd makes is handed over. One rule: that the kernel
answers nobody in a container is no failure, as long as procmond says so.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from tests.systemd.breaking import answers
from tests.systemd.container import Container, wait_for
from tests.systemd.report import Report
from tests.systemd.watching import POLLING, source

UNIT: Final = "procmond-connector.socket"
_DROP_IN: Final = f"etc/systemd/system/{UNIT}.d/container.conf"


def allow_in_container(tree: Path) -> None:
    """Take away the condition that spares a container the attempt."""
    path = tree / _DROP_IN
    path.parent.mkdir(parents=True)
    path.write_text("[Unit]\nConditionVirtualization=\n")


def check_connector(report: Report, container: Container) -> None:
    """Everything in this module."""
    report.check(f"{UNIT} makes a socket of the process connector", made, container)
    report.check(
        "procmond gets that socket, in a network namespace without any other", handed_over, container
    )


def made(container: Container) -> dict[str, str]:
    """The unit's state."""
    wait_for("an answer", answers, container, timeout_s=30)
    names = ("ActiveState", "SubState", "Listen", "Result")
    found = {name: container.property(UNIT, name) for name in names}
    assert (found["ActiveState"], found["Result"]) == ("active", "success"), found
    assert found["SubState"] == "running", found  # which means that the service has taken it
    return found


def handed_over(container: Container) -> dict[str, Any]:
    """Without the socket there is none of its kind in procmond's namespace; with it the kernel is asked."""
    main = container.main_pid("procmond.service")
    procmond, host = (os.readlink(container.path(f"/proc/{pid}/ns/net")) for pid in (main, 1))
    assert procmond != host
    name, reason = source(container)
    assert name == POLLING, name
    assert "no process connector: no acknowledgement within 1 s" in reason, reason
    return {"network namespace": procmond, "of the system": host, "reason": reason}

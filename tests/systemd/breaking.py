"""Promises about daemons that are killed or frozen: they are back, and the time without them is recorded."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any, Final

from tests.systemd.container import Container, wait_for
from tests.systemd.gaps import COLLECTOR, LOST, STARTED, Span, agent_status, interrupt, recorded
from tests.systemd.installed import is_socket, processes
from tests.systemd.report import Report

SOCKET: Final = "/run/daemoneye/procmond.sock"
WATCHDOG_S: Final = 30.0
"""WatchdogSec= of procmond.service."""
KILLS: Final = 8
"""As fast as it comes back: more than systemd's default start limit allows."""


def answers(container: Container) -> bool:
    """Whether procmond answers a question about every process."""
    return container.run("daemoneye", "ps", check=False, timeout_s=60).returncode == 0


def no_socket(container: Container) -> bool:
    """Whether no socket lies where clients look for it."""
    return not is_socket(container, SOCKET)


def check_broken(report: Report, container: Container) -> None:
    """Everything in this module."""

    def check(promise: str, look: Callable[..., Any], *arguments: Any) -> None:
        recover(container)
        report.check(promise, look, container, *arguments)

    for name in ("front", "collector"):
        check(
            f"kill -9 of the {name}: replaced, the service goes on, the gap is recorded", child_killed, name
        )
    check("kill -9 of procmond: restarted once, the agent reconnects, the gap is recorded", procmond_killed)
    check("kill -9 of the agent: restarted once, procmond is not touched, the gap is recorded", agent_killed)
    check("a crash loop of procmond never leaves the socket dead, the gap is recorded", crash_loop)
    check("SIGSTOP of procmond: the watchdog recovers it, the gap is recorded", frozen)
    check("SIGSTOP of the collector alone: recovered, the gap is recorded", collector_frozen)


def recover(container: Container) -> None:
    """Everything runs and sees, whatever the check before left behind."""
    container.run("systemctl", "start", "procmond.service", "daemoneye-agent.service", "daemoneye.target")
    wait_for("an answer", answers, container)

    def sees() -> bool:
        status = agent_status(container)
        seeing = status.get("events", {}).get("sight") == "live"
        return seeing and all(interval["repaired"] for interval in status["intervals"])

    wait_for("an agent that sees and has compared", sees)


def _reconnected(container: Container, after: str) -> dict[str, Any]:
    def look() -> list[dict[str, Any]]:
        return container.events("daemoneye-agent", "procmond_reconnected", after)

    event = wait_for("the agent's reconnection in its journal", look)[-1]
    return {"away_s": event["away_s"], "failures": event["failures"]}


def child_killed(container: Container, name: str) -> dict[str, Any]:
    """Kill one child; the others live on and an answer comes."""
    before = processes(container)
    restarts = container.property("procmond", "NRestarts")
    span = interrupt(container.kill, before[name], signal.SIGKILL)

    def replaced() -> dict[str, int] | None:
        try:
            now = processes(container)
        except AssertionError:
            return None
        return now if now[name] != before[name] else None

    after = wait_for(f"another {name}", replaced, timeout_s=10)
    wait_for("an answer", answers, container, timeout_s=10)
    assert after["supervisor"] == before["supervisor"], (before, after)
    assert container.property("procmond", "NRestarts") == restarts
    reasons: tuple[str, ...] = LOST
    if name == "collector":  # one that loses its front ends too; a front goes on without its collector
        assert after["front"] == before["front"], (before, after)
        reasons = COLLECTOR
    return {"before": before, "after": after, "gap": recorded(container, span, reasons)}


def _restarted(
    container: Container, unit: str, hurt: Callable[[], object], timeout_s: float = 30
) -> tuple[dict[str, Any], Span]:
    """Hurt a service; it must be restarted exactly once, under another pid."""
    before, restarts = container.main_pid(unit), int(container.property(unit, "NRestarts"))
    span = interrupt(hurt)

    def again() -> bool:
        return container.main_pid(unit) not in (0, before) and container.is_active(unit)

    wait_for(f"a restarted {unit}", again, timeout_s=timeout_s)
    wait_for("an answer", answers, container, timeout_s=20)
    now = int(container.property(unit, "NRestarts"))
    assert now == restarts + 1, f"{now - restarts} restarts"
    assert is_socket(container, SOCKET)
    observed = {"restarts": now - restarts, "pid before": before, "pid after": container.main_pid(unit)}
    return observed, span


def procmond_killed(container: Container) -> dict[str, Any]:
    """SIGKILL to the supervisor; nothing of it stays, and one new one comes."""
    after = container.cursor()
    old = processes(container)
    observed, span = _restarted(
        container, "procmond", lambda: container.kill(old["supervisor"], signal.SIGKILL)
    )
    left = [pid for pid in old.values() if container.path(f"/proc/{pid}").exists()]
    assert not left, f"still there: {left}"
    return {**observed, "agent": _reconnected(container, after), "gap": recorded(container, span, LOST)}


def agent_killed(container: Container) -> dict[str, Any]:
    """SIGKILL to the agent."""
    procmond = container.main_pid("procmond")
    pid = container.main_pid("daemoneye-agent")
    observed, span = _restarted(container, "daemoneye-agent", lambda: container.kill(pid, signal.SIGKILL))
    assert container.main_pid("procmond") == procmond
    return {**observed, "gap": recorded(container, span, STARTED)}


def crash_loop(container: Container) -> dict[str, Any]:
    """Kill procmond as fast as it comes back."""
    before = int(container.property("procmond", "NRestarts"))

    def is_gone(pid: int) -> bool:
        return container.main_pid("procmond") != pid

    def kill_on() -> None:
        for _ in range(KILLS):
            pid = wait_for("a running procmond", container.main_pid, "procmond", timeout_s=20)
            container.run("sh", "-c", f"kill -9 {pid}", check=False)
            wait_for("its end", is_gone, pid, timeout_s=20)

    span = interrupt(kill_on)
    wait_for("an answer", answers, container, timeout_s=30)
    states = {
        unit: container.property(unit, "ActiveState") for unit in ("procmond.service", "procmond.socket")
    }
    assert set(states.values()) == {"active"}, states
    restarts = int(container.property("procmond", "NRestarts")) - before
    assert restarts == KILLS, f"{restarts} restarts after {KILLS} kills"
    return {**states, "restarts": restarts, "gap": recorded(container, span, LOST)}


def frozen(container: Container) -> dict[str, Any]:
    """SIGSTOP to the whole service: the real watchdog with its real time."""
    after = container.cursor()

    def freeze() -> None:
        container.run("systemctl", "kill", "--signal=STOP", "procmond.service")

    observed, span = _restarted(container, "procmond", freeze, WATCHDOG_S + 30)
    said = [entry["MESSAGE"] for entry in container.journal("_PID=1", after=after)]
    watchdog = [message for message in said if "atchdog" in str(message)]
    assert watchdog, said
    return {
        **observed,
        "systemd": watchdog[0],
        "agent": _reconnected(container, after),
        "gap": recorded(container, span, LOST),
    }


def collector_frozen(container: Container) -> dict[str, Any]:
    """SIGSTOP to the part that reads: replaced, or the watchdog restarts the whole."""
    before = processes(container)
    span = interrupt(container.kill, before["collector"], signal.SIGSTOP)
    wait_for("an answer", answers, container, timeout_s=WATCHDOG_S + 30)
    after = processes(container)
    assert after["collector"] != before["collector"], after
    return {"before": before, "after": after, "gap": recorded(container, span, (*LOST, *COLLECTOR))}

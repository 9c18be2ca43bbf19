"""Promises about interruptions: killed, stopped, frozen, reloaded wrongly, rebooted."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any, Final

from tests.systemd.container import REBOOTED, Container, wait_for
from tests.systemd.installed import commands, is_socket, processes
from tests.systemd.report import Report, Waiting

SOCKET: Final = "/run/daemoneye/procmond.sock"
WATCHDOG_S: Final = 30.0
"""WatchdogSec= of procmond.service."""


def answers(container: Container) -> bool:
    """Whether procmond answers a question about every process."""
    return container.run("daemoneye", "ps", check=False, timeout_s=60).returncode == 0


def no_socket(container: Container) -> bool:
    """Whether no socket lies where clients look for it."""
    return not is_socket(container, SOCKET)


def check_interruptions(report: Report, container: Container) -> None:
    """Everything in this module but the reboot."""

    def check(promise: str, look: Callable[..., Any], *arguments: Any) -> None:
        recover(container)
        report.check(promise, look, container, *arguments)

    for name in ("front", "collector"):
        check(f"kill -9 of the {name}: replaced, the service goes on", child_killed, name)
    check("kill -9 of procmond: restarted once, the agent reconnects", procmond_killed)
    check("kill -9 of the agent: restarted once, procmond is not touched", agent_killed)
    check("a crash loop of procmond never leaves the socket dead", crash_loop)
    check("stopped, procmond stays stopped and leaves no socket", stays_stopped)
    for first, second in (("procmond", "daemoneye-agent"), ("daemoneye-agent", "procmond")):
        check(f"both stopped, then {first} started first", in_order, first, second)
    check("stopping and starting the target stops and starts everything", target)
    check("SIGSTOP of procmond: the watchdog recovers it", frozen)
    check("SIGSTOP of the collector alone: noticed, an answer comes", collector_frozen)
    check("a reload with a broken configuration keeps the old one and says so", bad_reload)
    check("a start with a broken configuration fails once, with the reason", bad_start)
    check("every interruption is a recorded gap", gaps)


def recover(container: Container) -> None:
    """Everything runs, whatever the check before left behind."""
    container.run("systemctl", "start", "procmond.service", "daemoneye-agent.service", "daemoneye.target")
    wait_for("an answer", answers, container)


def fresh_agent(container: Container) -> None:
    """An agent that is connected and waits for nothing."""
    after = container.cursor()
    container.run("systemctl", "restart", "daemoneye-agent.service")
    wait_for("a sweep", container.events, "daemoneye-agent", "sweep_completed", after)


def _reconnected(container: Container, after: str) -> dict[str, Any]:
    def look() -> list[dict[str, Any]]:
        return container.events("daemoneye-agent", "procmond_reconnected", after)

    event = wait_for("the agent's reconnection in its journal", look)[-1]
    return {"away_s": event["away_s"], "failures": event["failures"]}


def child_killed(container: Container, name: str) -> dict[str, Any]:
    """Kill one child; the others live on and an answer comes."""
    before = processes(container)
    restarts = container.property("procmond", "NRestarts")
    container.kill(before[name], signal.SIGKILL)

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
    if name == "collector":  # one that loses its front ends too; a front goes on without its collector
        assert after["front"] == before["front"], (before, after)
    return {"before": before, "after": after}


def _restarted(
    container: Container, unit: str, hurt: Callable[[], None], timeout_s: float = 30
) -> dict[str, Any]:
    """Hurt a service; it must be restarted exactly once, under another pid."""
    before, restarts = container.main_pid(unit), int(container.property(unit, "NRestarts"))
    hurt()

    def again() -> bool:
        return container.main_pid(unit) not in (0, before) and container.is_active(unit)

    wait_for(f"a restarted {unit}", again, timeout_s=timeout_s)
    wait_for("an answer", answers, container, timeout_s=20)
    now = int(container.property(unit, "NRestarts"))
    assert now == restarts + 1, f"{now - restarts} restarts"
    assert is_socket(container, SOCKET)
    return {"restarts": now - restarts, "pid before": before, "pid after": container.main_pid(unit)}


def procmond_killed(container: Container) -> dict[str, Any]:
    """SIGKILL to the supervisor; nothing of it stays, and one new one comes."""
    after = container.cursor()
    old = processes(container)
    observed = _restarted(container, "procmond", lambda: container.kill(old["supervisor"], signal.SIGKILL))
    left = [pid for pid in old.values() if container.path(f"/proc/{pid}").exists()]
    assert not left, f"still there: {left}"
    return {**observed, "agent": _reconnected(container, after)}


def agent_killed(container: Container) -> dict[str, Any]:
    """SIGKILL to the agent."""
    procmond = container.main_pid("procmond")
    pid = container.main_pid("daemoneye-agent")
    observed = _restarted(container, "daemoneye-agent", lambda: container.kill(pid, signal.SIGKILL))
    assert container.main_pid("procmond") == procmond
    return observed


def _is_gone(container: Container, pid: int) -> bool:
    return container.main_pid("procmond") != pid


def crash_loop(container: Container) -> dict[str, Any]:
    """Eight kills as fast as it comes back: more than systemd's default start limit allows."""
    before = int(container.property("procmond", "NRestarts"))
    for _ in range(8):
        pid = wait_for("a running procmond", container.main_pid, "procmond", timeout_s=20)
        container.run("sh", "-c", f"kill -9 {pid}", check=False)
        wait_for("its end", _is_gone, container, pid, timeout_s=20)
    wait_for("an answer", answers, container, timeout_s=30)
    states = {
        unit: container.property(unit, "ActiveState") for unit in ("procmond.service", "procmond.socket")
    }
    assert set(states.values()) == {"active"}, states
    return {**states, "restarts": int(container.property("procmond", "NRestarts")) - before}


def stays_stopped(container: Container) -> dict[str, Any]:
    """Stop procmond while the agent keeps trying to reach it."""
    fresh_agent(container)
    after = container.cursor()
    container.run("systemctl", "stop", "procmond.service")
    wait_for("no socket", no_socket, container, timeout_s=10)

    wait_for("several attempts of the agent", container.events, "daemoneye-agent", "breaker_opened", after)
    state = {
        unit: container.property(unit, "ActiveState") for unit in ("procmond.service", "procmond.socket")
    }
    assert state == {"procmond.service": "inactive", "procmond.socket": "inactive"}, state
    said = container.run("daemoneye", "ps", check=False)
    assert said.returncode == 3, said
    pid = container.main_pid("daemoneye-agent")
    restarts = container.property("daemoneye-agent", "NRestarts")
    container.run("systemctl", "kill", "--signal=KILL", "daemoneye-agent")
    wait_for(
        "the agent's restart", lambda: container.main_pid("daemoneye-agent") not in (0, pid), timeout_s=20
    )
    assert container.property("procmond", "ActiveState") == "inactive", "the agent's restart revived procmond"
    container.run("systemctl", "start", "procmond.service")
    wait_for("an answer", answers, container, timeout_s=20)
    connected = wait_for(
        "the agent", container.events, "daemoneye-agent", "sweep_completed", after, timeout_s=60
    )
    return {
        "stopped": state,
        "a client is told": said.stderr.strip(),
        "agent restarts": restarts,
        "sweeps": len(connected),
    }


def in_order(container: Container, first: str, second: str) -> dict[str, Any]:
    """Stop both, start them in this order, and have a sweep."""
    container.run("systemctl", "stop", "daemoneye-agent.service", "procmond.service")
    after = container.cursor()
    container.run("systemctl", "start", f"{first}.service")
    state = container.property("procmond", "ActiveState")
    container.run("systemctl", "start", f"{second}.service")
    sweep = wait_for("a sweep", container.events, "daemoneye-agent", "sweep_completed", after, timeout_s=60)[
        0
    ]
    return {"procmond after the first": state, "processes": sweep["processes"]}


def target(container: Container) -> dict[str, Any]:
    """daemoneye.target takes the services with it."""
    units = ("procmond.service", "procmond.socket", "daemoneye-agent.service")

    def states() -> dict[str, str]:
        return {unit: container.property(unit, "ActiveState") for unit in units}

    container.run("systemctl", "stop", "daemoneye.target")  # returns before what is part of it has stopped
    wait_for("everything stopped", lambda: set(states().values()) == {"inactive"}, timeout_s=15)
    stopped = states()
    wait_for("no socket", no_socket, container, timeout_s=10)
    container.run("systemctl", "start", "daemoneye.target")
    wait_for("an answer", answers, container, timeout_s=20)
    started = states()
    assert set(started.values()) == {"active"}, started
    return {"stopped": stopped, "started": started}


def frozen(container: Container) -> dict[str, Any]:
    """SIGSTOP to the whole service: the real watchdog with its real time."""
    after = container.cursor()

    def freeze() -> None:
        container.run("systemctl", "kill", "--signal=STOP", "procmond.service")

    observed = _restarted(container, "procmond", freeze, WATCHDOG_S + 30)
    said = [entry["MESSAGE"] for entry in container.journal(f"--after-cursor={after}", "_PID=1")]
    watchdog = [message for message in said if "atchdog" in str(message)]
    assert watchdog, said
    return {**observed, "systemd": watchdog[0], "agent": _reconnected(container, after)}


def collector_frozen(container: Container) -> dict[str, Any]:
    """SIGSTOP to the part that may hang: replaced, or the watchdog restarts the whole."""
    before = processes(container)
    container.kill(before["collector"], signal.SIGSTOP)
    wait_for("an answer", answers, container, timeout_s=WATCHDOG_S + 30)
    return {"before": before, "after": processes(container)}


def bad_reload(container: Container) -> dict[str, Any]:
    """An unknown key, then SIGHUP by way of systemctl reload."""
    observed: dict[str, str] = {}
    for unit, name, event in (
        ("procmond", "procmond.toml", "configuration_refused"),
        ("daemoneye-agent", "agent.toml", "config_refused"),
    ):
        path = container.tree / "etc/daemoneye" / name
        good = path.read_text()
        pid, after = container.main_pid(unit), container.cursor()
        path.write_text(f"no_such_key = 1\n{good}")
        try:
            container.run("systemctl", "reload", f"{unit}.service")
            refusal = wait_for(event, container.events, unit, event, after, timeout_s=20)[0]
            if unit == "procmond":  # the command line reads agent.toml too, and refuses it as well
                assert answers(container)
            assert container.main_pid(unit) == pid
        finally:
            path.write_text(good)
        container.run("systemctl", "reload", f"{unit}.service")
        observed[unit] = str(refusal.get("error") or refusal.get("reason"))
        assert "no_such_key" in observed[unit], refusal
    return observed


def bad_start(container: Container) -> dict[str, Any]:
    """A restart with an unknown key: one failure, no loop, no socket to hang on; then it is put right."""
    path = container.tree / "etc/daemoneye/procmond.toml"
    good = path.read_text()
    fresh_agent(container)
    path.write_text(f"no_such_key = 1\n{good}")
    after = container.cursor()
    try:
        result = container.run("systemctl", "restart", "procmond.service", check=False)
        assert result.returncode != 0
        wait_for(
            "the agent trying",
            container.events,
            "daemoneye-agent",
            "procmond_unreachable",
            after,
            timeout_s=30,
        )
        state = container.property("procmond.service", "ActiveState")
        assert state == "failed", state
        wait_for("no socket", no_socket, container, timeout_s=10)
        entries = container.journal("--unit=procmond.service", f"--after-cursor={after}")
        said = [entry["MESSAGE"] for entry in entries if "no_such_key" in str(entry["MESSAGE"])]
        assert len(said) == 1, said
        (priority,) = {entry["PRIORITY"] for entry in entries if "no_such_key" in str(entry["MESSAGE"])}
        assert priority == "3", priority
    finally:
        path.write_text(good)
    container.run("systemctl", "start", "procmond.service")
    wait_for("an answer", answers, container, timeout_s=20)
    return {"state": state, "said": said[0]}


def gaps(container: Container) -> Any:
    """The blind intervals, as the store has them."""
    if "gaps" not in commands(container):
        lines = container.events("daemoneye-agent", "procmond_reconnected")
        away = [event["away_s"] for event in lines]
        raise Waiting(
            f"this build has no daemoneye gaps; the agent's journal names {len(away)}, seconds: {away}"
        )
    recorded = container.json("daemoneye", "gaps", "--format=json")
    assert recorded, "no gap is recorded"
    return recorded


def check_reboot(report: Report, container: Container) -> None:
    """The machine restarts."""

    def rebooted() -> dict[str, Any]:
        status = container.reboot()
        assert status == REBOOTED, status
        wait_for("an answer", answers, container, timeout_s=30)
        this_boot = container.journal("--boot", "--unit=daemoneye-agent.service")
        assert this_boot
        return {"status": status, "processes": processes(container)}

    report.check("after a reboot both services run and answer", rebooted)

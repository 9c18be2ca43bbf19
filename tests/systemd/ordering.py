"""Promises about what an administrator does: stop, start, reload, get the configuration wrong, reboot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from tests.systemd.breaking import answers, no_socket, recover
from tests.systemd.container import REBOOTED, Container, wait_for
from tests.systemd.gaps import LOST, STARTED, agent_status, interrupt, recorded
from tests.systemd.installed import processes
from tests.systemd.report import Report

UNITS: Final = ("procmond.service", "procmond.socket", "daemoneye-agent.service")


def check_orders(report: Report, container: Container) -> None:
    """Everything in this module but the reboot."""

    def check(promise: str, look: Callable[..., Any], *arguments: Any) -> None:
        recover(container)
        report.check(promise, look, container, *arguments)

    check("stopped, procmond stays stopped and leaves no socket, the gap is recorded", stays_stopped)
    for first, second in (("procmond", "daemoneye-agent"), ("daemoneye-agent", "procmond")):
        check(f"both stopped, then {first} started first, the gap is recorded", in_order, first, second)
    check("stopping and starting the target stops and starts everything, the gap is recorded", target)
    check("a reload with a broken configuration keeps the old one and says so", bad_reload)
    check("a start with a broken configuration fails once, with the reason, the gap is recorded", bad_start)


def _states(container: Container, *units: str) -> dict[str, str]:
    return {unit: container.property(unit, "ActiveState") for unit in units or UNITS}


def _fresh_agent(container: Container) -> None:
    """An agent that is connected and whose next attempt is not put off."""
    after = container.cursor()
    container.run("systemctl", "restart", "daemoneye-agent.service")
    wait_for("a sweep", container.events, "daemoneye-agent", "sweep_completed", after)
    recover(container)


def stays_stopped(container: Container) -> dict[str, Any]:
    """Stop procmond while the agent keeps trying to reach it; then the agent restarts, and tries again."""
    _fresh_agent(container)
    after = container.cursor()
    span = interrupt(container.run, "systemctl", "stop", "procmond.service")
    wait_for("no socket", no_socket, container, timeout_s=10)
    wait_for("several attempts of the agent", container.events, "daemoneye-agent", "breaker_opened", after)
    state = _states(container, "procmond.service", "procmond.socket")
    assert state == {"procmond.service": "inactive", "procmond.socket": "inactive"}, state
    said = container.run("daemoneye", "ps", check=False)
    assert said.returncode == 3, said
    seen = agent_status(container)["events"]["sight"]
    assert seen == "blind", seen
    pid = container.main_pid("daemoneye-agent")
    container.run("systemctl", "kill", "--signal=KILL", "daemoneye-agent")

    def again() -> bool:
        return container.main_pid("daemoneye-agent") not in (0, pid)

    wait_for("the agent's restart", again, timeout_s=20)
    tries = "procmond_unreachable"
    wait_for("an attempt of the new agent", lambda: _of_pid(container, tries, after), timeout_s=20)
    assert container.property("procmond", "ActiveState") == "inactive", "the agent's restart revived procmond"
    container.run("systemctl", "start", "procmond.service")
    wait_for("an answer", answers, container, timeout_s=20)
    # The agent that knew when procmond went was killed: the next one answers for all since somebody saw.
    gap = recorded(container, span, STARTED)
    return {"stopped": state, "a client is told": said.stderr.strip(), "meanwhile": seen, "gap": gap}


def _of_pid(container: Container, name: str, after: str) -> bool:
    """Whether the agent that runs now has logged `name`."""
    pid = str(container.main_pid("daemoneye-agent"))
    entries = container.journal("--unit=daemoneye-agent", f"_PID={pid}", after=after)
    return any(name in str(entry["MESSAGE"]) for entry in entries)


def in_order(container: Container, first: str, second: str) -> dict[str, Any]:
    """Stop both, start them in this order, and have a sweep."""
    span = interrupt(container.run, "systemctl", "stop", "daemoneye-agent.service", "procmond.service")
    after = container.cursor()
    container.run("systemctl", "start", f"{first}.service")
    state = container.property("procmond", "ActiveState")
    container.run("systemctl", "start", f"{second}.service")
    sweeps = wait_for("a sweep", container.events, "daemoneye-agent", "sweep_completed", after)
    gap = recorded(container, span, STARTED)
    return {"procmond after the first": state, "processes": sweeps[0]["processes"], "gap": gap}


def target(container: Container) -> dict[str, Any]:
    """daemoneye.target takes the services with it."""

    def stop() -> None:
        container.run(
            "systemctl", "stop", "daemoneye.target"
        )  # returns before what is part of it has stopped
        wait_for("everything stopped", lambda: set(_states(container).values()) == {"inactive"}, timeout_s=15)

    span = interrupt(stop)
    stopped = _states(container)
    wait_for("no socket", no_socket, container, timeout_s=10)
    container.run("systemctl", "start", "daemoneye.target")
    wait_for("an answer", answers, container, timeout_s=20)
    started = _states(container)
    assert set(started.values()) == {"active"}, started
    return {"stopped": stopped, "started": started, "gap": recorded(container, span, STARTED)}


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
    _fresh_agent(container)
    path.write_text(f"no_such_key = 1\n{good}")
    after = container.cursor()

    def restart() -> None:
        result = container.run("systemctl", "restart", "procmond.service", check=False)
        assert result.returncode != 0

    try:
        span = interrupt(restart)
        unreachable = "procmond_unreachable"
        wait_for("the agent trying", container.events, "daemoneye-agent", unreachable, after, timeout_s=30)
        state = container.property("procmond.service", "ActiveState")
        assert state == "failed", state
        wait_for("no socket", no_socket, container, timeout_s=10)
        entries = container.journal("--unit=procmond.service", after=after)
        said = [entry for entry in entries if "no_such_key" in str(entry["MESSAGE"])]
        assert [entry["PRIORITY"] for entry in said] == ["3"], said
    finally:
        path.write_text(good)
    container.run("systemctl", "start", "procmond.service")
    wait_for("an answer", answers, container, timeout_s=20)
    return {"state": state, "said": said[0]["MESSAGE"], "gap": recorded(container, span, LOST)}


def check_reboot(report: Report, container: Container) -> None:
    """The machine restarts."""

    def rebooted() -> dict[str, Any]:
        status: list[int] = []
        span = interrupt(lambda: status.append(container.reboot()))
        assert status == [REBOOTED], status
        wait_for("an answer", answers, container, timeout_s=30)
        this_boot = container.journal("--boot", "--unit=daemoneye-agent.service")
        assert this_boot
        gap = recorded(container, span, STARTED)
        return {"status": status[0], "processes": processes(container), "gap": gap}

    recover(container)
    report.check("after a reboot both services run and answer, the gap is recorded", rebooted)

"""Promises about a fresh installation: what runs, with which rights, and who may ask."""

from __future__ import annotations

import json
import re
import stat
from typing import Any, Final

from tests.systemd.container import Container, wait_for
from tests.systemd.report import Report

UNITS: Final = ("daemoneye.target", "procmond.socket", "procmond.service", "daemoneye-agent.service")
COLLEAGUE: Final = "colleague"
STRANGER: Final = "stranger"
HIGHEST_EXPOSURE: Final = {"procmond.service": 2.4, "daemoneye-agent.service": 1.2}

_CAPABILITIES: Final = {"CAP_DAC_READ_SEARCH": 2, "CAP_SETGID": 6, "CAP_SETUID": 7, "CAP_SYS_PTRACE": 19}
_READING: Final = ("CAP_DAC_READ_SEARCH", "CAP_SYS_PTRACE")
_BECOMING: Final = ("CAP_SETGID", "CAP_SETUID")
_DECLARED: Final = {
    # process: user, permitted, effective; what docs/operating.md says
    "supervisor": ("root", (*_READING, *_BECOMING), ()),
    "front": ("daemoneye-front", (), ()),
    "collector": ("root", _READING, _READING),
}

_STATUS_LINES: Final = {
    "procmond.service": r"[\d,]+ processes, [\d,]+ clients, .+, [\d,]+ lost or refused",
    "daemoneye-agent.service": r"[\d,]+ processes at \d\d:\d\d, (live|polling), \d+ blind intervals?",
}


def mask(names: tuple[str, ...]) -> int:
    """The capability set of these names."""
    return sum(1 << _CAPABILITIES[name] for name in names)


def processes(container: Container) -> dict[str, int]:
    """The pids of procmond's three processes, by what they are."""
    main = container.main_pid("procmond.service")
    assert main, "procmond.service has no main process"
    started = container.events("procmond.service", "child_started")
    alive = set(container.children(main))
    named = {event["child"]: event["pid"] for event in started if event["pid"] in alive}
    assert set(named) == {"front", "collector"}, f"children of {main}: {alive}, started {started[-4:]}"
    return {"supervisor": main, **named}


def add_people(container: Container) -> None:
    """A member of the group, and somebody who is none."""
    container.run("useradd", "--create-home", "--groups=daemoneye", COLLEAGUE)
    container.run("useradd", "--create-home", STRANGER)


def check_installation(report: Report, container: Container) -> None:
    """Everything in this module."""

    def active() -> dict[str, str]:
        states = {unit: container.property(unit, "ActiveState") for unit in UNITS}
        assert set(states.values()) == {"active"}, states
        return states

    def enabled() -> dict[str, str]:
        states = {unit: container.property(unit, "UnitFileState") for unit in UNITS}
        assert set(states.values()) == {"enabled"}, states
        return states

    def status_line() -> dict[str, str]:
        lines = {unit: container.property(unit, "StatusText") for unit in UNITS if unit.endswith(".service")}
        for unit, expected in _STATUS_LINES.items():
            assert re.fullmatch(expected, lines[unit]), lines
        return lines

    report.check("installing the package without a network leaves all units active", active)
    report.check("all units are enabled", enabled)
    report.check("the status lines say what an administrator wants to know", status_line)
    report.check("procmond's processes have exactly the declared users and capabilities", rights, container)
    report.check("the agent has no capability and cannot gain one", agent_rights, container)
    report.check("the socket is root:daemoneye 0660 in a directory of root's, 0750", places, container)
    report.check("systemd-analyze security stays below its bounds", exposure, container)
    report.check("systemd-analyze verify finds nothing to say about the units", verified, container)
    report.check("a user outside the group is refused", refused, container)
    for command in ("ps", "hash", "watch"):
        report.check(f"a member of the group can use daemoneye {command}", used, container, command)
    report.check(
        "the agent tells its state to whom control_users names, and to no other member", told, container
    )


def rights(container: Container) -> dict[str, Any]:
    """uids and capabilities of procmond's processes, from /proc."""
    observed: dict[str, Any] = {}
    for name, pid in processes(container).items():
        status = container.status_of(pid)
        observed[name] = {
            key: status[key] for key in ("Uid", "CapPrm", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp")
        }
        assert status["NoNewPrivs"] == "1", observed
        assert status["Seccomp"] == "2", observed
    assert container.json("daemoneye", "capabilities", "--format=json")["confined"], observed
    for name, (user, permitted, effective) in _DECLARED.items():
        uid = container.run("id", "-u", user).stdout.strip()
        seen = observed[name]
        assert seen["Uid"].split() == [uid] * 4, (name, seen)
        assert int(seen["CapPrm"], 16) == mask(permitted), (name, seen)
        assert int(seen["CapEff"], 16) == mask(effective), (name, seen)
        assert int(seen["CapBnd"], 16) == 0, (name, seen)
    return observed


def agent_rights(container: Container) -> dict[str, str]:
    """The agent's ids and capability sets, from /proc."""
    status = container.status_of(container.main_pid("daemoneye-agent.service"))
    sets = {name: status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
    uid = container.run("id", "-u", "daemoneye").stdout.strip()
    assert {int(value, 16) for value in sets.values()} == {0}, sets
    assert status["Uid"].split() == [uid] * 4, status["Uid"]
    assert status["NoNewPrivs"] == "1", status["NoNewPrivs"]
    return {"Uid": status["Uid"], **sets, "Seccomp": status["Seccomp"]}


def places(container: Container) -> dict[str, str]:
    """Owner and mode of the socket and of the directories."""
    expected = {
        "/run/daemoneye": "root:daemoneye 750 directory",
        "/run/daemoneye/procmond.sock": "root:daemoneye 660 socket",
        "/run/daemoneye-agent": "daemoneye:daemoneye 750 directory",
        "/var/lib/daemoneye": "daemoneye:daemoneye 750 directory",
        "/var/log/daemoneye": "daemoneye:daemoneye 750 directory",
    }
    output = container.run("stat", "--format=%n %U:%G %a %F", *expected).stdout
    found = dict(line.split(" ", 1) for line in output.splitlines())
    assert found == expected, found
    return found


def exposure(container: Container) -> dict[str, float]:
    """The overall figures of systemd-analyze security."""
    figures: dict[str, float] = {}
    for unit, highest in HIGHEST_EXPOSURE.items():
        output = container.run("systemd-analyze", "security", "--no-pager", unit).stdout
        match = re.search(r"Overall exposure level for \S+: ([\d.]+)", output)
        assert match, output[-300:]
        figures[unit] = float(match[1])
        assert figures[unit] <= highest, f"{unit}: {figures[unit]}, at most {highest} is promised"
    return figures


def verified(container: Container) -> str:
    """What systemd says of the unit files."""
    names = (*UNITS, "procmond-connector.socket", "procmond-failed.target")
    result = container.run("systemd-analyze", "verify", "--man=no", *names, check=False)
    said = (result.stdout + result.stderr).strip()
    assert (result.returncode, said) == (0, ""), said
    return f"{len(names)} units, nothing to say"


def refused(container: Container) -> dict[str, Any]:
    """What somebody outside the group gets: not even the directory."""
    result = container.run("daemoneye", "ps", user=STRANGER, check=False)
    assert result.returncode == 3, result
    assert result.stdout == "", result
    return {"status": result.returncode, "said": result.stderr.strip()}


def used(container: Container, command: str) -> Any:
    """What a member of the group gets from `command`."""
    if command == "ps":
        listed = container.json("daemoneye", "ps", "--format=json", user=COLLEAGUE)
        records = listed["processes"]
        pids = {record["pid"] for record in records}
        assert {1, container.main_pid("procmond.service")} <= pids, pids
        hashed = sum(bool(record.get("executable_hash")) for record in records)
        assert hashed, records[0]
        return {"processes": len(records), "with a hash": hashed}
    if command == "hash":
        expected = container.run("sha256sum", "/usr/bin/true").stdout.split()[0]
        output = container.run("daemoneye", "hash", "/usr/bin/true", user=COLLEAGUE).stdout
        assert expected in output, output
        return expected
    words = ("timeout", "3", "daemoneye", "watch", "--snapshot", "--format=jsonl")
    result = container.run(*words, user=COLLEAGUE, check=False)
    events = [json.loads(line) for line in result.stdout.splitlines()]
    shown = {event["pid"] for event in events if event["kind"] == "snapshot"}
    assert {1, container.main_pid("procmond.service")} <= shown, result
    return {"processes in the snapshot": len(shown), "events in 3 s": len(events)}


def told(container: Container) -> dict[str, Any]:
    """What a member of the group learns of the agent, by default and when named."""
    path = container.tree / "etc/daemoneye/agent.toml"
    good = path.read_text()

    def ask() -> dict[str, Any]:
        said = container.run("daemoneye", "status", "--format=json", user=COLLEAGUE, check=False).stdout
        return dict(json.loads(said)["agent"])

    assert not ask()["reachable"]
    path.write_text(f'control_users = ["root", "{COLLEAGUE}"]\n{good}')
    try:
        container.run("systemctl", "restart", "daemoneye-agent.service")
        sight = wait_for("an answer of the agent's", lambda: ask().get("status"))["events"]["sight"]
    finally:
        path.write_text(good)
        container.run("systemctl", "restart", "daemoneye-agent.service")
    return {"by default": "refused", "when named": sight}


def is_socket(container: Container, path: str) -> bool:
    """Whether a socket lies there."""
    try:
        return stat.S_ISSOCK(container.path(path).lstat().st_mode)
    except FileNotFoundError:
        return False

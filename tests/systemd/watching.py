"""Promises about live events: where they come from, and that a command run inside appears."""

from __future__ import annotations

import hashlib
import subprocess
import uuid
from typing import Any, Final

from tests.systemd.container import Container, own_event, wait_for
from tests.systemd.installed import COLLEAGUE, commands
from tests.systemd.report import Report, Waiting

EBPF: Final = "ebpf"


def source(container: Container) -> tuple[str, str]:
    """The event source in force, and why. Raises: Waiting in a build without live events."""
    told = container.json("daemoneye", "capabilities", "--format=json")
    name = told.get("event_source", "unspecified")
    reason = str(told.get("event_source_reason", ""))
    if name in ("unspecified", "none", 0):
        raise Waiting(f"this build has no live events: {reason}")
    return str(name), reason


def check_events(report: Report, container: Container, *, ebpf: bool) -> None:
    """Everything in this module; `ebpf` says whether the container is allowed it."""

    def active() -> dict[str, str]:
        name, reason = source(container)
        assert name == EBPF, (name, reason)
        return {"source": name, "reason": reason}

    def fallback() -> dict[str, str]:
        name, reason = source(container)
        assert name != EBPF, name
        assert reason, "no reason is given"
        shown = " ".join(container.run("daemoneye", "status").stdout.split())
        assert " ".join(reason.split()) in shown, shown
        return {"source": name, "reason": reason}

    def visible() -> Any:
        return run_and_watch(container)

    if ebpf:
        report.check("eBPF is the source of live events", active)
        report.check("the pids eBPF reports are the container's own", pids_match, container)
    else:
        report.check("without bpf, status names the fallback in force and the reason", fallback)
    report.check("a command run inside appears in daemoneye watch with user, arguments and hash", visible)
    report.check("a command run inside appears in the agent's journal with user, arguments and hash",
                 journalled, container)  # fmt: skip


WATCH = ("timeout", "6", "daemoneye", "watch", "--snapshot", "--format=jsonl")
"""Ends by itself: a signal to nsenter does not reach what runs inside."""


def _watched(container: Container, argument: str, *, user: str = COLLEAGUE) -> list[dict[str, Any]]:
    """The events of a command run by `user` with `argument`, as root's `daemoneye watch` shows them."""
    if "watch" not in commands(container):
        raise Waiting("this build has no daemoneye watch")
    command = container.command(*WATCH)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout
        try:
            first = watching.stdout.readline()  # it has begun
            container.run("sleep", argument, user=user)
            container.run("sleep", "0.3")
        finally:
            lines = [first, *watching.stdout.read().splitlines()]
    return [event for event in map(_parsed, lines) if argument in str(event)]


def _parsed(line: str) -> dict[str, Any]:
    return own_event({"MESSAGE": line.strip()})


def run_and_watch(container: Container) -> Any:
    """One sleep of a duration nobody else sleeps."""
    events = _watched(container, f"0.2{uuid.uuid4().int % 10**9}")
    assert events, "it did not appear"
    text = str(events)
    expected = hashlib.sha256(container.path("/usr/bin/sleep").read_bytes()).hexdigest()
    uid = container.run("id", "-u", COLLEAGUE).stdout.strip()
    assert expected in text, events
    assert uid in text, events
    return events[0]


def pids_match(container: Container) -> Any:
    """An event's pid, and that process in the container's own /proc."""
    source(container)
    argument = f"3.{uuid.uuid4().int % 10**9}"
    if "watch" not in commands(container):
        raise Waiting("this build has no daemoneye watch")
    command = container.command(*WATCH)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout
        watching.stdout.readline()
        sleeping = subprocess.Popen(container.command("sleep", argument, user=COLLEAGUE))
        try:
            for line in watching.stdout:
                if argument in line and "exec" in line:
                    event = _parsed(line)
                    break
            pid = _pid_of(event)
            found = container.path(f"/proc/{pid}/cmdline").read_bytes()
            assert argument.encode() in found, (pid, found)
        finally:
            watching.terminate()
            sleeping.wait()
    return {"pid": pid, "cmdline": found.decode(errors="replace")}


def _pid_of(event: dict[str, Any]) -> int:
    process = event.get("process", event)
    return int(process["pid"])


def journalled(container: Container) -> Any:
    """The agent's own line about a command."""
    source(container)
    after = container.cursor()
    argument = f"0.2{uuid.uuid4().int % 10**9}"
    container.run("sleep", argument, user=COLLEAGUE)

    def look() -> list[dict[str, Any]]:
        entries = container.journal("--unit=daemoneye-agent", f"--after-cursor={after}")
        return [event for event in map(own_event, entries) if argument in str(event)]

    (event, *_) = wait_for("the command in the agent's journal", look, timeout_s=45)
    return event

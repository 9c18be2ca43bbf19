"""Promises about live events: where they come from, and that a command run inside appears."""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import threading
import uuid
from collections.abc import Iterator
from typing import Any, Final

from tests.systemd.container import Container, own_event, wait_for
from tests.systemd.installed import COLLEAGUE
from tests.systemd.report import Report

EBPF: Final = "ebpf"
POLLING: Final = "polling"
PATIENCE_S: Final = 60
"""Seconds until a watch without the event that is waited for is ended."""
EXECS: Final = 2_000
"""Started as fast as one shell can. The tree's journal keeps far fewer entries of a unit that does not say
otherwise, see tree.py."""


def check_events(report: Report, container: Container, *, ebpf: bool) -> None:
    """Everything in this module; `ebpf` says whether the container is allowed it."""
    if ebpf:
        report.check("eBPF is the source of live events", active, container)
        report.check("the pids eBPF reports are the container's own", pids_match, container)
    else:
        report.check("without bpf, status names the fallback in force and the reason", fallback, container)
    report.check(
        "a command run inside appears in daemoneye watch with user, arguments and hash", watched, container
    )
    report.check(
        "a command run inside appears in the agent's journal with user, arguments and hash",
        journalled,
        container,
    )
    if ebpf:
        report.check(f"none of {EXECS:,} execs in a row is missing in the journal", stormed, container)


def source(container: Container) -> tuple[str, str]:
    """The event source in force, and why."""
    told = container.json("daemoneye", "capabilities", "--format=json")
    return str(told["event_source"]), str(told["event_source_reason"])


def active(container: Container) -> dict[str, str]:
    """What procmond says of its source, which must be eBPF."""
    name, reason = source(container)
    assert name == EBPF, (name, reason)
    return {"source": name, "reason": reason}


def fallback(container: Container) -> dict[str, str]:
    """What `daemoneye status` says where the container is not allowed eBPF."""
    name, reason = source(container)
    assert name == POLLING, name
    assert "no eBPF: loading programs needs CAP_BPF" in reason, reason
    result = container.run("daemoneye", "status", check=False)
    shown = " ".join(result.stdout.split())
    assert " ".join(reason.split()) in shown, shown
    assert shown.startswith("PARTLY BLIND"), shown
    assert result.returncode == 4, result.returncode
    return {"source": name, "reason": reason, "first line": result.stdout.splitlines()[0]}


# ------------------------------------------------------------------------------------------------- events


@contextlib.contextmanager
def _watching(container: Container) -> Iterator[Iterator[dict[str, Any]]]:
    """The events a member of the group sees from now on: the snapshot is over.

    A signal to nsenter does not reach what runs inside, so the watch says its pid first.
    """
    script = "echo $$; exec daemoneye watch --snapshot --format=jsonl"
    command = container.command("sh", "-c", script, user=COLLEAGUE)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as watching:
        assert watching.stdout
        stop = f"kill {int(watching.stdout.readline())}"
        timer = threading.Timer(PATIENCE_S, container.run, ("sh", "-c", stop), {"check": False})
        timer.start()
        events = map(json.loads, watching.stdout)
        try:
            for event in events:
                if event["kind"] == "snapshot_end":
                    break
            yield events
        finally:
            timer.cancel()
            container.run("sh", "-c", stop, check=False)


@contextlib.contextmanager
def _sleeping(container: Container) -> Iterator[str]:
    """A command of the colleague's that runs meanwhile; its argument, which nobody else's has."""
    argument = f"600.{uuid.uuid4().int % 10**9:09}"
    script = f"echo $$; exec sleep {argument}"
    command = container.command("sh", "-c", script, user=COLLEAGUE)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as sleeping:
        assert sleeping.stdout
        pid = int(sleeping.stdout.readline())
        try:
            yield argument
        finally:
            container.run("sh", "-c", f"kill -9 {pid}", check=False)


def _is_expected(container: Container, uid: int, argv: list[str], digest: str, argument: str) -> bool:
    """Whether these facts are the ones of the colleague's sleep, exactly."""
    if argv != ["sleep", argument]:
        return False
    image = container.path("/usr/bin/sleep").read_bytes()
    assert uid == int(container.run("id", "-u", COLLEAGUE).stdout), uid
    assert digest == hashlib.sha256(image).hexdigest(), digest
    return True


def _seen(container: Container) -> dict[str, Any]:
    """How the watch shows a sleep, whose pid is that of the same sleep in the container's own /proc."""
    with _watching(container) as events, _sleeping(container) as argument:
        for event in events:
            process = event.get("process", {})
            facts = (process.get("command_line", []), process.get("executable_hash", ""))
            if event["kind"] == "exec" and _is_expected(container, process["real_uid"], *facts, argument):
                found = container.path(f"/proc/{event['pid']}/cmdline").read_bytes()
                assert found == f"sleep\0{argument}\0".encode(), (event, found)
                return dict(event)
    raise AssertionError(f"sleep {argument} did not appear")


def watched(container: Container) -> dict[str, Any]:
    """One sleep of a duration nobody else sleeps."""
    event = _seen(container)
    process = event["process"]
    names = ("pid", "user_name", "real_uid", "executable_path", "command_line", "executable_hash")
    return {"kind": event["kind"], **{name: process.get(name) for name in names}}


def pids_match(container: Container) -> dict[str, Any]:
    """Of live events, and of an inventory: its pids are those of the container's own /proc."""
    event = _seen(container)
    records = container.json("daemoneye", "ps", "--format=json")["processes"]
    listed = {record["pid"]: record["name"] for record in records}
    wrong = [pid for pid, name in listed.items() if _name_of(container, pid) not in (name, None)]
    assert not wrong, [(pid, listed[pid], _name_of(container, pid)) for pid in wrong]
    assert listed[1] == "systemd", listed
    return {"exec": event["pid"], "compared": len(listed)}


def _name_of(container: Container, pid: int) -> str | None:
    """What the container's own /proc calls a process; None when it has ended."""
    try:
        return container.path(f"/proc/{pid}/comm").read_text().removesuffix("\n")
    except FileNotFoundError:
        return None


# ------------------------------------------------------------------------------------------------ journal


def journalled(container: Container) -> dict[str, Any]:
    """The agent's own entry about a command: as it ran, or found by the next look."""
    after = container.cursor()
    with _sleeping(container) as argument:

        def look() -> dict[str, Any] | None:
            entries = container.journal("--unit=daemoneye-agent", after=after)
            for entry in map(own_event, entries):
                facts = (entry.get("arguments", []), entry.get("sha256", ""))
                if facts[0] and _is_expected(container, entry["uid"], *facts, argument):
                    assert entry["user"] == COLLEAGUE, entry
                    return entry
            return None

        return wait_for("the command in the agent's journal", look, timeout_s=PATIENCE_S)


def stormed(container: Container) -> dict[str, int]:
    """Each of many commands has its entry: neither the agent nor the journal drops one."""
    after = container.cursor()
    tag = f"storm{uuid.uuid4().hex[:8]}"
    script = f"i=0; while [ $i -lt {EXECS} ]; do /bin/true {tag}-$i; i=$((i + 1)); done"
    container.run("sh", "-c", script, user=COLLEAGUE)

    def arguments() -> set[str]:
        entries = container.events("daemoneye-agent", "exec_seen", after)
        return {word for entry in entries for word in entry["arguments"] if word.startswith(f"{tag}-")}

    expected = {f"{tag}-{number}" for number in range(EXECS)}
    wait_for(f"{EXECS} entries", lambda: arguments() >= expected)
    said = [str(entry["MESSAGE"]) for entry in container.journal(after=after)]
    suppressed = [message for message in said if "uppressed" in message]
    assert not suppressed, suppressed
    return {"run": EXECS, "in the journal": len(arguments())}

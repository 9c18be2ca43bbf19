"""`daemoneye capabilities` and `status`. One rule: "not there" and "could not look" never look alike."""

from __future__ import annotations

import argparse
import errno
import fcntl
import os
import struct
import time
from collections.abc import Iterator
from typing import NamedTuple

from agent.cli.asking import gather, report_shortfalls
from agent.cli.exits import FINE, PARTIAL, UNREACHABLE, status_of
from agent.cli.formats import plain
from agent.cli.human import count, duration, size
from agent.cli.output import Output, complain
from agent.cli.render import labelled
from agent.cli.sight import agent_lines, degraded, verdict
from agent.client import Client
from agent.config import AgentConfig
from agent.control_client import AgentAnswer, ask_status
from agent.main import LOCK_NAME
from common.errors import DaemonEyeError, Unreachable
from common.messages import (
    CapabilityResponse,
    CollectionOptions,
    CollectionSummary,
    DetectionTask,
    EventSource,
    Loss,
    Permission,
    ProcessFilter,
    TaskType,
)

_FLOCK = struct.Struct(
    "hhqqi"
)  # struct flock of fcntl(2) with a 64-bit off_t: type, whence, start, length, pid

_SWEEP = DetectionTask(
    task_type=TaskType.ENUMERATE_PROCESSES, stream=True, options=CollectionOptions(skip_hashes=True)
)


class AgentState(NamedTuple):
    """Whether the agent runs, told by the lock it holds."""

    running: bool | None  # None: cannot be told
    pid: int | None
    detail: str


class ProcmondState(NamedTuple):
    """What procmond let us know."""

    error_message: str | None = None  # why it cannot be asked; None when it answered
    round_trip_ms: float = 0.0
    capabilities: CapabilityResponse | None = None  # None: it knows only the specification
    sweep: CollectionSummary | None = None
    account: CollectionSummary | None = None  # what it refused, delivered and lost since it started


async def run_capabilities(client: Client, _said: argparse.Namespace, output: Output) -> int:
    """Show all that procmond says of itself. Raises: as `Client`."""
    async with client:
        response = client.capabilities
    if response is None:
        complain("this procmond does not negotiate: it knows only the specification")
        return PARTIAL
    if output.kind == "table":
        output.lines(labelled(capability_lines(response), output.screen))
    else:
        _show(output, plain(response))
    return FINE if response.negotiation_success else PARTIAL


async def run_status(client: Client, config: AgentConfig, output: Output) -> int:
    """Show what runs and what it sees; what cannot be asked does not keep the rest from being told."""
    status = FINE
    try:
        async with client:
            procmond = ProcmondState(
                capabilities=client.capabilities,
                account=client.account,
                round_trip_ms=await _round_trip(client),
            )
            answer = await gather(client, _SWEEP)
            procmond = procmond._replace(sweep=answer.summary)
            status = report_shortfalls(client, [answer], hashes=False)
    except DaemonEyeError as error:
        procmond = ProcmondState(error_message=str(error))
        status = status_of(error)
        complain(str(error))
    agent = agent_state(config.state_dir)
    try:
        answered = await ask_status(config.control_socket)
        status = _worse(status, PARTIAL if degraded(answered.status) else FINE)
    except Unreachable as error:
        answered = None
        status = _worse(status, UNREACHABLE)
        complain(str(error))
    if output.kind == "table":
        now_ms = time.time_ns() // 1_000_000
        said = None if answered is None else answered.status
        lines = status_lines(config, procmond, agent, answered, now_ms)
        output.lines([verdict(said, now_ms, output.screen), *labelled(lines, output.screen)])
    else:
        _show(output, status_document(config, procmond, agent, answered))
    return status


def _worse(first: int, second: int) -> int:
    """Of two exit statuses the one to act on first: who cannot be reached goes before what is not whole."""
    return UNREACHABLE if UNREACHABLE in (first, second) else max(first, second)


def agent_state(state_dir: str) -> AgentState:
    """Whether an agent holds the lock in `state_dir`. It is looked at, not taken: one may start meanwhile."""
    path = os.path.join(state_dir, LOCK_NAME)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return AgentState(False, None, f"no lock in {state_dir}")
        return AgentState(None, None, f"{path}: {error.strerror}")
    try:
        asked = _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
    finally:
        os.close(descriptor)
    if kind == fcntl.F_UNLCK:
        return AgentState(False, None, f"nobody holds {path}")
    return AgentState(True, pid, f"holds {path}")


def capability_lines(response: CapabilityResponse) -> Iterator[tuple[str, str]]:
    """A CapabilityResponse for a person, label and value; every field."""
    yield (
        "Negotiation",
        "done" if response.negotiation_success else f"failed: {response.error_message or '?'}",
    )
    yield "Version", response.server_version or "unknown"
    yield "Protocol", str(response.protocol_version)
    yield "Permission", _permission(response)
    yield "Collector", response.collector or "unknown"
    yield "Events", _events(response)
    yield "Confined", _confined(response)
    yield "Rights kept", ", ".join(response.retained_capabilities) or "not reported"
    yield "Tasks", ", ".join(kind.name.lower() for kind in response.task_types)
    yield "Digests", ", ".join(response.digests)
    known = response.capabilities
    if known is not None:
        yield "Domains", ", ".join(domain.name.lower() for domain in known.supported_domains)
        if known.advanced is not None:
            advanced = plain(known.advanced)
            yield "Advanced", ", ".join(name for name, has in advanced.items() if has) or "none"
    yield "Largest frame", f"{size(response.max_frame_size)} ({response.max_frame_size:,} bytes)"
    yield "At once", count(response.max_tasks_in_flight, "task") + " per connection"
    yield from _limitations(response)


def status_lines(
    config: AgentConfig,
    procmond: ProcmondState,
    agent: AgentState,
    answered: AgentAnswer | None,
    now_ms: int,
) -> Iterator[tuple[str, str]]:
    """What runs and what it sees, label and value."""
    known = procmond.capabilities
    if procmond.error_message is not None:
        yield "procmond", "not reachable"
        yield "  socket", config.socket
    else:
        version = (known.server_version if known else None) or "of unknown version"
        yield "procmond", f"{version}, answers in {procmond.round_trip_ms:.1f} ms"
        yield "  socket", config.socket
    if known is not None:
        yield "  collector", known.collector or "unknown"
        yield "  events", _events(known)
        yield "  confined", _confined(known)
        yield "  permission", _permission(known)
        yield from ((f"  {label.lower()}", value) for label, value in _limitations(known))
    account = procmond.account
    if account is not None:
        yield "  delivered", count(account.events_delivered, "event")
        yield "  lost", ", ".join(_loss(loss) for loss in account.losses if loss.count) or "0"
    sweep = procmond.sweep
    if sweep is not None:
        yield (
            "sweep",
            f"{count(sweep.processes_seen, 'process', 'processes')} in {duration(sweep.duration_us / 1e6)}",
        )
        yield "  inaccessible", f"{sweep.processes_inaccessible:,}"
        yield "  vanished", f"{sweep.processes_vanished:,} while being read"
        yield from (("  lost", f"{loss.count:,} ({loss.reason})") for loss in sweep.losses)
    if answered is None:
        states = {True: f"running, pid {agent.pid}", False: "not running", None: "cannot be told"}
        yield "agent", f"{states[agent.running]} ({agent.detail})"
        return
    yield "agent", f"answers, pid {answered.peer.pid}, uid {answered.peer.uid}"
    yield "  socket", config.control_socket
    yield from agent_lines(answered.status, now_ms)


def status_document(
    config: AgentConfig, procmond: ProcmondState, agent: AgentState, answered: AgentAnswer | None
) -> dict[str, object]:
    """The same for programs; parts that are messages have the schema's names."""
    reachable = procmond.error_message is None
    about: dict[str, object] = {"socket": config.socket, "reachable": reachable}
    if reachable:
        about["round_trip_ms"] = round(procmond.round_trip_ms, 3)
    else:
        about["error_message"] = procmond.error_message
    if procmond.capabilities is not None:
        about["capability_response"] = plain(procmond.capabilities)
    if procmond.account is not None:
        about["account"] = plain(procmond.account)
    if procmond.sweep is not None:
        about["summary"] = plain(procmond.sweep)
    other: dict[str, object] = {"state_dir": config.state_dir, "detail": agent.detail}
    if agent.running is not None:
        other["running"] = agent.running
    if agent.pid is not None:
        other["pid"] = agent.pid
    other["control_socket"] = config.control_socket
    other["reachable"] = answered is not None
    if answered is not None:
        other["status"] = plain(answered.status)
    return {"procmond": about, "agent": other}


async def _round_trip(client: Client) -> float:
    """Milliseconds of a small question, whose cost does not grow with the machine: one pid, no hash."""
    task = DetectionTask(
        process_filter=ProcessFilter(pids=(os.getpid(),)), options=CollectionOptions(skip_hashes=True)
    )
    started = time.monotonic()
    await client.ask(task)
    return (time.monotonic() - started) * 1000


def _show(output: Output, document: dict[str, object]) -> None:
    if output.kind == "json":
        output.document(document)
    elif output.kind == "jsonl":
        output.documents([document])
    else:
        output.rows(list(document), [document])


def _loss(loss: Loss) -> str:
    of_kind = f" {loss.kind.name.lower()}" if loss.kind else ""
    return f"{loss.count:,}{of_kind} ({loss.reason})"


def _events(response: CapabilityResponse) -> str:
    if response.event_source is EventSource.UNSPECIFIED:
        source = "none"
    else:
        source = response.event_source.name.lower().replace("_", " ")
    return f"{source} ({response.event_source_reason})" if response.event_source_reason else source


def _permission(response: CapabilityResponse) -> str:
    if response.permission is Permission.UNSPECIFIED:
        return "unknown"
    if response.permission is Permission.ADMINISTER:
        return "administer: refusals give their reason"
    return "query: refusals give no reason"


def _confined(response: CapabilityResponse) -> str:
    return (
        "yes, its system call filter is in force"
        if response.confined
        else "no system call filter is in force"
    )


def _limitations(response: CapabilityResponse) -> Iterator[tuple[str, str]]:
    for limitation in response.limitations or ("none known",):
        yield "Limitation", limitation

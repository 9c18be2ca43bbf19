"""What an administrator may change about daemoneye-agent. One rule: a key exists only if something uses it.

The definitions are the documentation: flags, environment variables and the commented file come from them.
"""

from __future__ import annotations

import os
from typing import Annotated, Final

import msgspec

from common.accounts import find_group, find_user
from common.arguments import Program
from common.config import Resolved
from common.limits import (
    BREAKER_COOL_DOWN_S,
    BREAKER_FAILURES,
    CLIENT_CONNECT_TIMEOUT_S,
    DEFAULT_TASK_DEADLINE_S,
    MAX_DEADLINE_MS,
    MAX_PATH_BYTES,
    RECONNECT_INITIAL_S,
    RECONNECT_MAX_S,
)
from common.logs import Level
from common.setting import Setting, account, accounts, is_absolute_path, number, seconds, socket_path

DEFAULT_SCAN_INTERVAL_S: Final = 30.0
"""Seconds between the starts of two sweeps, as the design has it."""
LOWEST_SCAN_INTERVAL_S: Final = 1.0
"""Seconds. More often, the sweeps themselves would be the load worth watching."""
HIGHEST_SCAN_INTERVAL_S: Final = 24 * 3600.0
"""Seconds. A day; an agent that looks more rarely does not watch."""
LOWEST_WAIT_S: Final = 0.01
"""Seconds. Shorter waits are a busy loop."""
HIGHEST_WAIT_S: Final = 3600.0
"""Seconds for which the agent may stay blind on purpose."""
HIGHEST_BREAKER_FAILURES: Final = 1000
"""Failures. A breaker that needs more never opens."""


class ClientSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How the agent deals with a procmond that is slow or away."""

    connect_timeout: Annotated[
        float,
        seconds(
            "Time to connect and to agree on capabilities.",
            why="a procmond that is up does both within milliseconds.",
            lowest=LOWEST_WAIT_S,
            highest=HIGHEST_WAIT_S,
        ),
    ] = CLIENT_CONNECT_TIMEOUT_S
    call_deadline: Annotated[
        float,
        seconds(
            "Time one question may take, all frames of its answer included.",
            why="procmond's own deadline for a task that names none.",
            lowest=LOWEST_WAIT_S,
            highest=MAX_DEADLINE_MS / 1000,
        ),
    ] = DEFAULT_TASK_DEADLINE_S
    backoff_base: Annotated[
        float,
        seconds(
            "Longest wait after the first failed attempt to connect; doubles with each further one.",
            why="a procmond that restarts is back almost at once.",
            lowest=LOWEST_WAIT_S,
            highest=HIGHEST_WAIT_S,
        ),
    ] = RECONNECT_INITIAL_S
    backoff_cap: Annotated[
        float,
        seconds(
            "No wait between two attempts to connect is longer.",
            why="trying a local socket costs next to nothing, being blind does not.",
            lowest=LOWEST_WAIT_S,
            highest=HIGHEST_WAIT_S,
        ),
    ] = RECONNECT_MAX_S
    breaker_threshold: Annotated[
        int,
        number(
            "Failures in a row after which questions fail at once, without an attempt, for a while.",
            why="enough to outlast a restart.",
            highest=HIGHEST_BREAKER_FAILURES,
        ),
    ] = BREAKER_FAILURES
    breaker_cool_down: Annotated[
        float,
        seconds(
            "Time for which they fail at once; then one attempt decides.",
            why="as long as the longest wait between two attempts.",
            lowest=LOWEST_WAIT_S,
            highest=HIGHEST_WAIT_S,
        ),
    ] = BREAKER_COOL_DOWN_S


class AgentConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The effective configuration of daemoneye-agent."""

    socket: Annotated[
        str,
        socket_path(
            "Path of the Unix socket on which procmond answers.",
            why="procmond's own default.",
            flag="--socket",
        ),
    ] = "/run/daemoneye/procmond.sock"
    server_user: Annotated[
        str | int,
        account(
            "User as whom procmond must run; an answer of anybody else is not believed.",
            why="only root sees every process.",
        ),
    ] = "root"
    state_dir: Annotated[
        str,
        Setting(
            meaning="Directory in which the agent keeps what outlives it.",
            why="systemd's StateDirectory=daemoneye.",
            accepts=is_absolute_path,
            expected=f"an absolute path of less than {MAX_PATH_BYTES} bytes",
            flag="--state-dir",
            metavar="DIR",
        ),
    ] = "/var/lib/daemoneye"
    scan_interval: Annotated[
        float,
        seconds(
            "Time from the start of one sweep over all processes to the start of the next.",
            why="short enough for a timely picture, long enough to be a small load.",
            lowest=LOWEST_SCAN_INTERVAL_S,
            highest=HIGHEST_SCAN_INTERVAL_S,
        ),
    ] = DEFAULT_SCAN_INTERVAL_S
    log_execs: Annotated[
        bool,
        Setting(
            meaning="Log every program that is run as one entry, exec_seen, with user, arguments and hash.",
            why="the journal is then a record of what ran; a busy host may want it shorter.",
        ),
    ] = True
    control_socket: Annotated[
        str,
        socket_path(
            "Path of the Unix socket on which the agent tells its own state.",
            why="systemd's RuntimeDirectory=daemoneye-agent.",
            flag="--control-socket",
        ),
    ] = "/run/daemoneye-agent/control.sock"
    control_users: Annotated[
        tuple[str | int, ...],
        accounts(
            "Users who may ask the agent for its state, besides the one it runs as.",
            why="the state names no process; administrators are root.",
            of="user",
        ),
    ] = ("root",)
    control_groups: Annotated[
        tuple[str | int, ...],
        accounts(
            "Groups whose members may ask the agent for its state. The first owns the socket, which "
            "works if the agent is a member of it or root.",
            why="nobody but control_users.",
            of="group",
        ),
    ] = ()
    log_level: Annotated[
        Level,
        Setting(
            meaning="Least severe message written to stderr.",
            why="one summary per sweep, and what goes wrong.",
            flag="--log-level",
        ),
    ] = "info"
    client: Annotated[
        ClientSettings, Setting(meaning="How the agent deals with a procmond that is slow or away.")
    ] = ClientSettings()


PROGRAM: Final = Program(
    name="daemoneye-agent",
    description="Asks procmond what runs on this machine, again and again. Needs no right of root.",
    definition=AgentConfig,
    prefix="DAEMONEYE_AGENT_",
    config_path="/etc/daemoneye/agent.toml",
)


parse_arguments = PROGRAM.parse_arguments
load = PROGRAM.load


def resolve_server_uid(resolved: Resolved[AgentConfig]) -> int:
    """The uid procmond must have. Raises: ConfigError if `server_user` names nobody."""
    user = find_user(resolved.value.server_user)
    if user is None:
        raise resolved.error("server_user", f"expected an existing user, not {resolved.value.server_user!r}")
    return user.uid


class ControlAccess(msgspec.Struct, frozen=True):
    """Who may ask the agent for its state, as the kernel names peers."""

    uids: frozenset[int]
    gids: frozenset[int]
    socket_gid: int
    """The group that owns the socket."""


def resolve_control_access(resolved: Resolved[AgentConfig]) -> ControlAccess:
    """Look up the configured names. Raises: ConfigError for one that does not exist."""
    config = resolved.value
    uids = {os.geteuid()}
    for name in config.control_users:
        user = find_user(name)
        if user is None:
            raise resolved.error("control_users", f"expected an existing user, not {name!r}")
        uids.add(user.uid)
    gids: list[int] = []
    for name in config.control_groups:
        gid = find_group(name)
        if gid is None:
            raise resolved.error("control_groups", f"expected an existing group, not {name!r}")
        gids.append(gid)
    return ControlAccess(frozenset(uids), frozenset(gids), gids[0] if gids else os.getegid())

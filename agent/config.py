"""What an administrator may change about daemoneye-agent. One rule: a key exists only if something uses it.

The definitions are the documentation: flags, environment variables and the commented file come from them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Final

import msgspec

from common.accounts import are_accounts, find_group, find_user, is_account
from common.arguments import Arguments, Program
from common.arguments import load as load_program
from common.arguments import parse_arguments as parse_program_arguments
from common.config import MAX_SOCKET_PATH_BYTES, Resolved, Setting, is_absolute_path, is_socket_path
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
        Setting(
            meaning="Time to connect and to agree on capabilities.",
            why="a procmond that is up does both within milliseconds.",
            unit="seconds",
            minimum=LOWEST_WAIT_S,
            maximum=HIGHEST_WAIT_S,
        ),
    ] = CLIENT_CONNECT_TIMEOUT_S
    call_deadline: Annotated[
        float,
        Setting(
            meaning="Time one question may take, all frames of its answer included.",
            why="procmond's own deadline for a task that names none.",
            unit="seconds",
            minimum=LOWEST_WAIT_S,
            maximum=MAX_DEADLINE_MS / 1000,
        ),
    ] = DEFAULT_TASK_DEADLINE_S
    backoff_base: Annotated[
        float,
        Setting(
            meaning="Longest wait after the first failed attempt to connect; doubles with each further one.",
            why="a procmond that restarts is back almost at once.",
            unit="seconds",
            minimum=LOWEST_WAIT_S,
            maximum=HIGHEST_WAIT_S,
        ),
    ] = RECONNECT_INITIAL_S
    backoff_cap: Annotated[
        float,
        Setting(
            meaning="No wait between two attempts to connect is longer.",
            why="trying a local socket costs next to nothing, being blind does not.",
            unit="seconds",
            minimum=LOWEST_WAIT_S,
            maximum=HIGHEST_WAIT_S,
        ),
    ] = RECONNECT_MAX_S
    breaker_threshold: Annotated[
        int,
        Setting(
            meaning="Failures in a row after which questions fail at once, without an attempt, for a while.",
            why="enough to outlast a restart.",
            minimum=1,
            maximum=HIGHEST_BREAKER_FAILURES,
        ),
    ] = BREAKER_FAILURES
    breaker_cool_down: Annotated[
        float,
        Setting(
            meaning="Time for which they fail at once; then one attempt decides.",
            why="as long as the longest wait between two attempts.",
            unit="seconds",
            minimum=LOWEST_WAIT_S,
            maximum=HIGHEST_WAIT_S,
        ),
    ] = BREAKER_COOL_DOWN_S


class AgentConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The effective configuration of daemoneye-agent."""

    socket: Annotated[
        str,
        Setting(
            meaning="Path of the Unix socket on which procmond answers.",
            why="procmond's own default.",
            accepts=is_socket_path,
            expected=f"an absolute path of at most {MAX_SOCKET_PATH_BYTES} bytes",
            flag="--socket",
            metavar="PATH",
        ),
    ] = "/run/daemoneye/procmond.sock"
    server_user: Annotated[
        str | int,
        Setting(
            meaning="User as whom procmond must run; an answer of anybody else is not believed.",
            why="only root sees every process.",
            accepts=is_account,
            expected="a user name or number",
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
        Setting(
            meaning="Time from the start of one sweep over all processes to the start of the next.",
            why="short enough for a timely picture, long enough to be a small load.",
            unit="seconds",
            minimum=LOWEST_SCAN_INTERVAL_S,
            maximum=HIGHEST_SCAN_INTERVAL_S,
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
        Setting(
            meaning="Path of the Unix socket on which the agent tells its own state.",
            why="systemd's RuntimeDirectory=daemoneye-agent.",
            accepts=is_socket_path,
            expected=f"an absolute path of at most {MAX_SOCKET_PATH_BYTES} bytes",
            flag="--control-socket",
            metavar="PATH",
        ),
    ] = "/run/daemoneye-agent/control.sock"
    control_users: Annotated[
        tuple[str | int, ...],
        Setting(
            meaning="Users who may ask the agent for its state, besides the one it runs as.",
            why="the state names no process; administrators are root.",
            accepts=are_accounts,
            expected="a list of user names or numbers",
        ),
    ] = ("root",)
    control_groups: Annotated[
        tuple[str | int, ...],
        Setting(
            meaning="Groups whose members may ask the agent for its state. The first owns the socket, which "
            "works if the agent is a member of it or root.",
            why="nobody but control_users.",
            accepts=are_accounts,
            expected="a list of group names or numbers",
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


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """See `common.arguments.parse_arguments`."""
    return parse_program_arguments(PROGRAM, argv)


def load(arguments: Arguments, environment: Mapping[str, str]) -> Resolved[AgentConfig]:
    """See `common.arguments.load`. Raises: ConfigError."""
    return load_program(PROGRAM, arguments, environment)


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

"""What an administrator may change about procmond. One rule: every default is safe for root as it is.

The definitions are the documentation: flags, environment variables and the commented file come from them.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from common.arguments import Program
from common.limits import (
    DEFAULT_MAX_FRAME_SIZE,
    DEFAULT_TASK_DEADLINE_S,
    FRAME_DEADLINE_S,
    HASH_BUDGET_S,
    HASH_CACHE_ENTRIES,
    HASH_FILE_DEADLINE_S,
    HASH_MAX_FILE_BYTES,
    HASH_WORKERS,
    MAX_CONNECTIONS,
    MAX_CONNECTIONS_PER_UID,
    MAX_DEADLINE_MS,
    MAX_HASH_BUDGET_MS,
    MAX_MAX_FRAME_SIZE,
    MAX_TASKS_IN_FLIGHT,
    MAX_TASKS_PER_CONNECTION,
    MIB,
    MIN_MAX_FRAME_SIZE,
    STALL_LIMIT_S,
)
from common.logs import Level
from common.setting import Setting, account, accounts, number, seconds, socket_path
from procmond.collect.environment import ENVIRONMENT_NAMES

HIGHEST_CONNECTIONS: Final = 4096
"""Connections. Each may hold two frames of memory; the agent and a few people need a handful."""
HIGHEST_TASKS: Final = 4096
"""Tasks. Each may hold a frame of memory, and all wait for one collector."""
LOWEST_DEADLINE_S: Final = 0.1
"""Seconds. Below it a busy machine, not a hostile peer, decides who is cut off."""
HIGHEST_WAIT_S: Final = 3600.0
"""Seconds a peer may hold a connection's resources without a move."""

HIGHEST_HASH_FILE_BYTES: Final = 1024 * 1024 * MIB
"""Bytes (1 TiB): beyond any executable; the per-file deadline ends the work long before."""
HIGHEST_HASH_WORKERS: Final = 64
"""Threads. Hashing is bound by the processors and the disk, not by waiting."""
HIGHEST_HASH_CACHE_ENTRIES: Final = 1_048_576
"""Entries. Root keeps them in memory."""


Accounts = tuple[str | int, ...]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What peers may use up."""

    max_frame_size: Annotated[
        int,
        number(
            "Largest payload of one frame, in both directions. Clients must allow as much.",
            why="the specification's value.",
            unit="bytes",
            lowest=MIN_MAX_FRAME_SIZE,
            highest=MAX_MAX_FRAME_SIZE,
        ),
    ] = DEFAULT_MAX_FRAME_SIZE
    connections: Annotated[
        int,
        number(
            "Connections open at once; one more is told BUSY and closed.",
            why="far above an agent and a few people, and bounded in memory.",
            highest=HIGHEST_CONNECTIONS,
        ),
    ] = MAX_CONNECTIONS
    connections_per_uid: Annotated[
        int,
        number(
            "Connections of one user open at once.",
            why="a quarter of `connections`, so that no single user locks out the others.",
            highest=HIGHEST_CONNECTIONS,
        ),
    ] = MAX_CONNECTIONS_PER_UID
    tasks_per_connection: Annotated[
        int,
        number(
            "Tasks in flight on one connection; one more is answered BUSY at once.",
            why="enough to pipeline, too few to fill `tasks_in_flight` from one connection.",
            highest=HIGHEST_TASKS,
        ),
    ] = MAX_TASKS_PER_CONNECTION
    tasks_in_flight: Annotated[
        int,
        number(
            "Tasks in flight on all connections; one more is answered BUSY at once.",
            why="one collector answers them; more would only wait.",
            highest=HIGHEST_TASKS,
        ),
    ] = MAX_TASKS_IN_FLIGHT
    frame_deadline: Annotated[
        float,
        seconds(
            "Time from the first byte of a frame to its last; a peer that takes longer is closed.",
            why="a frame takes milliseconds; only a dead or hostile peer needs longer.",
            lowest=LOWEST_DEADLINE_S,
            highest=HIGHEST_WAIT_S,
        ),
    ] = FRAME_DEADLINE_S
    stall_limit: Annotated[
        float,
        seconds(
            "Time a peer may take nothing while an answer waits for it, before it is closed.",
            why="survives a paused terminal for a moment, frees what a dead reader holds.",
            lowest=LOWEST_DEADLINE_S,
            highest=HIGHEST_WAIT_S,
        ),
    ] = STALL_LIMIT_S
    task_deadline: Annotated[
        float,
        seconds(
            "Deadline of a task that names none, from its receipt, queueing included.",
            why="far above a full sweep, and short enough to notice a stalled one.",
            lowest=LOWEST_DEADLINE_S,
            highest=MAX_DEADLINE_MS / 1000,
        ),
    ] = DEFAULT_TASK_DEADLINE_S


class Hashing(msgspec.Struct, frozen=True, kw_only=True):
    """What hashing may cost."""

    max_file_size: Annotated[
        int,
        number(
            "Largest file that is hashed; a larger one is reported with the state too_large.",
            why="above nearly every executable, below what would keep a disk busy for minutes.",
            unit="bytes",
            lowest=0,
            highest=HIGHEST_HASH_FILE_BYTES,
        ),
    ] = HASH_MAX_FILE_BYTES
    file_deadline: Annotated[
        float,
        seconds(
            "Time one file may take; then it is reported without a hash, with the reason.",
            why="leaves a task with the default deadline time to report it.",
            lowest=LOWEST_DEADLINE_S,
            highest=HIGHEST_WAIT_S,
        ),
    ] = HASH_FILE_DEADLINE_S
    workers: Annotated[
        int,
        number(
            "Files hashed at the same time.",
            why="one slow file does not hold up the rest, and other work keeps its processors.",
            unit="threads",
            highest=HIGHEST_HASH_WORKERS,
        ),
    ] = HASH_WORKERS
    cache_entries: Annotated[
        int,
        number(
            "Hashes remembered, by device, inode, size and both times of the file. 0 remembers none.",
            why="well above the distinct executables that run on a host at once.",
            unit="entries",
            lowest=0,
            highest=HIGHEST_HASH_CACHE_ENTRIES,
        ),
    ] = HASH_CACHE_ENTRIES
    budget: Annotated[
        float,
        seconds(
            "Time a sweep waits for hashes it does not remember; the rest are reported pending.",
            why="the first answer comes in time, the next ones complete it.",
            lowest=0,
            highest=MAX_HASH_BUDGET_MS / 1000,
        ),
    ] = HASH_BUDGET_S


class ProcmondConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The effective configuration of procmond."""

    socket: Annotated[
        str,
        socket_path(
            "Path of the Unix socket on which procmond answers. Not used when systemd passes one.",
            why="the directory is root's alone to write, made by tmpfiles.d.",
            flag="--socket",
        ),
    ] = "/run/daemoneye/procmond.sock"
    allow_users: Annotated[
        Accounts,
        accounts(
            "Users who may ask. Replaces the default list. They must also be able to open the "
            "socket, which belongs to root and to the first group of allow_groups, mode 0660.",
            why="everybody else is let in by group, or not at all.",
            of="user",
            flag="--allow-user",
            metavar="USER",
        ),
    ] = ("root",)
    allow_groups: Annotated[
        Accounts,
        accounts(
            "Groups whose members may ask, supplementary groups included. Replaces the default list. "
            "The first one owns the socket.",
            why="the agent's own group; add a person to it to let them ask.",
            of="group",
            flag="--allow-group",
            metavar="GROUP",
        ),
    ] = ("daemoneye",)
    admin_users: Annotated[
        Accounts,
        accounts(
            "Users who may administer: they also learn why a path was refused. Replaces the default "
            "list. A user named only here may not ask at all.",
            why="root, and the user the agent runs as.",
            of="user",
            flag="--admin-user",
            metavar="USER",
        ),
    ] = ("root", "daemoneye")
    collector: Annotated[
        Literal["auto", "bpf", "procfs", "psutil"],
        Setting(
            meaning="How processes are enumerated. `auto` takes the fastest that works here.",
            why="which one is in force, and why, is in the capabilities.",
            flag="--collector",
        ),
    ] = "auto"
    event_source: Annotated[
        Literal["auto", "ebpf", "connector", "polling"],
        Setting(
            meaning="Where live events come from. `auto` takes the most complete that works here.",
            why="which one is in force, and why, is in the capabilities.",
            flag="--event-source",
        ),
    ] = "auto"
    allow_unconfined: Annotated[
        bool,
        Setting(
            meaning="Start even if procmond cannot give up the rights it does not need; it says so.",
            why="a root daemon that kept every right would be a surprise.",
            flag="--allow-unconfined",
        ),
    ] = False
    front_user: Annotated[
        str | int | None,
        account(
            "User, other than root, as whom the part that reads what peers send runs. Unset: it "
            "keeps its uid, without any right of root.",
            why="unset, because only an installation can make such a user.",
        ),
    ] = None
    log_level: Annotated[
        Level,
        Setting(
            meaning="Least severe message written to stderr.",
            why="one line per event that matters, none per task.",
            flag="--log-level",
        ),
    ] = "info"
    redact_arguments: Annotated[
        bool,
        Setting(
            meaning="Replace the values of secret arguments (passwords, tokens) by [REDACTED] before they "
            "leave procmond.",
            why="arguments travel to a database and to alerts that more people read than /proc.",
        ),
    ] = True
    environment_variables: Annotated[
        tuple[str, ...],
        Setting(
            meaning="Environment variables of processes that are reported when a client asks for them, by "
            "name. Replaces the default list; all others never leave procmond.",
            why="those that make a program load other code, and those that tell where a session came from.",
            accepts=lambda names: all("=" not in name for name in names),
            expected="a list of variable names",
        ),
    ] = tuple(sorted(ENVIRONMENT_NAMES))
    limits: Annotated[Limits, Setting(meaning="What peers may use up.")] = Limits()
    hashing: Annotated[Hashing, Setting(meaning="What hashing may cost.")] = Hashing()


PROGRAM: Final = Program(
    name="procmond",
    description="Answers questions about the processes of this machine over a Unix socket. Runs as root.",
    definition=ProcmondConfig,
    prefix="PROCMOND_",
    config_path="/etc/daemoneye/procmond.toml",
)


parse_arguments = PROGRAM.parse_arguments
load = PROGRAM.load

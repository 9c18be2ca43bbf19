"""`daemoneye-agent`. One rule: whatever is wrong with its surroundings is one line and exit status 2."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Final

import msgspec

from agent.config import (
    PROGRAM,
    AgentConfig,
    ControlAccess,
    load,
    parse_arguments,
    resolve_control_access,
    resolve_server_uid,
)
from agent.daemon import Daemon
from agent.service import serve
from common import __version__, logs
from common.arguments import Arguments
from common.conffile import render_effective
from common.config import Resolved
from common.errors import ConfigError
from common.listening import Listener
from common.service import InstanceLock, run

EXIT_USAGE: Final = 2

LOCK_NAME: Final = "agent.lock"
"""In the state directory: one agent each."""

_RELOADABLE: Final = frozenset({"log_execs", "log_level", "scan_interval"})

_log = logs.get_logger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the agent with the arguments `argv` (default: the process's own) and return its exit status.

    Raises: SystemExit for wrong usage, --help and --version.
    """
    arguments = parse_arguments(sys.argv[1:] if argv is None else argv)
    try:
        resolved = load(arguments, os.environ)
        server_uid = resolve_server_uid(resolved)
        access = resolve_control_access(resolved)
        if arguments.check_config:
            sys.stdout.write(render_effective(resolved))
            return 0
        if not os.path.isdir(resolved.value.state_dir):
            raise resolved.error("state_dir", f"no such directory: {resolved.value.state_dir}; create it")
        with InstanceLock(os.path.join(resolved.value.state_dir, LOCK_NAME)) as lock:
            return _run(arguments, resolved, server_uid, access, lock)
    except ConfigError as error:
        sys.stderr.write(f"{PROGRAM.name}: {error}\n")
        return EXIT_USAGE


def _run(
    arguments: Arguments,
    resolved: Resolved[AgentConfig],
    server_uid: int,
    access: ControlAccess,
    lock: InstanceLock,
) -> int:
    logs.configure(resolved.value.log_level, PROGRAM.name)
    current = resolved.value
    daemon: Daemon | None = None

    async def work(stop: asyncio.Event) -> int:
        nonlocal daemon
        daemon = Daemon(
            current,
            server_uid,
            control,
            access,
            version=__version__,
            on_sweep=lambda _: mark(),
            seen_ms=lock.marked_ms,
        )
        status = await serve(daemon, stop)
        mark()
        return status

    def mark() -> None:
        # What the next agent takes for the last moment at which somebody saw; killed, it was the last sweep.
        if daemon is not None and daemon.sees:
            lock.mark()

    def reload() -> None:
        nonlocal current
        if daemon is not None:
            current = _reload(arguments, current, daemon)

    with contextlib.closing(Listener(current.control_socket, access.socket_gid)) as listener:
        control = listener.open()
        return run(work, reload=reload)


def _reload(arguments: Arguments, current: AgentConfig, daemon: Daemon) -> AgentConfig:
    """The configuration after SIGHUP; one that is wrong changes nothing."""
    try:
        wanted = load(arguments, os.environ).value
    except ConfigError as error:
        _log.error("config_refused", reason=str(error))
        return current
    changed = [name for name in wanted.__struct_fields__ if getattr(wanted, name) != getattr(current, name)]
    taken = {name: getattr(wanted, name) for name in changed if name in _RELOADABLE}
    current = msgspec.structs.replace(current, **taken)
    logs.configure(current.log_level, PROGRAM.name)
    daemon.reconfigure(current)
    _log.info("config_reloaded", changed=sorted(taken), needs_restart=sorted(set(changed) - taken.keys()))
    return current


if __name__ == "__main__":
    sys.exit(main())

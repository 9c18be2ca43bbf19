"""The command `procmond`. One rule: everything is decided and opened before the first child exists."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final

from common import logs
from common.arguments import Arguments
from common.conffile import render_effective
from common.config import Resolved
from common.errors import ConfigError
from common.service import listen_fds, loop_factory
from procmond import config
from procmond.access import Access, resolve_access
from procmond.collect.boot import read_boot_time
from procmond.collect.choice import check_choice
from procmond.collect.guard import Guard
from procmond.collect.service import serve as serve_collector
from procmond.collect.settings import CollectorSettings
from procmond.config import ProcmondConfig
from procmond.events.choice import Opened, open_sources
from procmond.front.service import serve as serve_front
from procmond.front.settings import FrontSettings
from procmond.listening import Listener, inherited, split_connector
from procmond.pulse import Pulse
from procmond.quarantine import Withheld
from procmond.supervisor import Bodies, Supervisor

EXIT_USAGE: Final = 2

_log = logs.get_logger("procmond")


def main(argv: Sequence[str] | None = None) -> int:
    """Run procmond; returns the exit status: 0 after SIGTERM, 1 when it could not go on, 2 for wrong usage
    or configuration."""
    arguments = config.parse_arguments(sys.argv[1:] if argv is None else argv)
    try:
        resolved = config.load(arguments, os.environ)
        check_choice(resolved.value.collector)
        if arguments.check_config:
            resolve_access(resolved)
            sys.stdout.write(render_effective(resolved))
            return 0
        return _run(arguments, resolved)
    except ConfigError as error:
        sys.stderr.write(f"procmond: {error}\n")
        return EXIT_USAGE


def _run(arguments: Arguments, resolved: Resolved[ProcmondConfig]) -> int:
    settings = resolved.value
    access = resolve_access(resolved)
    logs.configure(settings.log_level, "procmond")
    for warning in access.warnings:
        _log.warning("name_missing", detail=warning)
    with ExitStack() as stack:
        connector, passed = split_connector(listen_fds())
        listener = inherited(passed)
        if listener is None:
            own = stack.enter_context(Listener(settings.socket, access.socket_gid))
            assert own.sock is not None  # noqa: S101 - entered, so it is open
            listener = own.sock
        opened = open_sources(settings.event_source, connector)
        stack.callback(opened.close)
        return Supervisor(
            listener,
            front_settings(settings, access),
            collector_settings(settings),
            opened,
            Bodies(_be_front, _be_collector),
            lambda: _reload(arguments),
        ).run()


def front_settings(settings: ProcmondConfig, access: Access) -> FrontSettings:
    """What the front is told."""
    limits = settings.limits
    return FrontSettings(
        allowed_uids=access.uids,
        allowed_gids=access.gids,
        admin_uids=access.admin_uids,
        max_frame_size=limits.max_frame_size,
        max_connections=limits.connections,
        max_connections_per_uid=limits.connections_per_uid,
        max_tasks_per_connection=limits.tasks_per_connection,
        max_tasks=limits.tasks_in_flight,
        frame_deadline_s=limits.frame_deadline,
        stall_limit_s=limits.stall_limit,
        task_deadline_s=limits.task_deadline,
    )


def collector_settings(settings: ProcmondConfig) -> CollectorSettings:
    """What the collector is told; reads the clocks, so once in a server's life."""
    hashing = settings.hashing
    return CollectorSettings(
        collector=settings.collector,
        boot_time=read_boot_time(),
        max_frame_size=settings.limits.max_frame_size,
        redact_arguments=settings.redact_arguments,
        environment_variables=settings.environment_variables,
        hash_max_file_bytes=hashing.max_file_size,
        hash_file_deadline_s=hashing.file_deadline,
        hash_workers=hashing.workers,
        hash_cache_entries=hashing.cache_entries,
        hash_budget_s=hashing.budget,
    )


def _reload(arguments: Arguments) -> FrontSettings | None:
    try:
        resolved = config.load(arguments, os.environ)
        access = resolve_access(resolved)
    except ConfigError as error:
        _log.error("configuration_refused", error=str(error), kept="the one in force")
        return None
    logs.configure(resolved.value.log_level, "procmond")
    _log.info("configuration_reloaded")
    return front_settings(resolved.value, access)


def _be_front(listener: socket.socket, supervisor: socket.socket, settings: FrontSettings) -> None:
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(serve_front(listener, supervisor, settings))


def _be_collector(
    line: socket.socket, settings: CollectorSettings, pulse: Pulse, withheld: Withheld, opened: Opened
) -> None:
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(serve_collector(line, settings, Guard(pulse, withheld), opened))


if __name__ == "__main__":
    sys.exit(main())

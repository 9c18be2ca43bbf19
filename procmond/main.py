"""The command `procmond`. One rule: everything is decided and opened before the first child exists."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Final

import msgspec

from common import logs
from common.arguments import Arguments
from common.conffile import render_effective
from common.config import Resolved
from common.errors import ConfigError, ConfinementError
from common.listening import Listener, inherited
from common.service import Notifier, listen_fds, loop_factory
from procmond import config
from procmond.access import Access, resolve_access
from procmond.children import Children, Rights
from procmond.collect.boot import read_boot_time
from procmond.collect.choice import check_choice
from procmond.collect.handles import raise_descriptor_limit
from procmond.collect.mounts import find_memory_device
from procmond.collect.settings import CollectorSettings
from procmond.config import ProcmondConfig
from procmond.confine.groups import reserve_process_group
from procmond.confine.roles import confine_supervisor
from procmond.events.choice import Opened, open_sources
from procmond.events.connector import split_connector
from procmond.front.settings import FrontSettings
from procmond.supervisor import Supervisor

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2

_log = logs.get_logger("procmond")


def main(argv: Sequence[str] | None = None) -> int:
    """Run procmond; returns the exit status: 0 after SIGTERM, 1 when it could not go on, 2 for wrong usage
    or configuration."""
    arguments = config.parse_arguments(sys.argv[1:] if argv is None else argv)
    try:
        resolved = config.load(arguments, os.environ)
        if arguments.check_config:
            resolve_access(resolved)
            sys.stdout.write(render_effective(resolved))
            return 0
        return _run(arguments, resolved)
    except ConfigError as error:
        sys.stderr.write(f"procmond: {error}\n")
        return EXIT_USAGE
    except ConfinementError as error:
        sys.stderr.write(f"procmond: {error}\n")
        return EXIT_FAILED


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
        check_choice(settings.collector, opened)
        return supervise(listener, resolved, access, lambda: _reload(arguments), opened=opened)


def supervise(
    listener: socket.socket,
    resolved: Resolved[ProcmondConfig],
    access: Access,
    reload: Callable[[], FrontSettings | None],
    when_confined: Callable[[], None] = lambda: None,
    opened: Opened | None = None,
) -> int:
    """Give up what is not needed, then run until told to end; the exit status.

    `opened` are the event sources, by default polling alone. `reload` reads the configuration again.
    `when_confined` is called in each of the three processes once its rights are gone. Raises:
    ConfinementError when this process must confine itself and cannot.
    """
    settings = resolved.value
    raise_descriptor_limit()
    notifier = Notifier()
    rights = Rights(
        required=not settings.allow_unconfined,
        front=access.front,
        front_group=reserve_process_group(),
        collector_group=reserve_process_group(),
    )
    told = collector_settings(settings)
    loops = loop_factory()  # its library must be mapped before executable memory is refused
    uid, gid = access.front or (None, None)
    confinement = confine_supervisor(
        uid,
        gid,
        killable_groups=(rights.front_group, rights.collector_group),
        required=rights.required,
    )
    if confinement.missing:
        _log.warning("supervisor_not_confined", missing=list(confinement.missing))
    when_confined()
    return Supervisor(
        listener,
        msgspec.structs.replace(front_settings(settings, access), supervisor=confinement),
        told,
        opened or Opened(),
        Children(rights, loops, when_confined),
        reload,
        notifier,
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
        memory_device=find_memory_device(),
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


if __name__ == "__main__":
    sys.exit(main())

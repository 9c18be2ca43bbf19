"""The two daemons as children of `daemoneye up`. One rule: nothing is imported after a child gave up root.

The interpreter and this checkout may lie where the agent's uid cannot read, so everything is loaded here,
before the fork. Children get a process group of their own (a Ctrl-C at the terminal is the parent's to act
on) and end when the parent does.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import importlib
import os
import select
import signal
import time
from collections.abc import Callable
from importlib import metadata
from typing import Final, NamedTuple

from agent.cli.render import Screen
from agent.cli.story import inventory_lines, live_line
from agent.config import PROGRAM, AgentConfig, ControlAccess
from agent.daemon import Daemon
from agent.inventory import Inventory, SweepReport
from agent.main import LOCK_NAME
from agent.service import serve
from common import logs
from common.listening import Listener
from common.service import InstanceLock, run

SCAN_INTERVAL_S: Final = 2.0  # a first look should move; the daemon's default is for months
VERSION: Final = metadata.version("daemoneye")

_PR_SET_PDEATHSIG: Final = 1  # prctl(2)
_PR_SET_NAME: Final = 15
_LIBC: Final = ctypes.CDLL(None, use_errno=True)
# Modules that the standard library and the event loop load only when first used.
_LAZY: Final = (
    "uvloop",
    "concurrent.futures.thread",
    "encodings.idna",
    "linecache",
    "traceback",
    "procmond.main",
)

_log = logs.get_logger(__name__)


class Account(NamedTuple):
    """Whom a daemon runs as."""

    uid: int
    gid: int


class Child(NamedTuple):
    """A daemon that was started; also the leader of a process group."""

    name: str
    pid: int
    descriptor: int  # pidfd


class Place(NamedTuple):
    """Where the daemons of one run meet: all of it inside one directory, removed at the end."""

    directory: str

    @property
    def socket(self) -> str:
        """Procmond's."""
        return os.path.join(self.directory, "procmond.sock")

    @property
    def state_dir(self) -> str:
        """The agent's."""
        return os.path.join(self.directory, "state")

    @property
    def control_socket(self) -> str:
        """The agent's; in its state directory, because the other one belongs to who started this."""
        return os.path.join(self.state_dir, "control.sock")

    def log(self, name: str) -> str:
        """The log of the daemon `name`."""
        return os.path.join(self.directory, f"{name}.log")


def preload() -> None:
    """Import what the children will need; see the module's rule."""
    for name in _LAZY:
        with contextlib.suppress(ModuleNotFoundError):  # uvloop is optional
            importlib.import_module(name)


def start(name: str, body: Callable[[], int], log: str | None) -> Child:
    """Fork a child that runs `body` and exits with its result; its output goes to the end of `log`.

    `log` None: it keeps the parent's standard error.
    """
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _be(name, body, log, parent)
    with contextlib.suppress(OSError):  # the child may have done it, or have ended
        os.setpgid(pid, pid)
    return Child(name, pid, os.pidfd_open(pid))


def stop(child: Child, grace_s: float) -> None:
    """End a child within `grace_s` seconds, by force if need be, with all that it started."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(child.descriptor, signal.SIGTERM)
    select.select([child.descriptor], [], [], grace_s)
    # Not reaped yet, so the number of its group cannot be another's.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(child.pid, 0)
    os.close(child.descriptor)


def run_procmond(place: Place, agent: Account) -> int:
    """The body of procmond's child: it answers the agent and whoever started this."""
    # By name, so that the agent depends on procmond nowhere else.
    main = importlib.import_module("procmond.main").main
    users = dict.fromkeys((str(os.geteuid()), str(agent.uid)))
    return int(
        main(
            # An installed configuration must not decide over a first look.
            [
                *("--config", os.devnull),
                *("--socket", place.socket),
                *("--allow-user", *users),
                *("--allow-group", str(agent.gid)),
                *("--admin-user", *users),
            ]
        )
    )


def run_agent(place: Place, account: Account, server_uid: int, screen: Screen, pipe: int) -> int:
    """The body of the agent's child: becomes `account`, sweeps, and writes what it saw to `pipe` as text."""
    become(account)
    config = AgentConfig(
        socket=place.socket,
        state_dir=place.state_dir,
        scan_interval=SCAN_INTERVAL_S,
        control_socket=place.control_socket,
    )
    access = ControlAccess(frozenset({account.uid, server_uid}), frozenset(), account.gid)
    before: Inventory | None = None
    sweeps = 0

    def tell(report: SweepReport) -> None:
        nonlocal before, sweeps
        sweeps += 1
        now = time.time()
        if before is None:
            text = "\n".join(inventory_lines(report, now, screen)) + "\n\n"
        else:
            text = live_line(sweeps, report, before, now, screen) + "\n"
        before = report.inventory
        data = text.encode(errors="backslashreplace")
        while data:
            data = data[os.write(pipe, data) :]

    async def work(stop: asyncio.Event) -> int:
        daemon = Daemon(config, server_uid, control, access, version=VERSION, on_sweep=tell)
        return await serve(daemon, stop)

    logs.configure("info", PROGRAM.name)
    listener = Listener(place.control_socket, account.gid)
    with InstanceLock(os.path.join(place.state_dir, LOCK_NAME)), contextlib.closing(listener):
        control = listener.open()
        return run(work)


def become(account: Account) -> None:
    """Take on `account` for good, if it is not ours already. Raises: OSError."""
    if account == (os.geteuid(), os.getegid()):
        return
    os.setgroups([])
    os.setresgid(account.gid, account.gid, account.gid)
    os.setresuid(account.uid, account.uid, account.uid)
    _end_with_parent()  # a change of credentials clears it


def _be(name: str, body: Callable[[], int], log: str | None, parent: int) -> None:
    """In the child: never returns, whatever happens."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        os.setpgid(0, 0)
        _LIBC.prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)
        _redirect(log)
        _end_with_parent()
        if os.getppid() == parent:
            status = body()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 2
    except Exception as error:  # noqa: BLE001 - the last frame of a process: said, then ended with status 1
        logs.configure("info", name)
        _log.error("daemon_failed", exc_info=error)
    finally:
        os._exit(status)


def _redirect(log: str | None) -> None:
    """Input from nowhere; output to the log, or where the parent's errors go."""
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)
    os.close(nowhere)
    if log is not None:
        target = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.dup2(target, 2)
        os.close(target)
    os.dup2(2, 1)


def _end_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)

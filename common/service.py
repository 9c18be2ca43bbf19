"""What a daemon owes the system around it. One rule: each piece stands alone and works without systemd.

`run` is the frame of an asyncio daemon; `notify`, `listen_fds` and `InstanceLock` know nothing of asyncio, so
that procmond's supervisor can use them too.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
import stat
from collections.abc import Callable, Coroutine, MutableMapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from common.errors import AlreadyRunning, ConfigError

FIRST_INHERITED_DESCRIPTOR: Final = 3
"""SD_LISTEN_FDS_START of sd_listen_fds(3)."""

MAX_DESCRIPTORS: Final = 1_048_576
"""fs.nr_open as the kernel starts (proc(5)); no process has more descriptors unless somebody raised it."""

NOTIFY_TIMEOUT_S: Final = 1.0
"""Seconds to wait while the manager's queue is full; the daemon's own work must not wait longer."""

MAX_USEC_DIGITS: Final = 20
"""Of WATCHDOG_USEC: a 64-bit number."""

PID_TEXT_BYTES: Final = 32
"""A pid in decimal digits and a newline, with room to spare."""


def run(
    main: Callable[[asyncio.Event], Coroutine[Any, Any, int]], *, reload: Callable[[], None] | None = None
) -> int:
    """Run `main(stop)` on a new event loop, uvloop's where it is installed, and return its exit status.

    SIGTERM and SIGINT set `stop`; `main` then ends in its own time. SIGHUP calls `reload` on the loop;
    without one it keeps its default action, which ends the process.
    """

    async def framed() -> int:
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        if reload is not None:
            loop.add_signal_handler(signal.SIGHUP, reload)
        return await main(stop)

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(framed())


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


class Notifier:
    """Tells the service manager how we are, as sd_notify(3) does, over a socket opened once at start.

    Never raises: without a manager, or with one that does not listen, there is nobody to tell.
    """

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        self._socket: socket.socket | None = None
        address = environment.get("NOTIFY_SOCKET", "")
        if not address.startswith(("/", "@")):
            return
        if address.startswith("@"):  # an abstract name, unix(7)
            address = "\0" + address[1:]
        sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            sender.connect(address)
        except OSError:
            sender.close()
            return
        sender.settimeout(NOTIFY_TIMEOUT_S)
        self._socket = sender

    @property
    def connected(self) -> bool:
        """Whether a service manager was there to connect to."""
        return self._socket is not None

    def send(self, state: str) -> bool:
        """Tell `state` (`READY=1`); whether it was told."""
        if self._socket is None:
            return False
        try:
            self._socket.send(state.encode())
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Tell nothing any more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def notify(state: str, environment: MutableMapping[str, str] = os.environ) -> bool:
    """Tell one `state` and forget the socket; see `Notifier`."""
    notifier = Notifier(environment)
    try:
        return notifier.send(state)
    finally:
        notifier.close()


def watchdog_interval(environment: MutableMapping[str, str] = os.environ) -> float | None:
    """Seconds after which the service manager acts if it has not heard WATCHDOG=1, sd_watchdog_enabled(3).

    None when it does not wait for that, or waits for another process.
    """
    microseconds = environment.get("WATCHDOG_USEC", "")
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    if not (microseconds.isascii() and microseconds.isdigit()) or len(microseconds) > MAX_USEC_DIGITS:
        return None
    return int(microseconds) / 1_000_000 or None


class InheritedSocket(NamedTuple):
    """A descriptor the service manager passed, close-on-exec by now."""

    descriptor: int
    name: str
    """FileDescriptorName= of the socket unit; `unknown` if the manager named none."""


def listen_fds(environment: MutableMapping[str, str] = os.environ) -> tuple[InheritedSocket, ...]:
    """The descriptors passed to this very process, as sd_listen_fds_with_names(3) says.

    Takes the variables out of `environment`, so that no child believes they are for it.
    Raises: ConfigError if the variables speak to this process and make no sense.
    """
    pid, count, names = (environment.pop(f"LISTEN_{name}", "") for name in ("PID", "FDS", "FDNAMES"))
    if pid != str(os.getpid()):
        return ()
    if not (count.isascii() and count.isdigit() and len(count) <= len(str(MAX_DESCRIPTORS))):
        raise ConfigError(f"LISTEN_FDS: expected a count of descriptors, not {count!a}")
    inherited: list[InheritedSocket] = []
    known = names.split(":") if names else []
    for index in range(int(count)):
        descriptor = FIRST_INHERITED_DESCRIPTOR + index
        try:
            fcntl.fcntl(descriptor, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
        except (OSError, OverflowError):
            raise ConfigError(f"LISTEN_FDS: expected {count} descriptors; {descriptor} is not open") from None
        inherited.append(InheritedSocket(descriptor, known[index] if index < len(known) else "unknown"))
    return tuple(inherited)


class InstanceLock:
    """At most one process per path, for as long as that process lives; a context manager.

    A POSIX record lock (fcntl(2), F_SETLK) rather than flock(2): it belongs to the process alone. A child
    that outlives its parent, such as a collector nobody can kill, would keep an inherited flock and with it
    bar the restart. In return the process must not open the file a second time: closing that would unlock.

    The file stays where it is; one that a crash left behind is locked again. It holds the owner's pid, and
    its time of change says when an owner last called `mark`.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.marked_ms: int | None = None
        """When an owner before this one last called `mark` (Unix milliseconds); None: none ever did."""
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take it. Raises: AlreadyRunning if another process has it, ConfigError if the file is no use."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            descriptor = os.open(self.path, flags, 0o600)
        except OSError as error:
            raise ConfigError(f"{self.path}: the lock file cannot be opened: {error.strerror}") from None
        try:
            self._lock(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def _lock(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        # Whoever may write to the directory could have put another file of ours here, to be overwritten.
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            raise ConfigError(f"{self.path}: expected a lock file, a regular one with a single name")
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # EAGAIN or EACCES, fcntl(2)
            owner = os.pread(descriptor, PID_TEXT_BYTES, 0).decode("ascii", "replace").strip() or "unknown"
            raise AlreadyRunning(f"{self.path}: already running, as pid {owner}") from None
        marked_ns = status.st_mtime_ns if status.st_size else 0
        self.marked_ms = marked_ns // 1_000_000 or None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        with suppress(OSError):
            os.utime(descriptor, ns=(marked_ns, marked_ns))  # to take the lock is no mark

    def mark(self) -> None:
        """Leave the present moment for the next owner; without the lock, nothing happens."""
        if self._descriptor is not None:
            with suppress(OSError):  # a full or broken disk costs the mark, not the daemon
                os.utime(self._descriptor)

    def release(self) -> None:
        """Give the lock up; without one, nothing happens."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            with suppress(
                OSError
            ):  # the descriptor is free and the lock gone even when close reports an error
                os.close(descriptor)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.release()

"""Forked children of tests. One rule: none outlives its test, not even when the test is killed."""

from __future__ import annotations

import contextlib
import os
import posix
import signal
import time
from collections.abc import Callable, Iterator

from procmond.confine import kernel

_PR_SET_PDEATHSIG = 1
PATIENCE_S = 20.0
"""Seconds a child gets to become ready or to go, before the test fails."""


def child_of(body: Callable[[], object]) -> int:
    """Fork; the child runs `body` and ends with status 0, or 1 if it raised. It dies with its parent.

    It ends by posix._exit: under coverage os._exit writes files, which a confined process cannot.
    """
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        die_with_parent()
        if os.getppid() not in (parent, 0):  # gone before it was asked for; 0: it is in another pid namespace
            posix._exit(1)
        body()
        status = 0
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        posix._exit(status)


def reap(pid: int) -> int:
    """The wait status of a child that is about to end. Raises: TimeoutError after `PATIENCE_S`."""
    wait_until(
        lambda: os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None, f"end of {pid}"
    )
    return os.waitpid(pid, 0)[1]


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Look again until `condition` holds. Raises: TimeoutError naming `what` after `PATIENCE_S`."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {PATIENCE_S:g} s")
        time.sleep(0.002)


@contextlib.contextmanager
def running(body: Callable[[Callable[[], None]], object]) -> Iterator[int]:
    """A child in `body`, which is given a function to call once it is ready; killed and reaped at the end.

    Raises: RuntimeError if it ended before it was ready.
    """
    ready, told = os.pipe()

    def run() -> None:
        os.close(ready)
        body(lambda: void(os.write(told, b"x")))

    pid = child_of(run)
    os.close(told)
    try:
        if not os.read(ready, 1):
            raise RuntimeError("the child ended before it was ready")
        yield pid
    finally:
        os.close(ready)
        os.kill(pid, signal.SIGKILL)
        reap(pid)


def void(_value: object) -> None:
    """Make a call a statement."""


def die_with_parent() -> None:
    """Also to be said again after a change of user or user namespace, at which the kernel forgets it."""
    kernel.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def become(uid: int) -> None:
    """The user and group `uid`, and no other group."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    die_with_parent()


def pause_forever() -> None:
    """Until a signal ends it."""
    while True:
        signal.pause()

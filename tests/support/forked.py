"""procmond in a forked child: with other rights than the tests', and no interpreter to be read again.

One rule: everything it will need is imported here first, because another user may not read the files.
"""

from __future__ import annotations

import concurrent.futures.thread
import contextlib
import encodings.ascii
import encodings.idna
import linecache
import os
import posix
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Final, Self

import uvloop

from procmond.main import main
from tests.support.children import child_of, reap, wait_until
from tests.support.daemons import Procmond

LOADED_BEFORE: Final = (
    concurrent.futures.thread,
    encodings.ascii,
    encodings.idna,
    linecache,
    traceback,
    uvloop,
)
"""Modules that the standard library, the event loop and the log load only when they first need them."""


class Forked(Procmond):
    """One procmond that `prepare` ran in first: there it becomes another user, or loses something."""

    def __init__(
        self,
        prepare: Callable[[], object],
        *arguments: str,
        owner: int = 0,
        environment: dict[str, str] | None = None,
    ) -> None:
        """`owner`: uid and gid the socket's directory belongs to. Root may ask and administer."""
        super().__init__(
            *("--config", os.devnull, "--allow-user", "0", "--admin-user", "0", "--allow-group", str(owner)),
            *arguments,
            environment=environment,
        )
        self._prepare = prepare
        self._pid = 0
        self._ended: int | None = None
        os.chown(self.directory, owner, owner)

    def start(self) -> Self:
        """Start it and wait until it says that it is ready. Raises: AssertionError if it ended before."""
        self.begin()
        wait_until(lambda: bool(self.log("procmond_ready")) or self._has_ended(), "procmond's start")
        assert self._ended is None, f"it ended with {self._ended}:\n{self.log_text()}"
        return self

    def begin(self) -> None:
        """Start it."""
        log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        sys.stderr.flush()

        def body() -> None:
            os.dup2(log, sys.__stderr__.fileno() if sys.__stderr__ else 2)
            sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
            os.environ.update(self._environment)
            self._prepare()
            posix._exit(main(["--socket", self.socket, *self._arguments]))

        self._pid = child_of(body)
        os.close(log)

    def refusal(self) -> tuple[int, list[str]]:
        """Start it, wait until it ends; its exit status, and what it said that is no log line."""
        self.begin()
        wait_until(self._has_ended, "procmond's end")
        assert self._ended is not None
        return self._ended, [line for line in self.log_text().splitlines() if not line.startswith("{")]

    def stop(self) -> int:
        """SIGTERM, and its exit status."""
        os.kill(self._pid, signal.SIGTERM)
        self._ended = os.waitstatus_to_exitcode(reap(self._pid))
        return self._ended

    def close(self) -> None:
        """Whatever state it is in, nothing of it is left."""
        if self._pid and self._ended is None:
            children = self.children()
            self.stop()
            for pid in children.values():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        super().close()

    @property
    def pid(self) -> int:
        """Of the supervisor."""
        return self._pid

    def _has_ended(self) -> bool:
        if self._ended is None and os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            self._ended = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        return self._ended is not None

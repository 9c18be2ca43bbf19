"""Processes made on purpose, and what the kernel reported of them."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from procmond.events.facts import ExecEvent, ExitEvent, ForkEvent, KernelEvent
from procmond.events.ring import EventRing

TRUE = "/bin/true"
DEADLINE_S = 10.0
Event = TypeVar("Event", bound=KernelEvent)


class Recorder:
    """Keeps every event. An event of a child is in the ring before wait(2) for the child returns."""

    def __init__(self, ring: EventRing) -> None:
        self.ring = ring
        self.events: list[KernelEvent] = []
        self.returncode: int | None = None
        """Of what ran last, as its parent was told."""

    def catch_up(self) -> None:
        """Take what is in the ring now."""
        while events := self.ring.drain():
            self.events += events

    def of(self, pid: int, form: type[Event]) -> list[Event]:
        """The events of one kind that speak of `pid`, oldest first."""
        return [event for event in self.events if event.pid == pid and type(event) is form]

    def the(self, pid: int, form: type[Event]) -> Event:
        """The one event of this kind that speaks of `pid`; of a process that runs it may yet have to come."""
        deadline = time.monotonic() + DEADLINE_S
        while not self.of(pid, form) and time.monotonic() < deadline:
            select.select([self.ring], [], [], 0.01)
            self.catch_up()
        (event,) = self.of(pid, form)
        return event

    def run(self, arguments: Sequence[str | bytes], **options: object) -> int:
        """Run a command to its end, taking events meanwhile; returns its pid."""
        process = subprocess.Popen(arguments, **options)  # type: ignore[call-overload]
        while process.poll() is None:
            select.select([self.ring], [], [], 0.01)
            self.catch_up()
        self.catch_up()
        self.returncode = process.returncode
        return int(process.pid)

    def fork(self, child: Callable[[], None]) -> int:
        """Fork, run `child` there, wait for its end; returns its pid. To return is to exit with 0."""
        pid = os.fork()
        if pid == 0:
            try:
                child()
                os._exit(0)
            finally:
                os._exit(99)
        os.waitpid(pid, 0)
        self.catch_up()
        return pid

    def python(self, code: str, *arguments: str) -> int:
        """Run Python code in a fresh interpreter; returns its pid."""
        return self.run([sys.executable, "-I", "-S", "-c", code, *arguments])

    def life(self, pid: int) -> tuple[ForkEvent, ExecEvent, ExitEvent]:
        """The three events of a process that was made, ran one image, and ended."""
        return self.the(pid, ForkEvent), self.the(pid, ExecEvent), self.the(pid, ExitEvent)


def argument_bytes(arguments: Sequence[str | bytes]) -> bytes:
    """What the kernel lays out for these arguments."""
    return b"".join(os.fsencode(argument) + b"\0" for argument in arguments)

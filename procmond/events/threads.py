"""From what the connector tells of threads to processes. One rule: a process ends with its last thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from procmond.events import connector_wire as wire


class Found(NamedTuple):
    """A process as far as /proc shows it now: enough to tell whether it has ended."""

    threads: int
    zombie: bool


class ThreadFilter:
    """From events of threads to events of processes. Pure but for `look`, which reads /proc.

    Threads are counted from their own events; only of processes that were there before is anything looked up.
    """

    def __init__(self, look: Callable[[int], Found | None]) -> None:
        """`look` gives what is there of a pid now; None when nothing is."""
        self._look = look
        self._born: set[int] = set()
        """Processes whose threads have all been seen to begin."""
        self._threads: dict[int, int] = {}
        """Threads that run beside the leader, of processes that have any."""
        self._leaderless: dict[int, int] = {}
        """Processes whose leader has ended before its threads; the leader's status."""

    def forget(self) -> None:
        """Messages were lost: from now on only what is looked up counts."""
        self._born.clear()
        self._threads.clear()

    def processes(self, message: wire.Message) -> Sequence[wire.Message]:
        """What the message says of processes. Exits are those of the last thread."""
        group = message.group
        if isinstance(message, wire.Exited):
            return self._exit(message)
        if message.pid != group:
            if isinstance(message, wire.Forked):
                self._threads[group] = self._threads.get(group, 0) + 1
            return ()
        if isinstance(message, wire.Forked):
            return self._fork(message)
        if isinstance(message, wire.Execed):  # ends all threads but the one that takes the leader's number
            self._threads.pop(group, None)
            self._leaderless.pop(group, None)
        return (message,) if group else ()

    def _fork(self, message: wire.Forked) -> Sequence[wire.Message]:
        pid = message.pid
        self._threads.pop(pid, None)
        self._born.add(pid)
        status = self._leaderless.pop(pid, None)
        if status is None:
            return (message,)
        # The number is another's now, which is what was seen when its last holder was looked for.
        return (_ended(message, pid, status), message)

    def _exit(self, message: wire.Exited) -> Sequence[wire.Exited]:
        group = message.group
        left = self._threads.get(group, 0)
        if message.pid != group:
            if left:
                left -= 1
                self._threads[group] = left
                if not left:
                    del self._threads[group]
            if group not in self._leaderless:
                return ()
        if left or not (group in self._born or self._has_ended(group)):
            if message.pid == group:
                self._leaderless[group] = message.status
            return ()
        self._leaderless.pop(group, None)
        self._born.discard(group)
        return (_ended(message, group, message.status),)

    def _has_ended(self, pid: int) -> bool:
        """The message comes after the thread has left, so what is counted now still runs."""
        found = self._look(pid)
        return found is None or (found.zombie and found.threads <= 1)


def _ended(message: wire.Message, pid: int, status: int) -> wire.Exited:
    return wire.Exited(message.processor, message.sequence, message.monotonic_ns, pid, pid, status)

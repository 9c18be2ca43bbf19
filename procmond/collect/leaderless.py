"""Processes whose first thread has ended while others live. One rule: they run, and are told as running.

The kernel tells of a process through its first thread (fs/proc/base.c). Once that has ended, /proc/PID has no
image, arguments, directory or memory any more, its state is that of a zombie and its credentials are those it
had at its end, while the process goes on. The other threads, below /proc/PID/task, still have them all. Any
program gets there by pthread_exit(3) in main; whoever wants to be overlooked does it on purpose.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import islice
from typing import Final, NamedTuple, TypeVar

from common.messages import ProcessStatus
from procmond.collect.handles import read_file
from procmond.collect.procfs_parse import MalformedProc, Stat, parse_stat

_TRIED: Final = 4096
"""Threads looked at until one lives. One that ended is listed until its debugger takes note, so who wants to
be overlooked can put many before the one that runs; each counts among the processes a user may have."""

_GONE: Final = (FileNotFoundError, ProcessLookupError)
_ENDED: Final = (ProcessStatus.ZOMBIE, ProcessStatus.DEAD)

_Result = TypeVar("_Result")


class Thread(NamedTuple):
    """A thread that lives, of a process whose first one does not."""

    number: int
    raw_stat: bytes
    stat: Stat

    def complete(self, leader: Stat) -> Stat:
        """The stat of the process: what its first thread lost with its end is this one's."""
        return leader._replace(
            status=self.stat.status,
            resident_pages=self.stat.resident_pages,
            argument_bytes=self.stat.argument_bytes,
        )


def is_leaderless(stat: Stat) -> bool:
    """Whether this, of /proc/PID/stat, is of a first thread that has ended before others."""
    return stat.status in _ENDED and stat.threads > 1


def living_thread(proc: bytes, pid: int) -> Thread | None:
    """A thread of `pid` besides the first; None where none is found.

    Raises: OSError for other reasons than that they have ended or are withheld.
    """
    try:
        with os.scandir(b"%s/%d/task" % (proc, pid)) as listed:
            numbers = [int(entry.name) for entry in islice(listed, 1 + _TRIED)]
    except (*_GONE, PermissionError):
        return None
    for number in numbers:
        if number == pid:
            continue
        try:
            raw_stat = read_file(b"%s/%d/task/%d/stat" % (proc, pid, number))
            stat = parse_stat(raw_stat)
        except (*_GONE, MalformedProc):
            continue
        if stat.status not in _ENDED:
            return Thread(number, raw_stat, stat)
    return None


def at_image(pid: int, act: Callable[[str], _Result]) -> _Result:
    """What `act` gives of the folder in /proc whose `exe` is the running image of `pid`.

    Raises: what `act` raises; its FileNotFoundError stands where no thread has an image.
    """
    try:
        return act(f"/proc/{pid}")
    except FileNotFoundError:
        thread = living_thread(b"/proc", pid)
        if thread is None:
            raise
    return act(f"/proc/{pid}/task/{thread.number}")

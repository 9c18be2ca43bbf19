"""When the parents of a sweep's processes began. One rule: a number may be another's by now."""

from __future__ import annotations

import time

from procmond.collect.build import NS_PER_TICK
from procmond.collect.handles import is_exhausted, read_file
from procmond.collect.procfs_parse import MalformedProc, Stat, parse_stat


class Parents:
    """What the present sweep knows of starts, by pid."""

    def __init__(self, proc: bytes) -> None:
        self._proc = proc
        self._starts: dict[int, int] = {}
        self._began_ticks = 0

    def begin(self) -> None:
        """A new sweep begins."""
        self._starts.clear()
        self._began_ticks = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // NS_PER_TICK

    def saw(self, pid: int, start_ticks: int) -> None:
        """The sweep has come across this process."""
        self._starts[pid] = start_ticks

    def start_of(self, child: Stat) -> int | None:
        """start_ticks of the parent; None where it has none, or the parent has ended since.

        Seen in this sweep is seen now, unless the child began after the sweep: a parent is older than its
        child, so a younger process that took over the number since cannot be the parent of an older one.

        Raises: OSError where `is_exhausted`.
        """
        if child.ppid == 0:
            return None
        if child.start_ticks < self._began_ticks and child.ppid in self._starts:
            return self._starts[child.ppid]
        try:
            start_ticks = parse_stat(read_file(b"%s/%d/stat" % (self._proc, child.ppid))).start_ticks
        except (OSError, MalformedProc) as error:  # it ended since; the child has another parent already
            if isinstance(error, OSError) and is_exhausted(error):
                raise
            return None
        self._starts[child.ppid] = start_ticks
        return start_ticks

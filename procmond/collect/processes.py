"""The portable collector. One rule: facts come from psutil, and what psutil guesses is not taken.

psutil guesses an executable from the arguments when the kernel refuses it, lengthens names from the arguments
and asks NSS for user names; none of that is a fact. It is the fallback where /proc has another form, and the
truth that tests compare the Linux collector with. What psutil does not know is marked missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Unpack

import psutil

from procmond.collect.build import unread
from procmond.collect.means import Given, make_means
from procmond.collect.process_reader import Reader, Vanished
from procmond.collect.procfs_parse import MalformedProc
from procmond.collect.sighting import Redact, Sighting, Wanted


class PsutilCollector:
    """Collects by psutil; on Linux the start time is the kernel's exact count of ticks."""

    name = "psutil"

    def __init__(self, redact: Redact | None = None, **given: Unpack[Given]) -> None:
        """`redact` replaces secrets in arguments."""
        self._means = make_means(redact, given)

    def boot_id(self) -> str:
        """The kernel's random id of this boot; empty when /proc does not show it."""
        return self._means.boot_id

    def boot_time(self) -> int:
        """Unix seconds at which this boot began; the same value for the collector's whole life."""
        return self._means.boot_time

    def sweep(self, wanted: Wanted, pids: Sequence[int] | None) -> Iterator[Sighting | None]:
        """See `Collector.sweep`."""
        self._means.images.begin()
        self._means.users.refresh()
        for pid in psutil.pids() if pids is None else pids:
            try:
                if pids is not None and not psutil.pid_exists(pid):  # or it is a thread's number
                    continue
                yield Reader(self._means, pid, wanted).sighting()
            except (Vanished, psutil.NoSuchProcess):
                if pids is None:
                    yield None
            except (OSError, MalformedProc) as error:
                yield unread(pid, wanted, error)

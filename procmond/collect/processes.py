"""The portable collector. One rule: facts come from psutil, and what psutil guesses is not taken.

psutil guesses an executable from the arguments when the kernel refuses it, lengthens names from the arguments
and asks NSS for user names; none of that is a fact. It is the fallback where /proc has another form, and the
truth that tests compare the Linux collector with. What psutil does not know is marked missing.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence

import psutil

from procmond.collect.arguments import (
    Presenter,
)
from procmond.collect.boot import read_boot_id, read_boot_time
from procmond.collect.build import unread
from procmond.collect.environment import ENVIRONMENT_NAMES
from procmond.collect.guard import Guard
from procmond.collect.images import Images
from procmond.collect.process_reader import Means, Reader, Vanished
from procmond.collect.procfs_parse import MalformedProc
from procmond.collect.sighting import Redact, Sighting, Wanted
from procmond.collect.users import Users


class PsutilCollector:
    """Collects by psutil; on Linux the start time is the kernel's exact count of ticks."""

    name = "psutil"

    def __init__(
        self,
        redact: Redact | None = None,
        *,
        proc: str = "/proc",
        boot_time: int | None = None,
        users: Users | None = None,
        guard: Guard | None = None,
        memory_device: int | None = None,
        environment_names: Collection[str] = ENVIRONMENT_NAMES,
    ) -> None:
        """`redact` replaces secrets in arguments; `boot_time` is the server's, fixed once for its life."""
        self._boot_id = read_boot_id(proc)
        self._means = Means(
            proc=proc,
            linux=os.path.exists(f"{proc}/self/stat"),
            boot_time=read_boot_time() if boot_time is None else boot_time,
            users=Users() if users is None else users,
            images=Images(proc, memory_device),
            guard=guard or Guard(),
            presenter=Presenter(redact),
            redact=redact,
            environment_names=environment_names,
        )

    def boot_id(self) -> str:
        """The kernel's random id of this boot; empty when /proc does not show it."""
        return self._boot_id

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

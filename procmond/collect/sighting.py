"""What a collector finds, whichever way it looks. One rule: gone and refused are results, not exceptions.

A `Sighting` carries the encoded `ProcessRecord` and the few facts that filters and the hash engine need, so
that nobody decodes a record on the server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import msgspec

from common.messages import HashState

Redact = Callable[[tuple[str, ...], str | None], tuple[tuple[str, ...], bool]]
"""(argv, executable path) -> (argv with secrets replaced, whether any was). argv[0] is never touched."""


class FileIdentity(NamedTuple):
    """Which file, in which state: equal values mean equal content, so it is the key of the hash cache."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


class Wanted(msgspec.Struct, frozen=True, gc=False):
    """Which facts a sweep is to collect; what is not wanted costs no system call."""

    full: bool = False
    """The schema's numbers 100 and up as well."""
    environment: bool = False
    """The allow-listed environment variables; only together with `full`."""


class Sighting(msgspec.Struct, gc=False):
    """One process as found in one sweep."""

    pid: int
    start_ticks: int
    """Field 22 of /proc/PID/stat: clock ticks after boot."""
    ppid: int
    name: str
    executable_path: str | None
    image: FileIdentity | None
    """Of the running image, by stat of /proc/PID/exe; None for the reason in `image_state`."""
    image_state: HashState
    """UNSPECIFIED while there is an image; else NO_EXECUTABLE, DENIED, IO_ERROR, or TIMED_OUT where its file
    system once did not answer."""
    accessible: bool
    payload: bytes
    """An encoded ProcessRecord without its hash fields (9, 10, 121, 122). They may be appended, encoded as
    another ProcessRecord: concatenated messages merge."""


class Collector(Protocol):
    """One way to find out which processes there are."""

    name: str
    """As `--collector` and CapabilityResponse.collector call it: psutil, procfs or bpf."""

    def sweep(self, wanted: Wanted, pids: Sequence[int] | None) -> Iterator[Sighting | None]:
        """Look at every process, or at `pids`, one by one as the iterator is advanced.

        Kernel threads, zombies and processes whose facts are refused are sightings like all others. None
        stands for a process that was listed and ended before it was read. Of `pids`, numbers that name no
        thread group leader when their turn comes are skipped without a trace.
        """

    def boot_id(self) -> str:
        """The kernel's random id of this boot; empty when /proc does not show it."""

    def boot_time(self) -> int:
        """Unix seconds at which this boot began; the same value for the collector's whole life."""

"""The Linux collector. One rule: a fact is remembered only as long as the bytes that make it are read again.

Every sweep reads the same few files of every process; what it saves when they say what they said before is
the parsing, the redaction and the encoding, never the reading. Between two sweeps most processes sleep, and
all that has changed in their record is the time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, Unpack

import msgspec

from common.messages import ProcessStatus
from procmond.collect.arguments import (
    ARGUMENTS_BLOCKED,
    MAX_KEPT_BYTES,
    NO_ARGUMENTS,
    NOT_SHOWN,
    Shown,
    environment_missing,
    read_arguments,
    read_environment,
)
from procmond.collect.build import NS_PER_TICK, Builder, Reading, unread
from procmond.collect.details import NO_DETAILS, read_details, read_pid_namespace
from procmond.collect.handles import (
    DESCRIPTORS_PER_PROCESS,
    Handle,
    descriptor_budget,
    parse_credentials,
    pidfd_info_works,
    read_file,
)
from procmond.collect.images import NO_IMAGE, Image
from procmond.collect.leaderless import is_leaderless, living_thread
from procmond.collect.means import Given, make_means
from procmond.collect.parents import Parents
from procmond.collect.procfs_parse import NO_STAT, MalformedProc, Stat, parse_stat
from procmond.collect.records import encode_moment, encode_time
from procmond.collect.sighting import FileIdentity, Redact, Sighting, Wanted
from procmond.collect.text import text
from procmond.pulse import Stage

_THREADS_TRIED: Final = 3
"""Of a process whose first thread has ended: threads that ended while they were looked at."""


class _Record(NamedTuple):
    """An encoded record, valid while the reading it was made of stays the same."""

    reading: Reading | None
    payload: bytes


_NO_RECORD: Final = _Record(None, b"")


class _Known(msgspec.Struct, gc=False):
    """What is kept of a process from sweep to sweep."""

    handle: Handle
    raw_stat: bytes = b""
    stat: Stat = NO_STAT
    name: str = ""
    image: Image = NO_IMAGE
    pid_namespace: bytes | None = b""
    """The target of ns/pid: a process is in the pid namespace it was born in (pid_namespaces(7))."""
    shown: Shown = NOT_SHOWN
    specified: _Record = _NO_RECORD
    """With the specification's fields only."""
    full: _Record = _NO_RECORD
    holds: bool = False
    """The handle stays open between sweeps and counts against the budget."""


class ProcfsCollector:
    """Collects from /proc."""

    name = "procfs"

    def __init__(
        self,
        redact: Redact | None = None,
        *,
        held_descriptors: int | None = None,
        pidfd: bool | None = None,
        **given: Unpack[Given],
    ) -> None:
        """`redact` replaces secrets in arguments.

        `held_descriptors` bounds those that stay open between sweeps (default: what RLIMIT_NOFILE allows);
        `pidfd` says whether to use PIDFD_GET_INFO (default: where the kernel has it).
        """
        self._redact = redact
        means = self._means = make_means(redact, given)
        self._presenter = means.presenter
        self._guard = means.guard
        self._proc_path = os.fsencode(means.proc)
        self._users = means.users
        self._images = means.images
        self._builder = Builder(means.boot_time, means.users)
        self._budget = descriptor_budget() if held_descriptors is None else held_descriptors
        self._pidfd = pidfd_info_works() if pidfd is None else pidfd
        self._known: dict[int, _Known] = {}
        self._parents = Parents(self._proc_path)
        self._milliseconds = -1
        self._encoded_time = b""

    def boot_id(self) -> str:
        """The kernel's random id of this boot; empty when /proc does not show it."""
        return self._means.boot_id

    def boot_time(self) -> int:
        """Unix seconds at which this boot began; the same value for the collector's whole life."""
        return self._means.boot_time

    def close(self) -> None:
        """Close what stays open between sweeps."""
        for pid in list(self._known):
            self._forget(pid)

    def sweep(self, wanted: Wanted, pids: Sequence[int] | None) -> Iterator[Sighting | None]:
        """See `Collector.sweep`. Sweeps may overlap: each process is read whole between two yields."""
        self._images.begin()
        self._users.refresh()
        self._parents.begin()
        listed = (
            [int(name) for name in os.listdir(self._means.proc) if name.isdigit()] if pids is None else pids
        )
        if pids is None:
            for pid in self._known.keys() - set(listed):
                self._forget(pid)
        for pid in listed:
            try:
                yield self._look(pid, wanted, keep=pids is None)
            except (FileNotFoundError, ProcessLookupError):
                if pids is None:
                    yield None
            except (OSError, MalformedProc) as error:
                yield unread(pid, wanted, error)

    def _look(self, pid: int, wanted: Wanted, *, keep: bool) -> Sighting:
        known = self._known.get(pid)
        if known is not None:
            try:
                return self._read(known, wanted)
            except (FileNotFoundError, ProcessLookupError):  # it ended; by now the number may be another's
                self._forget(pid)
            finally:
                if not known.holds:
                    known.handle.close()
        known = _Known(Handle(self._proc_path, pid, pidfd=self._pidfd))
        try:
            sighting = self._read(known, wanted)
            if keep:  # of a few pids nothing is kept: no sweep would notice that they are gone
                self._keep(known)
        finally:
            if not known.holds:
                known.handle.close()
        return sighting

    def _keep(self, known: _Known) -> None:
        self._known[known.handle.pid] = known
        if self._budget >= DESCRIPTORS_PER_PROCESS:
            self._budget -= DESCRIPTORS_PER_PROCESS
            known.holds = True

    def _forget(self, pid: int) -> None:
        known = self._known.pop(pid)
        known.handle.close()
        if known.holds:
            self._budget += DESCRIPTORS_PER_PROCESS
            known.holds = False

    def _read(self, known: _Known, wanted: Wanted) -> Sighting:
        """Read one process, the credentials last: they vouch for the rest (see `handles`)."""
        handle = known.handle
        handle.open()
        raw_stat = read_file(handle.stat)
        last_image = None
        if raw_stat == known.raw_stat:  # its count of page faults with it
            last_image = known.image
        else:
            _update_stat(known, raw_stat)
            if is_leaderless(known.stat):
                return self._read_leaderless(known, wanted)
        return self._read_rest(known, handle, wanted, last_image)

    def _read_leaderless(self, known: _Known, wanted: Wanted) -> Sighting:
        """Read a process through a thread that lives; as the zombie it seems where none stays long enough."""
        leader, raw_stat = known.stat, known.raw_stat
        for _ in range(_THREADS_TRIED):
            thread = living_thread(self._proc_path, known.handle.pid)
            if thread is None:
                break
            handle = Handle(self._proc_path, known.handle.pid, pidfd=False, thread=thread.number)
            known.stat, known.raw_stat = thread.complete(leader), raw_stat + thread.raw_stat
            try:
                return self._read_rest(known, handle, wanted, None)
            except (FileNotFoundError, ProcessLookupError):  # the thread ended
                known.stat, known.raw_stat = leader, raw_stat
            finally:
                handle.close()
        return self._read_rest(known, known.handle, wanted, None)

    def _read_rest(self, known: _Known, handle: Handle, wanted: Wanted, last_image: Image | None) -> Sighting:
        """Read all but the stat, by way of `handle`."""
        raw_stat, stat = known.raw_stat, known.stat
        environment = b""
        if stat.kernel_thread or stat.status is ProcessStatus.ZOMBIE:
            image, arguments = NO_IMAGE, NO_ARGUMENTS
        else:
            image = known.image = self._look_at_image(handle, stat, last_image)
            blocked = self._blocks(Stage.ARGUMENTS, handle, stat, image.identity)
            arguments = ARGUMENTS_BLOCKED if blocked else read_arguments(handle, stat)
            if wanted.environment and wanted.full:
                if blocked:
                    environment = environment_missing("blocked")
                else:
                    environment = read_environment(handle, self._means.environment_names, self._redact)
            self._guard.leave()
        details, parent = NO_DETAILS, None
        if wanted.full:
            if not known.pid_namespace:
                known.pid_namespace = read_pid_namespace(handle)
            details, parent = read_details(handle, known.pid_namespace), self._parents.start_of(stat)
        credentials = handle.credentials()
        self._parents.saw(handle.pid, stat.start_ticks)
        reading = Reading(raw_stat, credentials, image, arguments, details, parent, self._users.version)
        record = known.full if wanted.full else known.specified
        if reading != record.reading:
            record = self._build(known, reading, full=wanted.full)
        return Sighting(
            handle.pid,
            stat.start_ticks,
            stat.ppid,
            known.name,
            image.path,
            image.identity,
            image.state,
            reading.accessible,
            record.payload + environment + encode_moment(_cpu_usage(stat), self._time()),
        )

    def _build(self, known: _Known, reading: Reading, *, full: bool) -> _Record:
        raw = reading.arguments.raw
        shown = known.shown
        if shown.raw != raw or shown.path != reading.image.path:
            shown = self._presenter.show(raw, reading.image.path)
        known.name = text(known.stat.name)
        payload = self._builder.build(known.handle.pid, known.stat, reading, shown, full=full)
        record = _Record(_share(reading, known), payload)
        kept = len(raw) <= MAX_KEPT_BYTES
        known.shown = shown if kept else NOT_SHOWN
        if full:
            known.full = record if kept else _NO_RECORD
        else:
            known.specified = record if kept else _NO_RECORD
        return record

    def _look_at_image(self, handle: Handle, stat: Stat, last: Image | None) -> Image:
        if self._blocks(Stage.IMAGE, handle, stat, None):
            return self._images.unread(handle.executable)
        return self._images.look(handle.folder, handle.executable, last)

    def _blocks(self, stage: Stage, handle: Handle, stat: Stat, image: FileIdentity | None) -> bool:
        """Whether the next read is withheld; if not, the pulse says that it is made."""
        guard = self._guard
        if guard.active:
            uid = parse_credentials(handle.credentials(), handle.pid).real_uid if guard.users_matter else None
            face = (stat.name, image and image[:2])
            if guard.withholds(stage, handle.pid, stat.start_ticks, face=face, uid=uid):
                return True
        guard.enter(stage, handle.pid, stat.start_ticks)
        return False

    def _time(self) -> bytes:
        milliseconds = time.time_ns() // 1_000_000
        if milliseconds != self._milliseconds:
            self._milliseconds = milliseconds
            self._encoded_time = encode_time(milliseconds)
        return self._encoded_time


def _share(reading: Reading, known: _Known) -> Reading:
    """The same, holding the bytes that the process's other record holds already where they are equal."""
    for other in (known.specified.reading, known.full.reading):
        if other is not None and other.arguments == reading.arguments:
            reading = reading._replace(arguments=other.arguments)
    return reading._replace(raw_stat=known.raw_stat)


def _update_stat(known: _Known, raw_stat: bytes) -> None:
    """Take over a stat that has changed; one of another process ends the acquaintance."""
    stat = parse_stat(raw_stat)
    if known.raw_stat and stat.start_ticks != known.stat.start_ticks:
        raise ProcessLookupError(known.handle.pid)
    known.stat = stat
    known.raw_stat = raw_stat


def _cpu_usage(stat: Stat) -> float:
    """Percent of one core over the life of the process."""
    if not stat.cpu_ticks:
        return 0.0
    age = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - stat.start_ticks * NS_PER_TICK
    return 100 * stat.cpu_ticks * NS_PER_TICK / age if age > 0 else 0.0

"""The eBPF collector. One rule: the kernel's word for all that its task iterator tells, and /proc, anew in
every sweep, for what no iterator may read: the arguments, which a process may rewrite unnoticed.

The iterator hands over some hundred processes at a time. What it cannot tell of them is read at once, so that
both halves of a record are of nearly the same moment; records are made and handed on one by one afterwards,
however long that takes. Whoever changed while the iterator read it, or is listed in /proc and not told by the
iterator, is read from /proc alone, and its record's provenance says so.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, Unpack

import msgspec

from common.limits import MAX_COMMAND_LINE_BYTES
from common.logs import get_logger
from common.messages import HashState
from procmond.collect.arguments import (
    ARGUMENTS_BLOCKED,
    ARGUMENTS_REFUSED,
    MAX_KEPT_BYTES,
    MAX_LENGTH,
    NO_ARGUMENTS,
    Arguments,
    environment_missing,
    read_environment,
)
from procmond.collect.handles import Handle, descriptor_budget, read_file
from procmond.collect.images import NO_IMAGE, Image
from procmond.collect.means import Given, make_means
from procmond.collect.procfs import ProcfsCollector
from procmond.collect.procfs_parse import MalformedProc, parse_stat
from procmond.collect.records import encode_moment, encode_time
from procmond.collect.sighting import FileIdentity, Redact, Sighting, Wanted
from procmond.collect.task_images import Place, TaskImages, unseen
from procmond.collect.task_records import Kept, TaskRecords
from procmond.events.ebpf import Programs
from procmond.events.facts import CGROUP_CUT, CHANGED, CWD_CUT, HAS_IMAGE, PATH_CUT, TaskFacts
from procmond.events.tasks import read_groups
from procmond.events.wire import MalformedRecord, parse_task, split_tasks
from procmond.pulse import Stage

_UNSOUND: Final = CHANGED | PATH_CUT | CWD_CUT | CGROUP_CUT

_log = get_logger("procmond.collect")


class _Known(msgspec.Struct, gc=False):
    """What is kept of a process from sweep to sweep."""

    handle: Handle
    """Only the arguments stay open, if anything does."""
    start_ns: int
    start_ticks: int
    facts: bytes = b""
    """As the iterator told them last: parsed they would take several times the memory."""
    cpu_ns: int = 0
    place: Place | None = None
    """Of its image."""
    holds: bool = False
    """What is open is known to be of this process, stays so, and counts against the budget."""
    arguments: Arguments = NO_ARGUMENTS
    kept: Kept = msgspec.field(default_factory=Kept)

    def task(self, boot_ns: int) -> TaskFacts:
        """The facts as told at `boot_ns`."""
        return parse_task(boot_ns, self.facts)


class _Look(NamedTuple):
    """One process as just read."""

    known: _Known
    facts: bytes
    boot_ns: int
    cpu_usage: float
    """Percent of one core over the life of the process."""
    image: Image
    arguments: Arguments
    environment: bytes


_Group = list[tuple[int, int, bytes]]
"""What split_tasks tells of one read of the iterator."""


class BpfCollector:
    """Collects from the task iterator."""

    name = "bpf"

    def __init__(
        self,
        redact: Redact | None = None,
        *,
        programs: Programs,
        held_descriptors: int | None = None,
        pidfd: bool | None = None,
        **given: Unpack[Given],
    ) -> None:
        """`programs` must have a task iterator, and stays its owner's; the rest is as ProcfsCollector's."""
        self._programs = programs
        self._redact = redact
        means = self._means = make_means(redact, given)
        self._proc_path = os.fsencode(means.proc)
        self._guard = means.guard
        self._users = means.users
        self._budget = descriptor_budget() if held_descriptors is None else held_descriptors
        self._procfs = ProcfsCollector(redact, held_descriptors=0, pidfd=pidfd, **means.share())
        self._images = TaskImages(means.images)
        self._records = TaskRecords(means.boot_time, means.users, redact)
        self._known: dict[int, _Known] = {}
        self._failing = False

    def boot_id(self) -> str:
        """The kernel's random id of this boot; empty when /proc does not show it."""
        return self._means.boot_id

    def boot_time(self) -> int:
        """Unix seconds at which this boot began; the same value for the collector's whole life."""
        return self._means.boot_time

    def close(self) -> None:
        """Close what stays open between sweeps; not the programs."""
        for pid in list(self._known):
            self._forget(pid)
        self._procfs.close()

    def sweep(self, wanted: Wanted, pids: Sequence[int] | None) -> Iterator[Sighting | None]:
        """See `Collector.sweep`; of all processes, those of a group are read when its first is asked for.

        A few pids are read from /proc, for the iterator tells of all processes or none. Sweeps may overlap.
        """
        if pids is None:
            return self._sweep_all(wanted)
        return self._procfs.sweep(wanted, pids)

    def _sweep_all(self, wanted: Wanted) -> Iterator[Sighting | None]:
        self._images.begin()
        self._users.refresh()
        listed = {int(name) for name in os.listdir(self._means.proc) if name.isdigit()}
        told: set[int] = set()
        untold: set[int] = set()
        for group in self._read_groups():
            now = encode_time(time.time_ns() // 1_000_000)
            for look in self._look_at_group(group, wanted, told, untold):
                try:
                    sighting = self._show(look, wanted, now)
                except MalformedProc:  # /proc's collector knows how to tell of such a process
                    untold.add(look.known.handle.pid)
                else:
                    yield sighting
        for pid in self._known.keys() - told:
            self._forget(pid)
        for pid in sorted((listed - told) | untold):
            yield next(self._procfs.sweep(wanted, (pid,)), None)

    def _read_groups(self) -> Iterator[_Group]:
        """What the iterator gives. When it fails, /proc has to do for the rest, and the log says so once."""
        try:
            for group in read_groups(self._programs):
                yield list(split_tasks(group))
        except (OSError, MalformedRecord) as error:
            if not self._failing:
                _log.warning("task_iterator_failed", reason=str(error), instead="procfs")
            self._failing = True
        else:
            self._failing = False

    def _look_at_group(self, group: _Group, wanted: Wanted, told: set[int], untold: set[int]) -> list[_Look]:
        """Read what the iterator could not tell; whom this cannot be said of is left for /proc."""
        looks: list[_Look] = []
        for pid, boot_ns, facts in group:
            known = self._known.get(pid)
            try:
                if known is None or known.facts != facts:
                    known = self._learn(pid, boot_ns, facts)
                looks.append(self._look(known, boot_ns, wanted))
                told.add(pid)
            except (OSError, MalformedRecord, MalformedProc):
                untold.add(pid)
                if pid in self._known:
                    self._forget(pid)
        return looks

    def _learn(self, pid: int, boot_ns: int, facts: bytes) -> _Known:
        """Take over facts that have changed.

        Raises:
            ProcessLookupError: they may not belong together, or say nothing of a process that runs on
                without its first thread, which is all the iterator tells of.
            MalformedRecord: they are none.
        """
        task = parse_task(boot_ns, facts)
        image = task.flags & HAS_IMAGE
        leaderless = task.exit_state and task.threads > 1
        if task.flags & _UNSOUND or (task.argument_end and not image) or leaderless:
            raise ProcessLookupError(pid)
        place = self._images.place(task) if image else None
        known = self._known.get(pid)
        if known is not None and known.start_ns != task.start_ns:
            self._forget(pid)
            known = None
        if known is None:
            handle = Handle(self._proc_path, pid, pidfd=False)
            known = self._known[pid] = _Known(handle, task.start_ns, task.start_ticks)
        known.facts, known.cpu_ns, known.place = facts, task.cpu_ns, place
        return known

    def _forget(self, pid: int) -> None:
        known = self._known.pop(pid)
        known.handle.close()
        if known.holds:
            self._budget += 1

    def _look(self, known: _Known, boot_ns: int, wanted: Wanted) -> _Look:
        """Read the rest of one process, the arguments last: they vouch for the other reads.

        Raises:
            OSError: it ended, or runs something else by now.
        """
        facts, place, guard = known.facts, known.place, self._guard
        usage = 0.0
        if known.cpu_ns and boot_ns > known.start_ns:
            usage = 100 * known.cpu_ns / (boot_ns - known.start_ns)
        if place is None:
            return _Look(known, facts, boot_ns, usage, NO_IMAGE, NO_ARGUMENTS, b"")
        if guard.active or place.sweep != self._images.sweep:
            image = self._look_at_image(known, place, boot_ns)
        else:
            image = place.image
        environment = b""
        if guard.active and self._withholds(Stage.ARGUMENTS, known, image.identity):
            arguments = ARGUMENTS_BLOCKED
            if wanted.environment and wanted.full:
                environment = environment_missing("blocked")
        else:
            guard.enter(Stage.ARGUMENTS, known.handle.pid, known.start_ticks)
            if wanted.environment and wanted.full:
                environment = read_environment(known.handle, self._means.environment_names, self._redact)
            arguments = self._read_arguments(known)
        guard.leave()
        return _Look(known, facts, boot_ns, usage, image, arguments, environment)

    def _look_at_image(self, known: _Known, place: Place, boot_ns: int) -> Image:
        if self._guard.active and self._withholds(Stage.IMAGE, known, None):
            return unseen(place, HashState.TIMED_OUT)
        if place.sweep == self._images.sweep:
            return place.image
        self._guard.enter(Stage.IMAGE, known.handle.pid, known.start_ticks)
        return self._images.look(place, known.task(boot_ns), known.handle.folder)

    def _withholds(self, stage: Stage, known: _Known, image: FileIdentity | None) -> bool:
        task = known.task(0)
        uid = task.real_uid if self._guard.users_matter else None
        face = (task.name, image and image[:2])
        return self._guard.withholds(stage, task.pid, known.start_ticks, face=face, uid=uid)

    def _read_arguments(self, known: _Known) -> Arguments:
        try:
            raw = known.handle.arguments(MAX_COMMAND_LINE_BYTES + 1)
        except PermissionError:
            return ARGUMENTS_REFUSED
        if not known.holds:
            self._vouch(known)
        if raw == known.arguments.raw:
            return known.arguments
        if len(raw) <= MAX_COMMAND_LINE_BYTES:
            arguments = Arguments(raw)
            if len(raw) <= MAX_KEPT_BYTES:
                known.arguments = arguments
            return arguments
        task = known.task(0)
        length = task.argument_end - task.argument_start
        if length < len(raw):  # these are of another program than the iterator saw
            raise ProcessLookupError(task.pid)
        return Arguments(raw, length=min(length, MAX_LENGTH))

    def _vouch(self, known: _Known) -> None:
        """Make sure that what was opened is of the process the iterator told of, and not of its successor.

        Afterwards it stays open where the budget allows: it never tells of anybody else.

        Raises:
            OSError: it ended.
            MalformedProc: the kernel wrote another form than proc(5) says.
        """
        try:
            if parse_stat(read_file(known.handle.stat)).start_ticks != known.start_ticks:
                raise ProcessLookupError(known.handle.pid)
            if self._budget > 0:
                self._budget -= 1
                known.holds = True
        finally:
            if not known.holds:
                known.handle.close()

    def _show(self, look: _Look, wanted: Wanted, now: bytes) -> Sighting:
        """The sighting for a look; `now` is `encode_time`'s. Raises: MalformedProc as TaskRecords.record."""
        known, facts, boot_ns, usage, image, arguments, environment = look
        record = self._records.record(known.kept, facts, boot_ns, image, arguments, full=wanted.full)
        return Sighting(
            known.handle.pid,
            known.start_ticks,
            record.ppid,
            record.name,
            record.path,
            image.identity,
            image.state,
            record.accessible,
            record.payload + environment + encode_moment(usage, now),
        )

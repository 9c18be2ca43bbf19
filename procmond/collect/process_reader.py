"""One process, as psutil tells of it. One rule: what a process may make endless is not read by psutil.

On Linux its start, its image, its arguments and its environment come from /proc by our own bounded reads.
"""

from __future__ import annotations

import errno
import os
import time
from typing import Final

import psutil

from common.limits import MAX_COMMAND_LINE_BYTES
from common.messages import HashState, ProcessStatus, Provenance
from procmond.collect.arguments import (
    ARGUMENTS_REFUSED,
    NO_ARGUMENTS,
    Arguments,
    read_arguments,
    read_environment,
)
from procmond.collect.environment import select_environment
from procmond.collect.handles import Handle, is_exhausted
from procmond.collect.images import NO_IMAGE, Image, Verdict
from procmond.collect.leaderless import is_leaderless, living_thread
from procmond.collect.means import Means
from procmond.collect.procfs_parse import MAX_NAME_BYTES, MalformedProc, Stat, parse_stat
from procmond.collect.records import Facts, encode_record
from procmond.collect.sighting import FileIdentity, Sighting, Wanted
from procmond.collect.text import text
from procmond.pulse import Stage

_STATUS: Final = {
    psutil.STATUS_RUNNING: ProcessStatus.RUNNING,
    psutil.STATUS_SLEEPING: ProcessStatus.SLEEPING,
    psutil.STATUS_DISK_SLEEP: ProcessStatus.DISK_SLEEP,
    psutil.STATUS_STOPPED: ProcessStatus.STOPPED,
    psutil.STATUS_TRACING_STOP: ProcessStatus.TRACED,
    psutil.STATUS_ZOMBIE: ProcessStatus.ZOMBIE,
    psutil.STATUS_IDLE: ProcessStatus.IDLE,
    psutil.STATUS_DEAD: ProcessStatus.DEAD,
}
_NOT_FROM_PSUTIL: Final = (
    "login_uid",
    "cgroup",
    "container_id",
    "pid_namespace",
    "mount_namespace",
    "script_path",
)
_TICKS: Final = os.sysconf("SC_CLK_TCK")


class Vanished(Exception):
    """The process ended while it was being read."""


class Reader:
    """Reads one process once."""

    def __init__(self, means: Means, pid: int, wanted: Wanted) -> None:
        """Raises: psutil.NoSuchProcess, Vanished: there is none."""
        self._means = means
        self._pid = pid
        self._wanted = wanted
        self._process = self._living = psutil.Process(pid)
        self._handle = Handle(os.fsencode(means.proc), pid, pidfd=False)
        self._missing: dict[str, str] = {}
        self._environment = b""
        self._facts: Facts = {}
        self._stat = self._read_stat() if means.linux else None
        self._image = NO_IMAGE
        if self._stat is not None and is_leaderless(self._stat):
            self._look_through_thread(self._stat)

    def sighting(self) -> Sighting:
        """The process as found.

        Raises:
            psutil.NoSuchProcess, Vanished: it ended first.
        """
        with self._process.oneshot(), self._living.oneshot():
            ppid, name, start_ticks = self._identity()
            self._read_image()
            self._read_arguments()
            self._read_measures()
            self._means.guard.leave()
            accessible = "denied" not in self._missing.values()
            self._facts.update(
                {
                    "pid": self._pid,
                    "ppid": ppid,
                    "name": name,
                    "executable_path": self._image.path,
                    "start_time": self._means.boot_time + start_ticks // _TICKS,
                    "user_id": str(self._living.uids().real),
                    "file_exists": self._image.verdict.file_exists,
                    "on_disk_mismatch": self._image.verdict.on_disk_mismatch,
                    "accessible": accessible,
                    "collection_time": time.time_ns() // 1_000_000,
                }
            )
            if self._wanted.full:
                self._read_more(ppid, start_ticks)
            payload = encode_record(self._facts, self._missing if self._wanted.full else None)
        return Sighting(
            self._pid,
            start_ticks,
            ppid,
            name,
            self._image.path,
            self._image.identity,
            self._image.state,
            accessible,
            payload + self._environment,
        )

    def _read_stat(self) -> Stat:
        try:
            with open(f"{self._means.proc}/{self._pid}/stat", "rb") as file:
                return parse_stat(file.read())
        except (FileNotFoundError, ProcessLookupError):
            raise Vanished from None

    def _look_through_thread(self, leader: Stat) -> None:
        """From now on ask a thread that lives for what the first one has lost."""
        proc = os.fsencode(self._means.proc)
        thread = living_thread(proc, self._pid)
        if thread is not None:
            self._living = psutil.Process(thread.number)
            self._handle = Handle(proc, self._pid, pidfd=False, thread=thread.number)
            self._stat = thread.complete(leader)

    def _identity(self) -> tuple[int, str, int]:
        """Parent, name and start: exact from the kernel on Linux, elsewhere as psutil has them."""
        if self._stat is not None:
            return self._stat.ppid, text(self._stat.name), self._stat.start_ticks
        since_boot = self._process.create_time() - self._means.boot_time
        name = text(os.fsencode(self._process.name())[:MAX_NAME_BYTES])
        return self._process.ppid(), name, max(0, round(since_boot * _TICKS))

    def _read_image(self) -> None:
        if self._stat is None:
            self._image = self._portable_image()
        elif not self._stat.kernel_thread and self._stat.status is not ProcessStatus.ZOMBIE:
            folder, link, images = self._handle.folder, self._handle.executable, self._means.images
            blocked = self._blocks(Stage.IMAGE)
            self._image = images.unread(link) if blocked else images.look(folder, link)
        if self._image.state is HashState.DENIED:
            self._missing["executable_path"] = "denied"
        elif self._image.identity is not None and self._image.path is None:
            self._missing["executable_path"] = "cut"

    def _portable_image(self) -> Image:
        try:
            path = self._process.exe()
            if not path:
                return NO_IMAGE
            status = os.stat(path)
        except (psutil.AccessDenied, OSError):
            return Image(HashState.DENIED)
        identity = FileIdentity(
            status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        )
        return Image(HashState.UNSPECIFIED, identity, Verdict(path, True, False, False))

    def _blocks(self, stage: Stage) -> bool:
        """Whether the next read is withheld; if not, the pulse says that it is made."""
        guard = self._means.guard
        start_ticks = 0 if self._stat is None else self._stat.start_ticks
        if guard.active:
            uid = self._living.uids().real if guard.users_matter else None
            face = (self._stat and self._stat.name, self._image.identity and self._image.identity[:2])
            if guard.withholds(stage, self._pid, start_ticks, face=face, uid=uid):
                return True
        guard.enter(stage, self._pid, start_ticks)
        return False

    def _read_arguments(self) -> None:
        if self._blocks(Stage.ARGUMENTS):
            self._missing["command_line"] = "blocked"
            self._facts["command_line_blocked"] = True
            return
        arguments = self._arguments()
        if arguments.missing or arguments.length:
            self._missing["command_line"] = arguments.missing or "cut"
        shown = self._means.presenter.show(arguments.raw, self._image.path)
        self._facts["command_line"] = shown.argv
        self._facts["command_line_length"] = arguments.length
        self._facts["redacted"] = shown.redacted

    def _arguments(self) -> Arguments:
        """On Linux by ourselves: psutil reads them whole, and a process may make them as long as it likes."""
        if self._stat is not None:
            try:
                return read_arguments(self._handle, self._stat)
            except (FileNotFoundError, ProcessLookupError):
                raise Vanished from None
            finally:
                self._handle.close()
        try:
            raw = b"".join(os.fsencode(argument) + b"\0" for argument in self._process.cmdline())
        except psutil.ZombieProcess:
            return NO_ARGUMENTS
        except psutil.AccessDenied:
            return ARGUMENTS_REFUSED
        return Arguments(raw, length=len(raw) if len(raw) > MAX_COMMAND_LINE_BYTES else 0)

    def _read_measures(self) -> None:
        try:
            cpu = self._process.cpu_times()
            seconds = cpu.user + cpu.system
            age = self._age()
            self._facts["cpu_usage"] = 100 * seconds / age if age > 0 else 0.0
            self._facts["memory_usage"] = self._living.memory_info().rss
            if self._wanted.full:
                self._facts["cpu_time_ns"] = round(seconds * 1e9)
        except psutil.AccessDenied:
            self._missing["cpu_usage"] = self._missing["memory_usage"] = "denied"

    def _age(self) -> float:
        """Seconds since the process began; on Linux by the kernel's clock, for psutil cuts seconds."""
        if self._stat is None:
            return time.time() - self._process.create_time()
        return time.clock_gettime(time.CLOCK_BOOTTIME) - self._stat.start_ticks / _TICKS

    def _read_more(self, ppid: int, start_ticks: int) -> None:
        """Fill the schema's numbers 100 and up, and leave out what is not asked for."""
        process, living, facts = self._process, self._living, self._facts
        uids, gids = living.uids(), living.gids()
        facts.update(
            {
                "start_ticks": start_ticks,
                "parent_start_ticks": self._start_of(ppid),
                "status": _STATUS.get(living.status(), ProcessStatus.UNSPECIFIED),
                "threads": process.num_threads(),
                "real_uid": uids.real,
                "effective_uid": uids.effective,
                "real_gid": gids.real,
                "effective_gid": gids.effective,
                "user_name": self._means.users.name(uids.real),
                "session": self._session(),
                "tty": (process.terminal() or "").removeprefix("/dev/"),
                "memory_backed": self._image.verdict.memory_backed,
                "provenance": Provenance.PROC,
            }
        )
        if self._stat is not None:
            facts["is_kernel_thread"] = self._stat.kernel_thread
        if self._image.identity is not None:
            facts["executable_device"] = self._image.identity.device
            facts["executable_inode"] = self._image.identity.inode
        try:
            facts["cwd"] = text(os.fsencode(living.cwd()))
        except psutil.ZombieProcess:
            pass
        except psutil.AccessDenied:
            self._missing["cwd"] = "denied"
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            self._missing["cwd"] = "cut"
        if self._wanted.environment and not (self._stat is not None and self._stat.kernel_thread):
            self._read_environment()  # of a kernel thread psutil would say that there is no such process
        self._missing.update(dict.fromkeys(_NOT_FROM_PSUTIL, "unsupported"))

    def _read_environment(self) -> None:
        if self._missing.get("command_line") == "blocked":
            self._missing["environment"] = "blocked"
            return
        if self._stat is not None:  # bounded, which psutil is not
            self._environment = read_environment(
                self._handle, self._means.environment_names, self._means.redact
            )
            return
        try:
            variables = self._process.environ()
        except psutil.ZombieProcess:
            return
        except psutil.AccessDenied:
            self._missing["environment"] = "denied"
            return
        names = self._means.environment_names
        allowed = {n: text(os.fsencode(v)) for n, v in variables.items() if n in names}
        self._environment = encode_record({}, environment=select_environment(allowed, self._means.redact))

    def _session(self) -> int:
        try:
            return os.getsid(self._pid)
        except ProcessLookupError:
            raise Vanished from None

    def _start_of(self, pid: int) -> int | None:
        if self._stat is None or pid == 0:
            return None
        try:
            with open(f"{self._means.proc}/{pid}/stat", "rb") as file:
                return parse_stat(file.read()).start_ticks
        except (OSError, MalformedProc) as error:
            if isinstance(error, OSError) and is_exhausted(error):
                raise
            return None

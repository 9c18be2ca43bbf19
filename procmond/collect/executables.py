"""CHECK_PROCESS_HASH and VERIFY_EXECUTABLE. One rule: root is no oracle - of a path that is neither an
executable nor an image that runs, nobody but an administrator learns anything, not even whether it exists.
"""

from __future__ import annotations

import asyncio
import errno
import hmac
import os
import stat
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from itertools import islice
from typing import Final, ParamSpec, TypeVar

import msgspec

from common import limits
from common.errors import Refused
from common.messages import (
    DetectionTask,
    ErrorCode,
    ExecutableReport,
    HashCheck,
    HashResult,
    HashState,
    HashVerdict,
    TaskType,
)
from common.validate import DEFAULT_ALGORITHM, check_task
from procmond.collect.digest import supported_algorithms
from procmond.collect.guard import Guard
from procmond.collect.guarded import blocks_image
from procmond.collect.hash_cache import Algorithms, HashOutcome, canonical
from procmond.collect.images import Images, target_of
from procmond.collect.lanes import HashLanes
from procmond.collect.leaderless import at_image
from procmond.collect.sighting import FileIdentity
from procmond.collect.vetting import Descriptor, Obstacle, follow
from procmond.pulse import Stage

RunningImages = Callable[[], Awaitable[Sequence[tuple[int, FileIdentity]]]]
"""Looks now: every process that has an image, with that image, by ascending pid."""

_Looked = ParamSpec("_Looked")
_Seen = TypeVar("_Seen")

_RULE: Final = "procmond opens only regular files with an execute bit, and images that run now"

_REASONS: Final = {
    HashState.PENDING: "not hashed: too many files wait already; try again",
    HashState.TOO_LARGE: "not hashed: the file is too large",
    HashState.TIMED_OUT: "not hashed: reading it took too long",
    HashState.CHANGED: "not hashed: the file changed while it was read",
    HashState.DENIED: "not hashed: procmond was refused permission",
    HashState.GONE: "not hashed: the process ended first",
    HashState.NO_EXECUTABLE: "no executable: a kernel thread or a zombie",
    HashState.NOT_REGULAR: "not hashed: not a regular file",
    HashState.IO_ERROR: "not hashed: reading the file failed",
}


class Question(msgspec.Struct, frozen=True):
    """What a hash task asks, made ready."""

    path: str
    """Absolute; empty when running images are asked for."""
    pids: tuple[int, ...]
    """In the order asked, each once."""
    algorithm: str
    """The one to compare by and to put into `HashResult`."""
    expected: str
    """Lower-case hex; empty: compute only."""
    algorithms: Algorithms
    """All to compute."""
    runners: bool
    """Whether the answer is to say who runs the file (VERIFY_EXECUTABLE)."""

    @property
    def one_target(self) -> bool:
        """Whether the answer has a `hash_result` beside its one report."""
        return bool(self.path) or len(self.pids) == 1


def question_of(task: DetectionTask) -> Question:
    """What a task of one of the two types asks.

    Checked again here: the front that forwards it reads what strangers write.
    Raises: InvalidTask naming field, value and bound; Unsupported for an algorithm not computed here.
    """
    check_task(task, supported_algorithms())
    check = task.hash_check or HashCheck()
    algorithm = check.hash_algorithm or DEFAULT_ALGORITHM
    pids = task.process_filter.pids if task.process_filter else ()
    return Question(
        path=check.executable_path,
        pids=tuple(dict.fromkeys(pids)),
        algorithm=algorithm,
        expected=check.expected_hash.lower(),
        algorithms=canonical((algorithm, *(task.options.digests if task.options else ()))),
        runners=task.task_type == TaskType.VERIFY_EXECUTABLE,
    )


class Examiner:
    """Answers questions about executables; `running` is called only where an answer depends on it."""

    def __init__(self, engine: HashLanes, running: RunningImages, guard: Guard) -> None:
        self._guard = guard
        self._engine = engine
        self._running = running

    async def examine(
        self, question: Question, *, administrator: bool
    ) -> AsyncGenerator[ExecutableReport, None]:
        """One report for the path, or one for each pid in the order asked.

        A pid that names no process has its report too, with NOT_FOUND. Closing the iterator stops the work.
        Raises: Refused for a path that root will not open; with the reason for an administrator, with the
        same words in all cases for others.
        """
        if question.path:
            yield await self._path_report(question, administrator)
            return
        runners = _by_file(await self._running()) if question.runners else {}
        pids = iter(question.pids)
        while window := tuple(islice(pids, limits.EXAMINE_WINDOW)):
            images = Images()
            found = [self._running_image(pid, images) for pid in window]
            reads = [
                self._read(image, question, pid) if image else None
                for pid, (_, image) in zip(window, found, strict=True)
            ]
            try:
                for (report, image), read in zip(found, reads, strict=True):
                    if image is None or read is None:
                        yield _judged(report, question)
                    else:
                        by = runners.get(_file(image.identity), report.running_pids)
                        yield _completed(report, await read, question, by)
            finally:
                for read in reads:
                    if read is not None:
                        read.cancel()
            await asyncio.sleep(0)  # hashes from the cache make none of the above wait

    async def _path_report(self, question: Question, administrator: bool) -> ExecutableReport:
        found = self._guarded(follow, question.path)
        mode = found.status.st_mode if isinstance(found, Descriptor) else 0
        executable = stat.S_ISREG(mode) and bool(mode & 0o111)
        # Also where nothing was found: the time that a refusal takes should tell no more than its words.
        runners = {} if executable and not question.runners else _by_file(await self._running())
        if isinstance(found, Obstacle):
            raise _refusal(question.path, found.reason, administrator)
        by = runners.get(_file(found.identity), ())
        if not executable and not by:
            reason = "has no execute bit" if stat.S_ISREG(mode) else "is not a regular file"
            raise _refusal(question.path, reason, administrator)
        report = self._guarded(_facts, question.path, found)
        return _completed(report, await self._read(found, question), question, by)

    def _guarded(self, look: Callable[_Looked, _Seen], *what: _Looked.args, **more: _Looked.kwargs) -> _Seen:
        """What `look` gives. It meets no process, but a file system that may not answer after all."""
        self._guard.enter(Stage.IMAGE, 0, 0)
        try:
            return look(*what, **more)
        finally:
            self._guard.leave()

    def _running_image(self, pid: int, images: Images) -> tuple[ExecutableReport, Descriptor | None]:
        """What is known without reading; no descriptor where there is no image to be had."""
        if blocks_image(self._guard, pid):
            return _unread(pid, images), None
        try:
            return _running_image(pid, images)
        finally:
            self._guard.leave()

    def _read(
        self, image: Descriptor, question: Question, pid: int | None = None
    ) -> asyncio.Future[HashOutcome]:
        if pid is None:  # a path: the walk that led there stays on local file systems
            # Who has mapped a file to write to it changes it without moving its ctime. What runs cannot be
            # mapped so, but what is read of a file before it runs must not be taken for it then.
            status = image.status
            keep = status.st_uid == 0 and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
            return self._engine.submit(
                image.open_for_reading, image.identity, question.algorithms, urgent=True, keep=keep
            )
        return self._engine.submit_image(pid, image.identity, question.algorithms, held=image, urgent=True)


def hash_result(report: ExecutableReport, question: Question) -> HashResult:
    """What a peer that knows only the specification is told of a question with one target."""
    value = _digest(report, question.algorithm)
    message = report.error_message or None
    if report.verdict is HashVerdict.MISMATCH:
        message = f"hash mismatch: expected {question.expected}, got {value}"
    return HashResult(
        hash_value=value,
        algorithm=question.algorithm,
        file_path=report.path,
        success=bool(value),
        error_message=message,
    )


def _refusal(path: str, reason: str, administrator: bool) -> Refused:
    return Refused(f"{path}: {reason}; {_RULE}" if administrator else _RULE)


def _file(identity: FileIdentity) -> tuple[int, int]:
    """What stays the same while the file is written, renamed or deleted, and is not re-used while it runs."""
    return identity.device, identity.inode


def _by_file(running: Sequence[tuple[int, FileIdentity]]) -> dict[tuple[int, int], tuple[int, ...]]:
    pids: dict[tuple[int, int], list[int]] = {}
    for pid, identity in running:
        pids.setdefault(_file(identity), []).append(pid)
    return {file: tuple(runners) for file, runners in pids.items()}


def _running_image(pid: int, images: Images) -> tuple[ExecutableReport, Descriptor | None]:
    """What is known without reading; no descriptor where there is no image to be had."""
    try:
        folder, image = at_image(pid, _open_image)
    except OSError as error:
        return _no_image(pid, error), None
    # The name of the file just opened: /proc/PID/exe may lead elsewhere by now.
    name = target_of(os.fsencode(image.link))
    judged = images.judge(os.fsencode(f"{folder}/"), name, image.status)
    report = _facts(judged.path, image, on_disk_mismatch=judged.on_disk_mismatch, running_pids=(pid,))
    return report, image


def _open_image(folder: str) -> tuple[str, Descriptor]:
    """Raises: OSError."""
    return folder, Descriptor(os.open(f"{folder}/exe", os.O_PATH | os.O_CLOEXEC))


def _unread(pid: int, images: Images) -> ExecutableReport:
    path = images.unread(f"/proc/{pid}/exe".encode()).path or ""
    state = HashState.TIMED_OUT
    return ExecutableReport(
        path=path, hash_state=state, running_pids=(pid,), error_message=f"process {pid}: {_REASONS[state]}"
    )


def _no_image(pid: int, error: OSError) -> ExecutableReport:
    if error.errno in {errno.EACCES, errno.EPERM}:
        state = HashState.DENIED
    elif error.errno not in {errno.ENOENT, errno.ESRCH}:
        state = HashState.IO_ERROR
    elif os.path.exists(f"/proc/{pid}"):
        state = HashState.NO_EXECUTABLE
    else:
        return ExecutableReport(
            hash_state=HashState.GONE,
            error_code=ErrorCode.NOT_FOUND,
            error_message=f"process {pid} does not exist, or no longer",
        )
    return ExecutableReport(
        hash_state=state, running_pids=(pid,), error_message=f"process {pid}: {_REASONS[state]}"
    )


def _facts(
    path: str, image: Descriptor, *, on_disk_mismatch: bool = False, running_pids: tuple[int, ...] = ()
) -> ExecutableReport:
    status = image.status
    capabilities, trouble = _capabilities(image)
    return ExecutableReport(
        path=path,
        size=status.st_size,
        mode=status.st_mode,
        owner_uid=status.st_uid,
        owner_gid=status.st_gid,
        device=status.st_dev,
        inode=status.st_ino,
        modified_ns=_nanoseconds(status.st_mtime_ns),
        changed_ns=_nanoseconds(status.st_ctime_ns),
        file_capabilities=capabilities,
        running_pids=running_pids,
        on_disk_mismatch=on_disk_mismatch,
        error_message=trouble,
    )


def _nanoseconds(moment: int) -> int:
    """The nearest the schema holds: the owner of a file may set seconds of 64 bits."""
    return min(max(moment, -(2**63)), 2**63 - 1)


def _capabilities(image: Descriptor) -> tuple[str, str]:
    """Hex of security.capability (capabilities(7)), and what went wrong where it could not be read."""
    try:
        return os.getxattr(image.link, "security.capability").hex(), ""
    except OSError as error:
        none = error.errno in {errno.ENODATA, errno.ENOTSUP}  # the file, or its file system, has none
        return "", "" if none else f"file capabilities not read: {os.strerror(error.errno or 0)}"


def _completed(
    report: ExecutableReport, outcome: HashOutcome, question: Question, by: tuple[int, ...]
) -> ExecutableReport:
    """`report` with its digests, who runs the file (`by`), and a sentence about what is missing."""
    remarks = [report.error_message, _REASONS.get(outcome.state, "")]
    if len(by) > limits.MAX_RUNNING_PIDS:
        remarks.append(f"{len(by)} processes run it, the first {limits.MAX_RUNNING_PIDS} are listed")
    return _judged(
        msgspec.structs.replace(
            report,
            hash_state=outcome.state,
            digests=outcome.digests,
            running_pids=by[: limits.MAX_RUNNING_PIDS],
            error_code=ErrorCode.BUSY if outcome.state is HashState.PENDING else ErrorCode.UNSPECIFIED,
            error_message="; ".join(remark for remark in remarks if remark),
        ),
        question,
    )


def _judged(report: ExecutableReport, question: Question) -> ExecutableReport:
    """`report` with the verdict on what was expected, if anything was."""
    if not question.expected:
        return report
    value = _digest(report, question.algorithm)
    if not value:
        verdict = HashVerdict.UNKNOWN
    elif hmac.compare_digest(value, question.expected):
        verdict = HashVerdict.MATCH
    else:
        verdict = HashVerdict.MISMATCH
    return msgspec.structs.replace(report, verdict=verdict)


def _digest(report: ExecutableReport, algorithm: str) -> str:
    return next((digest.value for digest in report.digests if digest.algorithm == algorithm), "")

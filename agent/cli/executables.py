"""`daemoneye hash` and `verify`. One rule: every target gets a line, whatever became of it."""

from __future__ import annotations

import argparse
import stat
from collections.abc import Iterator, Sequence

import msgspec

from agent.answer import Answer
from agent.cli.asking import ask_all, gather, report_shortfalls
from agent.cli.census import image_key, take_census
from agent.cli.columns import HASH_PREFIX, state_words
from agent.cli.exits import FINE, FOUND, PARTIAL, status_of, worst
from agent.cli.filecaps import describe
from agent.cli.formats import plain
from agent.cli.human import count, size
from agent.cli.output import Output, complain
from agent.cli.render import Cell, Heading, table
from agent.client import Client
from common.errors import ConfigError, DaemonEyeError, TaskError
from common.limits import MAX_PIDS
from common.messages import (
    CollectionOptions,
    DetectionTask,
    Digest,
    ErrorCode,
    ExecutableReport,
    HashCheck,
    HashState,
    HashVerdict,
    ProcessFilter,
    ProcessRecord,
    TaskType,
)

PIDS_SHOWN = 3  # of those that run an image; the count says the rest

_HASHED = Cell("hashed", "dim")  # all there is to say where nothing was compared

_SWEEP = DetectionTask(
    task_type=TaskType.ENUMERATE_PROCESSES, stream=True, options=CollectionOptions(skip_hashes=True)
)
REPORT_FIELDS = ExecutableReport.__struct_fields__


async def run_hash(client: Client, said: argparse.Namespace, output: Output) -> int:
    """Hash executables or running images. Raises: ConfigError for wrong usage; as `Client.ask`."""
    return await _run(client, said, output, TaskType.CHECK_PROCESS_HASH)


async def run_verify(client: Client, said: argparse.Namespace, output: Output) -> int:
    """Report on executables or running images. Raises: ConfigError for wrong usage; as `Client.ask`."""
    return await _run(client, said, output, TaskType.VERIFY_EXECUTABLE)


async def _run(client: Client, said: argparse.Namespace, output: Output, kind: TaskType) -> int:
    everything = getattr(said, "all", False)
    check_targets(said.path, said.pid, everything=everything, expected=said.expect)
    async with client:
        status, pids = FINE, said.pid or []
        if everything:
            sweep = await gather(client, _SWEEP)
            status = worst(report_shortfalls(client, [sweep], hashes=False), report_unseen(sweep.processes))
            pids = one_pid_per_image(sweep.processes)
        tasks = _tasks(kind, said.path, pids, said.algorithm, said.expect)
        reports: list[ExecutableReport] = []
        answers: list[Answer] = []
        expected = bool(said.expect)
        for task, answer in zip(tasks, await ask_all(client, tasks), strict=True):
            if isinstance(answer, DaemonEyeError):
                reports.append(_refusal(task, answer))
                status = worst(status, status_of(answer))
            else:
                answers.append(answer)
                told = answer.executables or legacy_report(answer)
                status = worst(status, judge(told, expected=expected))
                reports += told
        status = worst(status, report_shortfalls(client, answers, hashes=True))
    _show(output, reports, said, kind, answers[-1].boot_id if answers else "")
    for report in reports:
        if report.error_message:
            named = report.path and report.error_message.startswith(report.path)
            complain(report.error_message if named else f"{_target(report)}: {report.error_message}")
    return status


def check_targets(
    paths: Sequence[str], pids: Sequence[int] | None, *, everything: bool, expected: str
) -> None:
    """Raises: ConfigError unless exactly one kind of target is named, and one target for one expectation."""
    if bool(paths) + bool(pids) + everything != 1:
        kinds = "PATH..., --pid N or --all" if everything else "PATH... or --pid N"
        raise ConfigError(f"expected what to look at, one kind of it: {kinds}")
    if expected and (everything or len(paths) + len(pids or ()) != 1):
        raise ConfigError("--expect: expected a single executable to compare with")


def one_pid_per_image(records: Sequence[ProcessRecord]) -> list[int]:
    """The oldest process of every distinct running image; those without one never."""
    images: dict[object, int] = {}
    for record in sorted(records, key=lambda record: (record.start_ticks, record.pid)):
        key = image_key(record)
        if key is not None:
            images.setdefault(key, record.pid)
    return list(images.values())


def report_unseen(records: Sequence[ProcessRecord]) -> int:
    """Say on stderr how many processes run what nobody could tell; PARTIAL if there are any, else FINE."""
    unknown = take_census(records).unknown_images
    if not unknown:
        return FINE
    number = count(sum(times for _, times in unknown), "process", "processes")
    reasons = ", ".join(f"{times:,} {reason}" for reason, times in unknown)
    complain(f"not verified: what {number} run, which could not be seen ({reasons})")
    return PARTIAL


def judge(reports: Sequence[ExecutableReport], *, expected: bool) -> int:
    """FOUND for a mismatch of any kind, PARTIAL where something could not be told, else FINE."""
    status = FINE
    for report in reports:
        if report.verdict is HashVerdict.MISMATCH or report.on_disk_mismatch:
            status = worst(status, FOUND)
        if report.error_code or not report.digests or (expected and report.verdict is HashVerdict.UNKNOWN):
            status = worst(status, PARTIAL)
    return status


def legacy_report(answer: Answer) -> tuple[ExecutableReport, ...]:
    """The report an answer without any stands for: servers of the specification fill `hash_result` only."""
    result = answer.hash_result
    if result is None:
        return ()
    message = result.error_message or ""
    digests = (Digest(algorithm=result.algorithm, value=result.hash_value),) if result.success else ()
    mismatch = result.success and message.startswith("hash mismatch")
    return (
        ExecutableReport(
            path=result.file_path,
            digests=digests,
            hash_state=HashState.OK if result.success else HashState.UNSPECIFIED,
            verdict=HashVerdict.MISMATCH if mismatch else HashVerdict.UNSPECIFIED,
            error_message="" if mismatch else message,
        ),
    )


def verdict(report: ExecutableReport, *, running: bool) -> Cell:
    """What was found about a target, in words; `running`: its running image was asked for."""
    if report.error_code:
        return Cell(report.error_code.name.lower().replace("_", " "), "yellow")
    if report.verdict is HashVerdict.MISMATCH:
        return Cell("mismatch", "red")
    if report.on_disk_mismatch:
        return Cell("not as on disk", "red")
    if report.verdict is HashVerdict.MATCH:
        return Cell("match", "green")
    if report.hash_state not in (HashState.OK, HashState.UNSPECIFIED):
        return Cell(state_words(report.hash_state), "yellow")
    if report.verdict is HashVerdict.UNKNOWN:
        return Cell("unknown", "yellow")
    if running:
        return Cell("as on disk", "green")
    return _HASHED if report.digests else Cell("-", "dim")


def _tasks(
    kind: TaskType, paths: Sequence[str], pids: Sequence[int], algorithm: str, expected: str
) -> list[DetectionTask]:
    """A task per path, since only one path fits into one; pids as many as one takes."""
    check = HashCheck(hash_algorithm=algorithm, expected_hash=expected)
    targets: list[tuple[HashCheck, ProcessFilter | None]] = [
        (msgspec.structs.replace(check, executable_path=path), None) for path in paths
    ]
    targets.extend(
        (check, ProcessFilter(pids=tuple(pids[start : start + MAX_PIDS])))
        for start in range(0, len(pids), MAX_PIDS)
    )
    return [
        DetectionTask(task_type=kind, hash_check=one, process_filter=running, stream=True)
        for one, running in targets
    ]


def _refusal(task: DetectionTask, error: DaemonEyeError) -> ExecutableReport:
    """The report of a target that got none: the error stands in its place."""
    return ExecutableReport(
        path=task.hash_check.executable_path if task.hash_check else "",
        verdict=HashVerdict.UNKNOWN,
        running_pids=task.process_filter.pids if task.process_filter else (),
        error_code=error.code if isinstance(error, TaskError) else ErrorCode.INTERNAL,
        error_message=str(error),
    )


def _target(report: ExecutableReport) -> str:
    if report.path:
        return report.path
    return "pid " + ", ".join(map(str, report.running_pids[:PIDS_SHOWN]))


def _show(
    output: Output,
    reports: Sequence[ExecutableReport],
    said: argparse.Namespace,
    kind: TaskType,
    boot_id: str,
) -> None:
    rows = [plain(report) for report in reports]
    if output.kind == "json":
        success = not any(report.error_code for report in reports)
        output.document({"success": success, "executables": rows, "boot_id": boot_id})
    elif output.kind == "jsonl":
        output.documents(rows)
    elif output.kind == "csv":
        output.rows(REPORT_FIELDS, rows)
    elif kind is TaskType.CHECK_PROCESS_HASH:
        output.lines(_hash_lines(reports, said, output))
    else:
        output.lines(_verify_lines(reports, said, output))


def _hash_lines(
    reports: Sequence[ExecutableReport], said: argparse.Namespace, output: Output
) -> Iterator[str]:
    """Hash and path as sha256sum prints them, whole; between them the result where it says more."""
    algorithm = said.algorithm or "sha256"
    results = [verdict(report, running=bool(said.pid)) for report in reports]
    headings = [Heading(algorithm.upper()), Heading("RESULT"), Heading("PATH")]
    rows = [
        [_digest(report, algorithm, full=True), result, Cell(_target(report))]
        for report, result in zip(reports, results, strict=True)
    ]
    if all(result is _HASHED for result in results):
        headings, rows = headings[::2], [row[::2] for row in rows]
    return table(headings, rows, output.screen)


def _verify_lines(
    reports: Sequence[ExecutableReport], said: argparse.Namespace, output: Output
) -> Iterator[str]:
    algorithm = said.algorithm or "sha256"
    headings = [
        Heading("RESULT"),
        Heading("OWNER"),
        Heading("MODE"),
        Heading("SIZE", right=True),
        Heading("CAPABILITIES", elastic=True),
        Heading("RUN BY"),
        Heading(algorithm.upper()),
        Heading("PATH", elastic=True),
    ]
    rows = []
    for report in reports:
        privileged = bool(report.mode & (stat.S_ISUID | stat.S_ISGID))
        rows.append(
            [
                verdict(report, running=bool(said.pid or said.all)),
                Cell(f"{report.owner_uid}:{report.owner_gid}" if report.mode else "-"),
                Cell(stat.filemode(report.mode) if report.mode else "-", "yellow" if privileged else ""),
                Cell(size(report.size) if report.mode else "-"),
                Cell(describe(report.file_capabilities) or "-", "yellow" if report.file_capabilities else ""),
                Cell(run_by(report.running_pids)),
                _digest(report, algorithm, full=said.full),
                Cell(report.path or _target(report)),
            ]
        )
    return table(headings, rows, output.screen)


def run_by(pids: Sequence[int]) -> str:
    """Who runs an image: a few pids and how many more."""
    more = len(pids) - PIDS_SHOWN
    return (" ".join(map(str, pids[:PIDS_SHOWN])) or "-") + (f" +{more}" if more > 0 else "")


def _digest(report: ExecutableReport, algorithm: str, *, full: bool) -> Cell:
    for digest in report.digests:
        if digest.algorithm == algorithm.lower():
            return Cell(digest.value if full else digest.value[:HASH_PREFIX])
    return Cell("-", "dim")

"""`hash` and `verify` against a procmond that follows a script."""

from __future__ import annotations

import json
from collections.abc import Iterable

import pytest

from agent.cli.executables import check_targets, judge, one_pid_per_image, run_by
from agent.cli.filecaps import describe
from common.errors import ConfigError
from common.messages import (
    CollectionSummary,
    DetectionResult,
    DetectionTask,
    Digest,
    ErrorCode,
    ExecutableReport,
    HashResult,
    HashState,
    HashVerdict,
    TaskType,
)
from tests.agent.cli.records import kernel_thread, record
from tests.agent.cli.server import Cli

SHA256 = "ab" * 32


def report(path: str = "/bin/x", **facts: object) -> ExecutableReport:
    defaults: dict[str, object] = {
        "path": path,
        "hash_state": HashState.OK,
        "digests": (Digest(algorithm="sha256", value=SHA256),),
        "mode": 0o104755,
        "size": 2048,
    }
    return ExecutableReport(**(defaults | facts))  # type: ignore[arg-type]  # its fields


def reporting(*reports: ExecutableReport) -> DetectionResult:
    return DetectionResult(success=True, executables=reports, summary=CollectionSummary(), boot_id="b0")


def by_path(task: DetectionTask) -> Iterable[DetectionResult]:
    assert task.hash_check is not None
    path = task.hash_check.executable_path
    if path == "/etc/shadow":
        yield DetectionResult(error_code=ErrorCode.REFUSED, error_message="not one that root will open")
    else:
        yield reporting(report(path))


def test_hashes_are_shown_whole_with_their_path(cli: Cli) -> None:
    outcome = cli.ask(by_path, "hash", "/bin/a", "/bin/b")
    assert outcome.status == 0
    assert [line.split() for line in outcome.out.splitlines()] == [
        ["SHA256", "PATH"],
        [SHA256, "/bin/a"],
        [SHA256, "/bin/b"],
    ]


def test_a_refused_path_has_its_line_and_the_others_their_hash(cli: Cli) -> None:
    outcome = cli.ask(by_path, "hash", "/etc/shadow", "/bin/b")
    assert outcome.status == 4
    assert outcome.err == "daemoneye: /etc/shadow: not one that root will open\n"
    assert outcome.out.splitlines()[1].split() == ["-", "refused", "/etc/shadow"]
    assert outcome.out.splitlines()[0].split() == ["SHA256", "RESULT", "PATH"]
    assert outcome.out.splitlines()[2].split() == [SHA256, "hashed", "/bin/b"]


def test_a_reason_that_names_the_path_is_not_prefixed_with_it(cli: Cli) -> None:
    def answers(task: DetectionTask) -> Iterable[DetectionResult]:
        yield DetectionResult(error_code=ErrorCode.REFUSED, error_message="/bin/a: No such file")

    assert cli.ask(answers, "hash", "/bin/a").err == "daemoneye: /bin/a: No such file\n"


def test_wrong_usage_that_procmond_noticed_is_wrong_usage(cli: Cli) -> None:
    def answers(task: DetectionTask) -> Iterable[DetectionResult]:
        yield DetectionResult(
            error_code=ErrorCode.INVALID, error_message="expected_hash: 2 digits; sha256 has 64"
        )

    assert cli.ask(answers, "hash", "/bin/a", "--expect", "00").status == 2


def test_hashes_for_programs_are_reports(cli: Cli) -> None:
    document = json.loads(cli.ask(by_path, "hash", "--format", "json", "/etc/shadow", "/bin/b").out)
    refused, hashed = document["executables"]
    assert document["success"] is False
    assert refused["error_code"] == "refused"
    assert hashed["digests"] == [{"algorithm": "sha256", "value": SHA256}]
    lines = cli.ask(by_path, "hash", "--format", "jsonl", "/bin/a", "/bin/b").out.splitlines()
    assert [json.loads(line)["path"] for line in lines] == ["/bin/a", "/bin/b"]
    assert cli.ask(by_path, "hash", "--format", "csv", "/bin/a").out.startswith(
        "path,verdict,hash_state,digests,"
    )


@pytest.mark.parametrize(
    ("verdict", "word", "status"),
    [
        (HashVerdict.MATCH, "match", 0),
        (HashVerdict.MISMATCH, "mismatch", 1),
        (HashVerdict.UNKNOWN, "unknown", 4),
    ],
)
def test_an_expectation_decides_the_status(cli: Cli, verdict: HashVerdict, word: str, status: int) -> None:
    def answers(task: DetectionTask) -> Iterable[DetectionResult]:
        assert task.hash_check is not None
        assert (task.hash_check.expected_hash, task.hash_check.hash_algorithm) == (SHA256, "sha512")
        yield reporting(report(verdict=verdict))

    outcome = cli.ask(answers, "hash", "/bin/x", "--expect", SHA256, "--algorithm", "sha512")
    assert outcome.status == status
    assert outcome.out.splitlines()[1].split()[1] == word


def test_running_images_are_asked_by_pid(cli: Cli) -> None:
    with cli.server(lambda task: [reporting(report(), report("/bin/y"))]) as server:
        outcome = cli.run(*server.arguments(), "hash", "--pid", "5", "--pid", "6")
    (task,) = server.tasks
    assert task.task_type == TaskType.CHECK_PROCESS_HASH
    assert task.process_filter is not None
    assert task.process_filter.pids == (5, 6)
    assert outcome.status == 0
    assert "as on disk" in outcome.out


def test_relative_paths_start_here(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.chdir("/usr")
    with cli.server(by_path) as server:
        cli.run(*server.arguments(), "hash", "bin/x")
    assert server.tasks[0].hash_check is not None
    assert server.tasks[0].hash_check.executable_path == "/usr/bin/x"


def test_an_old_procmond_answers_with_a_hash_result_only(cli: Cli) -> None:
    def answers(task: DetectionTask) -> Iterable[DetectionResult]:
        yield DetectionResult(
            success=True,
            hash_result=HashResult(
                hash_value=SHA256,
                algorithm="sha256",
                file_path="/bin/x",
                success=True,
                error_message="hash mismatch: expected 00",
            ),
        )

    outcome = cli.ask(answers, "hash", "/bin/x", "--expect", "00" * 32, capabilities=None)
    assert "mismatch" in outcome.out
    assert outcome.status == 4  # degraded says more than found


def test_verify_tells_all_about_an_executable(cli: Cli) -> None:
    told = report(
        owner_uid=3, owner_gid=4, running_pids=(1, 2, 3, 4), file_capabilities="0100000200200000" + "00" * 12
    )
    outcome = cli.ask(lambda task: [reporting(told)], "verify", "/bin/x")
    assert outcome.out.splitlines()[1].split() == [
        "hashed", "3:4", "-rwsr-xr-x", "2.0K", "net_raw+ep", "1", "2", "3", "+1", SHA256[:12], "/bin/x",
    ]  # fmt: skip
    assert outcome.status == 0


def test_a_running_image_that_is_not_its_file_is_found(cli: Cli) -> None:
    outcome = cli.ask(lambda task: [reporting(report(on_disk_mismatch=True))], "verify", "--pid", "7")
    assert outcome.status == 1
    assert "not as on disk" in outcome.out


def test_verify_all_asks_for_each_distinct_image_once(cli: Cli) -> None:
    def answers(task: DetectionTask) -> Iterable[DetectionResult]:
        if task.task_type == TaskType.ENUMERATE_PROCESSES:
            same = {"executable_device": 1, "executable_inode": 2}
            yield DetectionResult(
                success=True,
                processes=(record(9, **same), record(8, **same), kernel_thread(2), record(7)),
                summary=CollectionSummary(),
            )
        else:
            yield reporting(report(), report("/bin/y"))

    with cli.server(answers) as server:
        outcome = cli.run(*server.arguments(), "verify", "--all")
    assert server.tasks[1].task_type == TaskType.VERIFY_EXECUTABLE
    assert server.tasks[1].process_filter is not None
    assert server.tasks[1].process_filter.pids == (7, 8)
    assert outcome.status == 0


def test_verify_all_says_what_it_could_not_see(cli: Cli) -> None:
    def answers(task: DetectionTask) -> Iterable[DetectionResult]:
        if task.task_type == TaskType.ENUMERATE_PROCESSES:
            hidden = {"executable_path": None, "executable_inode": 0, "hash_state": HashState.DENIED}
            processes = (record(7), kernel_thread(2), record(8, **hidden), record(9, **hidden))
            yield DetectionResult(success=True, processes=processes, summary=CollectionSummary())
        else:
            yield reporting(report())

    outcome = cli.ask(answers, "verify", "--all")
    assert outcome.status == 4
    assert "not verified: what 2 processes run, which could not be seen (2 denied)" in outcome.err


@pytest.mark.parametrize(
    ("paths", "pids", "everything", "expected"),
    [
        ([], None, False, ""),
        (["/a"], [1], False, ""),
        (["/a"], None, True, ""),
        (["/a", "/b"], None, False, "00"),
        ([], [1, 2], False, "00"),
        ([], None, True, "00"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    paths: list[str], pids: list[int] | None, everything: bool, expected: str
) -> None:
    with pytest.raises(ConfigError):
        check_targets(paths, pids, everything=everything, expected=expected)


def test_wrong_usage_is_noticed_without_a_procmond(cli: Cli) -> None:
    outcome = cli.run("--socket", "/nonexistent", "hash")
    assert (outcome.status, outcome.err) == (
        2,
        "daemoneye: expected what to look at, one kind of it: PATH... or --pid N\n",
    )


def test_what_could_not_be_told_is_partial() -> None:
    assert judge([report()], expected=False) == 0
    assert judge([report(digests=())], expected=False) == 4
    assert judge([report(error_code=ErrorCode.NOT_FOUND)], expected=False) == 4
    assert judge([], expected=False) == 0


def test_the_oldest_process_stands_for_its_image() -> None:
    same = {"executable_inode": 5}
    assert one_pid_per_image([record(2, start_ticks=9, **same), record(3, start_ticks=1, **same)]) == [3]


def test_few_pids_are_listed_and_many_counted() -> None:
    assert [run_by(()), run_by((1, 2)), run_by((1, 2, 3, 4, 5))] == ["-", "1 2", "1 2 3 +2"]


@pytest.mark.parametrize(
    ("hexadecimal", "expected"),
    [
        ("", ""),
        ("0100000200200000" + "00" * 12, "net_raw+ep"),
        ("0000000200040000" + "00100000" + "00" * 8, "net_bind_service+p net_admin+i"),
        ("0000000300000000" + "00000000" + "80000000" + "00000000" + "00" * 4, "bpf+p"),
        ("0000000200000000" + "00000000" + "00000080" + "00000000", "cap_63+p"),
        (
            "01000001" + "ff000000" + "00000000",
            "chown,dac_override,dac_read_search,fowner,fsetid,kill,setgid,setuid+ep",
        ),
        ("zz", "zz"),
        ("0100", "0100"),
        ("0100000900200000", "0100000900200000"),
    ],
)
def test_file_capabilities_are_named_as_setcap_names_them(hexadecimal: str, expected: str) -> None:
    assert describe(hexadecimal) == expected

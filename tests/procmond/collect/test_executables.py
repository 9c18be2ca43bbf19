"""The two hash questions on real files, processes and users."""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from common import codec, limits
from common.errors import InvalidTask, Refused, Unsupported
from common.messages import (
    CollectionOptions,
    DetectionTask,
    ErrorCode,
    ExecutableReport,
    HashCheck,
    HashState,
    HashVerdict,
    ProcessFilter,
    TaskType,
)
from procmond.collect.digest import identity_of
from procmond.collect.executables import Examiner, Question, hash_result, question_of
from procmond.collect.guard import Guard
from procmond.collect.handlers import running_images
from procmond.collect.hashing import HashEngine
from procmond.collect.lanes import HashLanes
from procmond.collect.mounts import MountTable, Places, find_memory_device
from procmond.collect.sighting import FileIdentity
from tests.procmond.collect.made import deep_image, leaderless
from tests.support.images import SLEEP, copy_of_sleep, running
from tests.support.privilege import needs_root

SHA256 = hashlib.sha256(SLEEP.read_bytes()).hexdigest()

PLACES = Places(MountTable(), find_memory_device())


def task(
    path: Path | str = "",
    *pids: int,
    verify: bool = False,
    digests: tuple[str, ...] = (),
    **check: str,
) -> DetectionTask:
    return DetectionTask(
        task_id="t",
        task_type=TaskType.VERIFY_EXECUTABLE if verify else TaskType.CHECK_PROCESS_HASH,
        hash_check=HashCheck(executable_path=str(path), **check),
        process_filter=ProcessFilter(pids=pids) if pids else None,
        options=CollectionOptions(digests=digests) if digests else None,
    )


def question(*arguments: Any, **more: Any) -> Question:
    return question_of(task(*arguments, **more))


class Host:
    """An examiner over the processes that really run here."""

    def __init__(self, engine: HashEngine) -> None:
        self.sweeps = 0
        self._examiner = Examiner(HashLanes(engine, engine, PLACES), self._running, Guard())

    async def _running(self) -> Sequence[tuple[int, FileIdentity]]:
        self.sweeps += 1
        return await running_images(Guard())

    async def ask(self, asked: Question, *, administrator: bool = False) -> list[ExecutableReport]:
        return [report async for report in self._examiner.examine(asked, administrator=administrator)]

    async def one(self, *arguments: Any, **more: Any) -> ExecutableReport:
        [report] = await self.ask(question(*arguments, **more))
        return report

    async def refused(self, path: Path | str, *, administrator: bool = False) -> str:
        with pytest.raises(Refused) as caught:
            await self.ask(question(path), administrator=administrator)
        return str(caught.value)


@pytest.fixture
async def engine() -> AsyncIterator[HashEngine]:
    engine = HashEngine(wall_clock_ns=lambda: time.time_ns() + 60 * limits.HASH_SETTLE_NS)
    yield engine
    await engine.close()


@pytest.fixture
async def host(engine: HashEngine) -> Host:
    return Host(engine)


# ------------------------------------------------------------------------------------------ questions


def test_a_question_is_made_ready_once() -> None:
    asked = question("", 3, 2, 3, expected_hash="AB" * 20, hash_algorithm="sha1", digests=("md5", "sha512"))
    assert asked.pids == (3, 2)
    assert asked.expected == "ab" * 20
    assert asked.algorithms == ("sha256", "sha512", "sha1", "md5")
    assert not asked.one_target
    assert not asked.runners


def test_one_path_or_one_pid_is_one_target() -> None:
    assert question("/bin/sh").one_target
    assert question("", 1).one_target
    assert question("", 1, 1).one_target


@pytest.mark.parametrize(
    ("check", "field"),
    [
        ({"expected_hash": "ab"}, "hash_check.expected_hash"),
        ({"expected_hash": "x" * 64}, "hash_check.expected_hash"),
        ({"expected_hash": "a" * 64, "hash_algorithm": "md5"}, "hash_check.expected_hash"),
        ({"path": "bin/sh"}, "hash_check.executable_path"),
        ({"path": "/bin\0/sh"}, "hash_check.executable_path"),
        ({"path": ""}, "hash_check.executable_path"),
    ],
)
def test_what_breaks_a_bound_is_invalid_and_named(check: dict[str, str], field: str) -> None:
    with pytest.raises(InvalidTask) as caught:
        question(**{"path": "/bin/sh", **check})
    assert caught.value.field == field
    assert caught.value.bound


def test_an_algorithm_not_computed_here_is_unsupported() -> None:
    with pytest.raises(Unsupported):
        question("/bin/sh", hash_algorithm="crc32")


# ---------------------------------------------------------------------------------------------- paths


async def test_a_path_is_hashed_and_its_facts_reported(host: Host, tmp_path: Path) -> None:
    path = copy_of_sleep(tmp_path)
    status = path.stat()
    report = await host.one(path)
    assert report.path == str(path)
    assert [(digest.algorithm, digest.value) for digest in report.digests] == [("sha256", SHA256)]
    assert report.hash_state is HashState.OK
    assert report.verdict is HashVerdict.UNSPECIFIED
    assert (report.size, report.mode) == (status.st_size, status.st_mode)
    assert (report.owner_uid, report.owner_gid) == (status.st_uid, status.st_gid)
    assert (report.device, report.inode) == (status.st_dev, status.st_ino)
    assert (report.modified_ns, report.changed_ns) == (status.st_mtime_ns, status.st_ctime_ns)
    assert (report.file_capabilities, report.error_message) == ("", "")
    assert report.error_code is ErrorCode.UNSPECIFIED
    assert host.sweeps == 0  # a plain executable needs no look at the processes


async def test_a_hash_that_is_expected_matches_in_either_case(host: Host, tmp_path: Path) -> None:
    asked = question(copy_of_sleep(tmp_path), expected_hash=SHA256.upper())
    [report] = await host.ask(asked)
    assert report.verdict is HashVerdict.MATCH
    result = hash_result(report, asked)
    assert (result.success, result.error_message, result.hash_value) == (True, None, SHA256)


async def test_a_mismatch_is_an_answer_and_says_what_it_got(host: Host, tmp_path: Path) -> None:
    asked = question(copy_of_sleep(tmp_path), expected_hash="0" * 64)
    [report] = await host.ask(asked)
    assert report.verdict is HashVerdict.MISMATCH
    result = hash_result(report, asked)
    assert result.success
    assert result.error_message == f"hash mismatch: expected {'0' * 64}, got {SHA256}"


async def test_the_comparison_is_by_the_algorithm_asked_for(host: Host, tmp_path: Path) -> None:
    md5 = hashlib.md5(SLEEP.read_bytes()).hexdigest()
    asked = question(copy_of_sleep(tmp_path), expected_hash=md5, hash_algorithm="md5", digests=("sha512",))
    [report] = await host.ask(asked)
    assert report.verdict is HashVerdict.MATCH
    assert [digest.algorithm for digest in report.digests] == ["sha256", "sha512", "md5"]
    assert hash_result(report, asked).algorithm == "md5"
    assert hash_result(report, asked).hash_value == md5


async def test_what_cannot_be_hashed_has_no_verdict_but_a_state(host: Host, tmp_path: Path) -> None:
    path = copy_of_sleep(tmp_path)
    os.truncate(path, 200 << 30)
    asked = question(path, expected_hash=SHA256)
    [report] = await host.ask(asked)
    assert (report.hash_state, report.verdict) == (HashState.TOO_LARGE, HashVerdict.UNKNOWN)
    result = hash_result(report, asked)
    assert (result.success, result.hash_value) == (False, "")
    assert result.error_message == "not hashed: the file is too large"


async def test_a_full_queue_is_busy(tmp_path: Path) -> None:
    engine = HashEngine(queue_files=0)
    report = await Host(engine).one(copy_of_sleep(tmp_path))
    assert (report.hash_state, report.error_code) == (HashState.PENDING, ErrorCode.BUSY)
    await engine.close()


@pytest.fixture
def forbidden(tmp_path: Path) -> dict[str, Path]:
    """Everything that root must not open for a peer."""
    paths = {name: tmp_path / name for name in ("missing", "fifo", "plain", "secret", "socket", "folder")}
    os.mkfifo(paths["fifo"], 0o777)
    paths["plain"].write_text("not a program")
    paths["plain"].chmod(0o644)
    paths["secret"].write_text("secret")
    paths["secret"].chmod(0o600)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(paths["socket"]))
    paths["folder"].mkdir()
    paths |= {"device": Path("/dev/null"), "proc": Path("/proc/self/exe"), "below": paths["plain"] / "x"}
    for name in tuple(paths):
        link = tmp_path / f"link-to-{name}"
        link.symlink_to(paths[name])
        paths[link.name] = link
    return paths


async def test_all_that_root_will_not_open_is_refused_in_the_same_words(
    host: Host, forbidden: dict[str, Path]
) -> None:
    words = {await host.refused(path) for path in forbidden.values()}
    assert words == {"procmond opens only regular files with an execute bit, and images that run now"}
    assert host.sweeps == len(forbidden)  # each took the same look at the processes


async def test_administrators_learn_why(host: Host, forbidden: dict[str, Path]) -> None:
    reasons = {
        name: (await host.refused(path, administrator=True)).partition("; ")[0].partition(": ")[2]
        for name, path in forbidden.items()
        if not name.startswith("link-")
    }
    assert reasons == {
        "missing": "No such file or directory",
        "below": "Not a directory",
        "plain": "has no execute bit",
        "secret": "has no execute bit",
        "fifo": "is not a regular file",
        "socket": "is not a regular file",
        "folder": "is not a regular file",
        "device": "is not a regular file",
        "proc": "lies on a file system of type proc",
    }


async def test_an_image_that_runs_is_examined_although_it_lost_its_execute_bit(
    host: Host, tmp_path: Path
) -> None:
    path = copy_of_sleep(tmp_path)
    with running(path):
        path.chmod(0o600)
        assert (await host.one(path)).hash_state is HashState.OK
    await host.refused(path)


async def test_verifying_a_path_says_who_runs_it(host: Host, tmp_path: Path) -> None:
    path = copy_of_sleep(tmp_path)
    assert (await host.one(path, verify=True)).running_pids == ()
    with running(path) as one, running(path) as other:
        assert (await host.one(path, verify=True)).running_pids == tuple(sorted((one, other)))


async def test_who_runs_a_file_is_cut_at_the_bound_and_says_so(engine: HashEngine, tmp_path: Path) -> None:
    path = copy_of_sleep(tmp_path)
    count = limits.MAX_RUNNING_PIDS + 1

    async def everybody() -> Sequence[tuple[int, FileIdentity]]:
        return [(pid, identity_of(path.stat())) for pid in range(1, count + 1)]

    examiner = Examiner(HashLanes(engine, engine, PLACES), everybody, Guard())
    [report] = [one async for one in examiner.examine(question(path, verify=True), administrator=False)]
    assert report.running_pids == tuple(range(1, count))
    assert report.error_message == f"{count} processes run it, the first {count - 1} are listed"


@needs_root
async def test_file_capabilities_are_reported_as_the_kernel_keeps_them(host: Host, tmp_path: Path) -> None:
    path = copy_of_sleep(tmp_path)
    value = bytes.fromhex("0100000200200000000000000000000000000000")  # cap_net_raw+ep, VFS_CAP_REVISION_2
    try:
        os.setxattr(path, "security.capability", value)
    except OSError as error:
        pytest.skip(f"file capabilities cannot be set here: {error}")
    assert (await host.one(path, verify=True)).file_capabilities == value.hex()


# ------------------------------------------------------------------------------------- running images


async def test_a_running_image_is_the_file_at_its_name(host: Host, tmp_path: Path) -> None:
    path = copy_of_sleep(tmp_path)
    with running(path) as pid:
        asked = question("", pid, expected_hash=SHA256)
        [report] = await host.ask(asked)
    assert (report.path, report.running_pids) == (str(path), (pid,))
    assert (report.verdict, report.on_disk_mismatch) == (HashVerdict.MATCH, False)
    assert hash_result(report, asked).file_path == str(path)


async def test_a_deleted_and_a_replaced_image_differ_from_the_file_at_their_name(
    host: Host, tmp_path: Path
) -> None:
    deleted, replaced = copy_of_sleep(tmp_path, "deleted"), copy_of_sleep(tmp_path, "replaced")
    with running(deleted) as one, running(replaced) as other:
        deleted.unlink()
        shutil.copy("/bin/true", tmp_path / "new")
        (tmp_path / "new").rename(replaced)
        reports = await host.ask(question("", one, other, verify=True, expected_hash=SHA256))
    assert [report.path for report in reports] == [str(deleted), str(replaced)]
    assert [report.running_pids for report in reports] == [(one,), (other,)]
    assert all(report.on_disk_mismatch for report in reports)
    assert all(report.verdict is HashVerdict.MATCH for report in reports)  # of what runs


async def test_processes_that_are_not_there_have_their_report_among_the_others(
    host: Host, tmp_path: Path
) -> None:
    with running(copy_of_sleep(tmp_path)) as gone:
        pass
    with running(copy_of_sleep(tmp_path)) as alive:
        reports = await host.ask(question("", gone, alive, expected_hash=SHA256))
    assert [report.error_code for report in reports] == [ErrorCode.NOT_FOUND, ErrorCode.UNSPECIFIED]
    assert [report.hash_state for report in reports] == [HashState.GONE, HashState.OK]
    assert [report.verdict for report in reports] == [HashVerdict.UNKNOWN, HashVerdict.MATCH]
    assert str(gone) in reports[0].error_message


async def test_a_zombie_has_no_executable(host: Host) -> None:
    process = subprocess.Popen(["/bin/true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    asked = question("", process.pid)
    [report] = await host.ask(asked)
    process.wait()
    assert (report.hash_state, report.error_code) == (HashState.NO_EXECUTABLE, ErrorCode.UNSPECIFIED)
    assert not hash_result(report, asked).success


async def test_an_image_whose_first_thread_has_ended_is_examined(host: Host) -> None:
    program = os.path.realpath(sys.executable)
    with leaderless() as process:
        report = await host.one("", process.pid, verify=True)
    assert (report.path, report.hash_state, report.on_disk_mismatch) == (program, HashState.OK, False)
    assert report.digests[0].value == hashlib.sha256(Path(program).read_bytes()).hexdigest()
    assert process.pid in report.running_pids


def descriptors_on(path: Path) -> int:
    """How many of our descriptors lead to `path`; what opens and closes others is not ours to know."""
    count = 0
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that listed the directory
            count += os.readlink(f"/proc/self/fd/{descriptor}") == str(path)
    return count


async def test_more_processes_than_one_window_are_answered_in_order(host: Host, tmp_path: Path) -> None:
    path = copy_of_sleep(tmp_path)
    held = os.open(path, os.O_PATH)
    assert descriptors_on(path) == 1
    os.close(held)
    with contextlib.ExitStack() as processes:
        pids = [processes.enter_context(running(path)) for _ in range(limits.EXAMINE_WINDOW + 3)]
        reports = await host.ask(question("", *reversed(pids)))
    assert [report.running_pids[0] for report in reports] == pids[::-1]
    assert {report.hash_state for report in reports} == {HashState.OK}
    del reports
    assert descriptors_on(path) == 0


async def test_what_was_read_while_it_was_mapped_for_writing_is_not_taken_for_what_runs_later(
    engine: HashEngine, host: Host
) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:  # a tmpfs, whose clock stands still longest
        path = copy_of_sleep(Path(folder))
        os.chown(path, 1234, 1234)
        with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
            view[-1] = 0  # from here on stores to this page move no time of the file
            assert (await host.one(path)).hash_state is HashState.OK
            before = path.stat()
            view[-1] = 1
        after = path.stat()
        if (before.st_mtime_ns, before.st_ctime_ns) != (after.st_mtime_ns, after.st_ctime_ns):
            pytest.skip("this kernel moves the times at every store")
        with running(path) as pid:
            report = await host.one("", pid)
        assert report.digests[0].value == hashlib.sha256(path.read_bytes()).hexdigest()


async def test_closing_the_answer_stops_the_work(engine: HashEngine, host: Host, tmp_path: Path) -> None:
    with running(copy_of_sleep(tmp_path)) as pid, running(copy_of_sleep(tmp_path, "other")) as other:
        answer = host._examiner.examine(question("", pid, other), administrator=False)
        assert (await anext(answer)).hash_state is HashState.OK
        await answer.aclose()
    assert engine.counters().waiting == 0


@needs_root
async def test_another_users_image_that_nobody_may_read_is_examined(host: Host) -> None:
    folder = Path("/tmp") / f"daemoneye-test-{os.getpid()}"
    folder.mkdir(mode=0o711)
    try:
        path = copy_of_sleep(folder)
        os.chown(path, 65534, 65534)
        path.chmod(0o111)
        with running(path, user=65534) as pid:
            report = await host.one("", pid, verify=True)
        assert (report.hash_state, report.owner_uid, report.mode & 0o777) == (HashState.OK, 65534, 0o111)
        assert report.digests[0].value == SHA256
    finally:
        shutil.rmtree(folder)


async def test_an_image_deeper_than_the_kernel_tells_is_verified(host: Host, tmp_path: Path) -> None:
    program = copy_of_sleep(tmp_path)
    with deep_image(tmp_path, program) as process:
        report = await host.one("", process.pid, verify=True)
    assert (report.hash_state, report.path) == (HashState.OK, "")
    assert [digest.value for digest in report.digests] == [SHA256]


async def test_a_time_beyond_what_the_schema_holds_is_told_as_its_end(host: Host) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:  # tmpfs keeps seconds of 64 bits
        program = copy_of_sleep(Path(folder))
        os.utime(program, ns=(0, 2**60 * 10**9))
        if program.stat().st_mtime_ns < 2**63:
            pytest.skip("/dev/shm keeps no such time")
        report = await host.one(program, verify=True)
    assert report.modified_ns == 2**63 - 1
    assert report.hash_state is HashState.OK
    assert codec.encode(report)

"""Hash questions that one look answers: the same bytes as a walk gives, and only while they are true."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest

from common import codec, limits
from common.messages import (
    CollectionOptions,
    DetectionResult,
    DetectionTask,
    ExecutableReport,
    HashCheck,
    HashState,
    ProcessFilter,
    TaskType,
    new_hash_check_task,
)
from procmond.collect.guard import Guard
from procmond.collect.handlers import answer_at_once, check_hash
from procmond.collect.hashing import HashEngine
from procmond.collect.known_answers import KnownAnswer, KnownAnswers
from procmond.collect.lanes import HashLanes
from procmond.collect.mounts import MountTable, Places, find_memory_device
from procmond.collect.procfs import ProcfsCollector
from procmond.collect.request import Request
from procmond.collect.sighting import FileIdentity
from procmond.collect.sweep import Tools
from tests.support.feeds import make_feed
from tests.support.images import SLEEP
from tests.support.privilege import needs_root

pytestmark = needs_root  # only root makes directories that nobody else may write to

PLACES = Places(MountTable(), find_memory_device())


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory to which, as to all above it, only root may write."""
    made = Path(tempfile.mkdtemp(prefix="daemoneye-test-", dir="/run"))
    yield made
    shutil.rmtree(made)


@pytest.fixture
async def tools() -> AsyncIterator[Tools]:
    """With a clock far enough ahead that what is hashed now counts as settled."""
    engine = HashEngine(wall_clock_ns=lambda: time.time_ns() + 60 * limits.HASH_SETTLE_NS)
    lanes = HashLanes(engine, engine, PLACES)
    collector = ProcfsCollector(held_descriptors=0)
    yield Tools(collector, lanes, Guard(), 5.0, make_feed(lanes, sweeper=collector), KnownAnswers())
    await lanes.close()
    collector.close()


def program(folder: Path, name: str = "program") -> Path:
    path = folder / name
    shutil.copy(SLEEP, path)
    return path


def question(path: Path, **fields: str) -> DetectionTask:
    return new_hash_check_task("t", HashCheck(executable_path=str(path), **fields))


async def walked(tools: Tools, task: DetectionTask) -> bytes:
    request = Request(1, task, administrator=True, frame_limit=2**20, write=lambda *_: None)
    return await check_hash(request, tools)


def digest(body: bytes | None) -> str:
    assert body is not None
    result = codec.decode(DetectionResult, body).hash_result
    assert result is not None
    return result.hash_value


async def test_the_same_question_is_answered_alike_without_a_walk(tools: Tools, folder: Path) -> None:
    task = question(program(folder))
    assert answer_at_once(task, tools) is None
    body = await walked(tools, task)
    assert answer_at_once(task, tools) == body
    assert digest(body) == hashlib.sha256(SLEEP.read_bytes()).hexdigest()


async def test_an_answer_given_again_counts_as_a_hit(tools: Tools, folder: Path) -> None:
    task = question(program(folder))
    await walked(tools, task)
    before = tools.engine.counters().hits
    answer_at_once(task, tools)
    assert tools.engine.counters().hits == before + 1


async def test_other_words_are_another_question(tools: Tools, folder: Path) -> None:
    path = program(folder)
    await walked(tools, question(path))
    assert answer_at_once(question(path, hash_algorithm="md5"), tools) is None
    assert answer_at_once(question(path, expected_hash="0" * 64), tools) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"task_type": TaskType.VERIFY_EXECUTABLE},
        {"options": CollectionOptions(digests=("md5",))},
        {"process_filter": ProcessFilter(pids=(1,))},
    ],
)
async def test_only_the_plain_question_is_answered_at_once(
    tools: Tools, folder: Path, fields: dict[str, object]
) -> None:
    task = question(program(folder))
    await walked(tools, task)
    assert answer_at_once(msgspec.structs.replace(task, **fields), tools) is None


async def test_an_overwrite_of_the_same_size_with_its_old_time_is_seen(tools: Tools, folder: Path) -> None:
    path = program(folder)
    await walked(tools, question(path))
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"!")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert answer_at_once(question(path), tools) is None
    assert digest(await walked(tools, question(path))) == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("change", ["mode", "owner", "capabilities", "another file", "gone"])
async def test_whatever_else_changes_is_seen(tools: Tools, folder: Path, change: str) -> None:
    path = program(folder)
    await walked(tools, question(path))
    match change:
        case "mode":
            path.chmod(0o4755)
        case "owner":
            os.chown(path, 1, 1)
        case "capabilities":
            os.setxattr(
                path, "security.capability", bytes.fromhex("0100000200040000000000000000000000000000")
            )
        case "another file":
            os.rename(program(folder, "other"), path)
        case _:
            path.unlink()
    assert answer_at_once(question(path), tools) is None


async def test_a_link_that_leads_elsewhere_now_is_seen(tools: Tools, folder: Path) -> None:
    for name in ("one", "two"):
        (folder / name).mkdir()
        program(folder / name)
    (folder / "link").symlink_to("one")
    task = question(folder / "link" / "program")
    await walked(tools, task)
    assert answer_at_once(task, tools) is not None
    (folder / "link").unlink()
    (folder / "link").symlink_to("two")
    assert answer_at_once(task, tools) is None


@pytest.mark.parametrize(("owner", "mode"), [(0, 0o1777), (0, 0o775), (1, 0o755)])
async def test_where_others_may_change_the_way_each_question_walks_it(
    tools: Tools, folder: Path, owner: int, mode: int
) -> None:
    theirs = folder / "theirs"
    theirs.mkdir()
    theirs.chmod(mode)
    os.chown(theirs, owner, 0)
    task = question(program(theirs))
    await walked(tools, task)
    assert answer_at_once(task, tools) is None


async def test_a_way_through_a_link_of_others_is_walked_each_time(tools: Tools, folder: Path) -> None:
    theirs = folder / "theirs"
    theirs.mkdir()
    os.chown(theirs, 1, 1)
    (theirs / "link").symlink_to(program(folder))
    task = question(theirs / "link")
    await walked(tools, task)
    assert answer_at_once(task, tools) is None


async def test_after_a_mount_every_way_is_walked_anew(tools: Tools, folder: Path) -> None:
    task = question(program(folder))
    await walked(tools, task)
    place = folder / "place"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], check=True)
    try:
        assert answer_at_once(task, tools) is None
    finally:
        subprocess.run(["umount", place], check=True)


def test_the_first_answer_is_forgotten_when_there_is_no_room() -> None:
    answers = KnownAnswers(capacity=2)
    check = HashCheck(executable_path="/x")
    for inode in (1, 2, 3):
        report = ExecutableReport(hash_state=HashState.OK, mode=0o100755, inode=inode)
        answers.put(check, report, KnownAnswer(("sha256",), b"%d" % inode))
    identities = [FileIdentity(0, inode, 0, 0, 0) for inode in (1, 2, 3)]
    kept = [answers.get(check, identity) for identity in identities]
    assert [answer and answer.body for answer in kept] == [None, b"2", b"3"]


@pytest.mark.parametrize(
    "report",
    [
        ExecutableReport(hash_state=HashState.PENDING, mode=0o100755),
        ExecutableReport(hash_state=HashState.OK, mode=0o100644),
        ExecutableReport(hash_state=HashState.OK, mode=0o100755, error_message="something is missing"),
    ],
)
def test_what_may_be_otherwise_next_time_is_not_remembered(report: ExecutableReport) -> None:
    answers = KnownAnswers()
    answers.put(HashCheck(executable_path="/x"), report, KnownAnswer(("sha256",), b""))
    assert answers.get(HashCheck(executable_path="/x"), FileIdentity(0, 0, 0, 0, 0)) is None

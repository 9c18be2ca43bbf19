"""The engine on real files and processes: read once, bounded, and never waited for longer than declared."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from common import limits
from common.messages import HashState
from procmond.collect.digest import READ_ONLY, identity_of, open_image
from procmond.collect.hash_cache import HashOutcome
from procmond.collect.hashing import HashEngine
from procmond.collect.sighting import FileIdentity
from tests.procmond.collect.made import leaderless
from tests.support.images import SLEEP, copy_of_sleep, running
from tests.support.privilege import needs_root


def much_later() -> int:
    """A wall clock by which every file of a test has settled."""
    return time.time_ns() + 60 * limits.HASH_SETTLE_NS


@pytest.fixture
async def engine() -> AsyncIterator[HashEngine]:
    engine = HashEngine(wall_clock_ns=much_later)
    yield engine
    await engine.close()


class Gate:
    """An opener that a test holds back, and that counts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.calls = 0
        self.entered = threading.Event()
        self.may_go = threading.Event()

    def __call__(self) -> int:
        self.calls += 1
        self.entered.set()
        self.may_go.wait()
        return os.open(self.path, READ_ONLY)


def identity(path: Path | str) -> FileIdentity:
    return identity_of(os.stat(path))


def opener(path: Path) -> Callable[[], int]:
    return functools.partial(os.open, path, READ_ONLY)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


async def value(engine: HashEngine, path: Path) -> str:
    outcome = await engine.submit(opener(path), identity(path))
    assert outcome.state is HashState.OK
    return outcome.digests[0].value


async def started(gate: Gate) -> None:
    assert await asyncio.to_thread(gate.entered.wait, 30)


async def test_a_file_is_read_once_and_then_known(engine: HashEngine, tmp_path: Path) -> None:
    path = copy_of_sleep(tmp_path)
    assert engine.cached(identity(path)) is None
    assert await value(engine, path) == sha256(SLEEP)
    assert await value(engine, path) == sha256(SLEEP)
    known = engine.cached(identity(path))
    assert known is not None
    assert known.digests[0].value == sha256(SLEEP)
    counters = engine.counters()
    assert (counters.hits, counters.misses, counters.files_read) == (2, 1, 1)
    assert counters.bytes_read == path.stat().st_size
    assert counters.cached == 1


async def test_a_file_asked_for_while_it_is_read_is_read_once(engine: HashEngine, tmp_path: Path) -> None:
    gate = Gate(copy_of_sleep(tmp_path))
    futures = [engine.submit(gate, identity(gate.path)) for _ in range(3)]
    await started(gate)
    futures += [engine.submit(gate, identity(gate.path)) for _ in range(3)]
    gate.may_go.set()
    outcomes = await asyncio.gather(*futures)
    assert {outcome.state for outcome in outcomes} == {HashState.OK}
    assert gate.calls == 1
    assert (engine.counters().misses, engine.counters().files_read) == (6, 1)


async def test_a_further_digest_is_read_for_once_and_merged(engine: HashEngine, tmp_path: Path) -> None:
    path = copy_of_sleep(tmp_path)
    await value(engine, path)
    more = await engine.submit(opener(path), identity(path), ("sha256", "sha512"))
    assert [digest.algorithm for digest in more.digests] == ["sha256", "sha512"]
    assert engine.counters().files_read == 2
    assert engine.cached(identity(path)) == HashOutcome(HashState.OK, more.digests[:1], more.bytes)


async def test_a_file_younger_than_the_settling_time_is_read_each_time(tmp_path: Path) -> None:
    path = copy_of_sleep(tmp_path)
    status = path.stat()
    engine = HashEngine(wall_clock_ns=lambda: status.st_ctime_ns + limits.HASH_SETTLE_NS - 1)
    await value(engine, path)
    await value(engine, path)
    assert engine.counters().files_read == 2
    await engine.close()


async def test_a_same_size_overwrite_with_its_times_put_back_changes_the_hash(
    engine: HashEngine, tmp_path: Path
) -> None:
    path, reference = copy_of_sleep(tmp_path), tmp_path / "reference"
    shutil.copy2(path, reference)
    first, before = await value(engine, path), path.stat()
    while path.stat().st_ctime_ns == before.st_ctime_ns:  # the kernel's clock for it ticks in steps
        with path.open("r+b") as stream:
            stream.seek(-1, os.SEEK_END)
            stream.write(b"!")
        subprocess.run(["touch", "-r", str(reference), str(path)], check=True)
    assert path.stat().st_size == before.st_size
    assert path.stat().st_mtime_ns == reference.stat().st_mtime_ns
    assert await value(engine, path) == sha256(path) != first


async def test_a_replaced_executable_is_hashed_as_it_runs(engine: HashEngine, tmp_path: Path) -> None:
    path = copy_of_sleep(tmp_path)
    with running(path) as pid:
        path.unlink()
        path.write_text("#!/bin/sh\n")
        outcome = await engine.submit(functools.partial(open_image, pid), identity(f"/proc/{pid}/exe"))
    assert outcome.digests[0].value == sha256(SLEEP)


async def test_the_image_of_a_process_whose_first_thread_has_ended_is_hashed(engine: HashEngine) -> None:
    program = Path(sys.executable).resolve()
    with leaderless() as process:
        outcome = await engine.submit(functools.partial(open_image, process.pid), identity(program))
    assert outcome.digests[0].value == sha256(program)


async def test_an_executable_made_200_gigabytes_long_is_never_opened(
    engine: HashEngine, tmp_path: Path
) -> None:
    path = copy_of_sleep(tmp_path)
    os.truncate(path, 200 << 30)
    with running(path) as pid:
        image = identity(f"/proc/{pid}/exe")
        gate = Gate(path)
        assert engine.cached(image) == HashOutcome(HashState.TOO_LARGE)
        assert (await engine.submit(gate, image)).state is HashState.TOO_LARGE
    assert gate.calls == 0
    assert engine.counters().bytes_read == 0


async def test_the_next_process_is_tried_when_the_first_of_an_image_ended(
    engine: HashEngine, tmp_path: Path
) -> None:
    path = copy_of_sleep(tmp_path)
    gate = Gate(SLEEP)
    blocked = [engine.submit(gate, identity(SLEEP)), engine.submit(gate, identity(SLEEP), ("sha256", "md5"))]
    with running(path) as other:
        with running(path) as first:
            image = identity(f"/proc/{first}/exe")
            futures = [engine.submit(functools.partial(open_image, pid), image) for pid in (first, other)]
        gate.may_go.set()
        outcomes = await asyncio.gather(*futures)
    assert {outcome.state for outcome in outcomes} == {HashState.OK}
    await asyncio.gather(*blocked)


async def test_an_image_whose_processes_all_ended_is_gone(engine: HashEngine) -> None:
    with running(SLEEP) as pid:
        image = identity(f"/proc/{pid}/exe")
    outcome = await engine.submit(functools.partial(open_image, pid), image)
    assert outcome.state is HashState.GONE


def distinct(folder: Path, count: int) -> list[Path]:
    paths = [folder / str(number) for number in range(count)]
    for path in paths:
        path.write_bytes(path.name.encode())
    return paths


async def test_a_full_queue_answers_pending_at_once_and_counts(tmp_path: Path) -> None:
    engine = HashEngine(workers=1, queue_files=2, wall_clock_ns=much_later)
    first, *rest = distinct(tmp_path, 4)
    gate = Gate(first)
    futures = [engine.submit(gate, identity(first))]
    await started(gate)
    futures += [engine.submit(opener(path), identity(path)) for path in rest]
    assert futures[-1].result() == HashOutcome(HashState.PENDING)
    assert (engine.counters().refused, engine.counters().waiting) == (1, 2)
    joined = engine.submit(opener(rest[0]), identity(rest[0]))  # no further file, so not refused
    gate.may_go.set()
    outcomes = await asyncio.gather(*futures[:-1], joined)
    assert {outcome.state for outcome in outcomes} == {HashState.OK}
    await engine.close()


async def test_what_a_person_asks_goes_before_what_waits(tmp_path: Path) -> None:
    engine = HashEngine(workers=1, wall_clock_ns=much_later)
    first, *rest = distinct(tmp_path, 4)
    gate, order = Gate(first), list[str]()

    def noted(path: Path) -> int:
        order.append(path.name)
        return os.open(path, READ_ONLY)

    futures = [engine.submit(gate, identity(first))]
    await started(gate)
    futures += [
        engine.submit(functools.partial(noted, path), identity(path), urgent=path is rest[-1])
        for path in rest
    ]
    gate.may_go.set()
    await asyncio.gather(*futures)
    assert order == ["3", "1", "2"]
    await engine.close()


async def test_a_read_is_given_up_when_the_last_who_waits_leaves(tmp_path: Path) -> None:
    engine = HashEngine(workers=1, wall_clock_ns=much_later)
    first, second = distinct(tmp_path, 2)
    gate, later = Gate(first), Gate(second)
    running_read = engine.submit(gate, identity(first))
    await started(gate)
    cancelled = [engine.submit(later, identity(second)) for _ in range(2)]
    for future in cancelled:
        future.cancel()
    await asyncio.sleep(0)  # their callbacks
    again = engine.submit(opener(second), identity(second))
    later.may_go.set()
    gate.may_go.set()
    assert (await running_read).state is HashState.OK
    assert (await again).state is HashState.OK
    assert engine.counters().files_read == 2  # not three
    await engine.close()


async def test_one_who_leaves_takes_nothing_from_the_others(engine: HashEngine, tmp_path: Path) -> None:
    gate = Gate(copy_of_sleep(tmp_path))
    leaves, stays = (engine.submit(gate, identity(gate.path)) for _ in range(2))
    leaves.cancel()
    await asyncio.sleep(0)
    gate.may_go.set()
    assert (await stays).state is HashState.OK


async def test_a_bug_in_an_opener_is_reported_and_holds_nobody_up(engine: HashEngine, tmp_path: Path) -> None:
    path = copy_of_sleep(tmp_path)
    reported = list[BaseException | None]()
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: reported.append(context.get("exception"))
    )

    def broken() -> int:
        raise ZeroDivisionError

    assert (await engine.submit(broken, identity(path))).state is HashState.IO_ERROR
    assert await value(engine, path) == sha256(path)
    assert [type(error) for error in reported] == [ZeroDivisionError]


async def test_closing_answers_those_who_wait_with_pending(tmp_path: Path) -> None:
    engine = HashEngine(workers=1, wall_clock_ns=much_later)
    first, second = distinct(tmp_path, 2)
    gate = Gate(first)
    futures = [engine.submit(gate, identity(first)), engine.submit(opener(second), identity(second))]
    await started(gate)
    gate.may_go.set()
    await engine.close()
    assert {future.result().state for future in futures} <= {HashState.PENDING, HashState.OK}
    assert futures[1].result().state is HashState.PENDING
    assert engine.submit(opener(second), identity(second)).result().state is HashState.PENDING


async def test_every_file_of_many_is_hashed_right(engine: HashEngine, tmp_path: Path) -> None:
    paths = distinct(tmp_path, 300)
    outcomes = await asyncio.gather(*(engine.submit(opener(path), identity(path)) for path in paths))
    for path, outcome in zip(paths, outcomes, strict=True):
        assert outcome.digests[0].value == sha256(path)
    assert engine.counters().files_read == 300
    assert [engine.cached(identity(path)) for path in paths] == outcomes


@needs_root
@pytest.mark.parametrize("kind", ["overlay", "btrfs"])
async def test_an_image_on_a_layered_file_system_is_hashed_and_its_overwrite_seen(
    engine: HashEngine, tmp_path: Path, kind: str
) -> None:
    mount_point = tmp_path / "mounted"
    mount_point.mkdir()
    if kind == "overlay":
        folders = [tmp_path / name for name in ("lower", "upper", "work")]
        for folder in folders:
            folder.mkdir()
        copy_of_sleep(folders[0])
        lower, upper, work = folders
        command = ["mount", "-t", "overlay", "overlay", "-o"]
        command += [f"lowerdir={lower},upperdir={upper},workdir={work}", str(mount_point)]
    else:
        if shutil.which("mkfs.btrfs") is None:
            pytest.skip("mkfs.btrfs is not installed: btrfs not tried")
        disk = tmp_path / "disk"
        disk.touch()
        os.truncate(disk, 256 << 20)
        subprocess.run(["mkfs.btrfs", "-q", str(disk)], check=True)
        command = ["mount", "-o", "loop", str(disk), str(mount_point)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"{kind} cannot be mounted here: {mounted.stderr.strip()}")
    try:
        path = mount_point / "sleeper"
        if kind == "btrfs":
            copy_of_sleep(mount_point)
        with running(path) as pid:
            image = identity(f"/proc/{pid}/exe")
            outcome = await engine.submit(functools.partial(open_image, pid), image)
            assert outcome.digests[0].value == sha256(SLEEP)
            assert engine.cached(identity(f"/proc/{pid}/exe")) == outcome
        with path.open("ab") as stream:  # copied up to the other layer by this
            stream.write(b"!")
        assert await value(engine, path) == sha256(path) != sha256(SLEEP)
    finally:
        subprocess.run(["umount", "-l", str(mount_point)], check=True)

"""Which bytes ran: real files, real processes, and every way to be fooled that is known."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from common.limits import HASH_MAX_FILE_BYTES
from common.messages import HashState, Provenance
from procmond.collect.guard import Guard
from procmond.collect.hash_cache import SHA256_ONLY, HashOutcome
from procmond.collect.lanes import HashLanes
from procmond.collect.mounts import find_memory_device
from procmond.collect.sighting import FileIdentity
from procmond.events.proof import Answer, KernelImage, Prover, Ran
from procmond.pulse import Pulse, Stage
from procmond.quarantine import Withheld
from tests.support import hostile
from tests.support.children import child_of, reap, wait_until
from tests.support.feeds import make_engine
from tests.support.fuse_server import Stall
from tests.support.images import SLEEP, copy_of_sleep, running
from tests.support.privilege import needs_root

HASH = hashlib.sha256(SLEEP.read_bytes()).hexdigest()


@pytest.fixture
async def engine() -> AsyncIterator[HashLanes]:
    made = make_engine()
    yield made
    await made.close()


@pytest.fixture
def prover(engine: HashLanes) -> Prover:
    return Prover(engine, HASH_MAX_FILE_BYTES, find_memory_device())


def ran(path: Path, pid: int = 0, *, settled: bool = True, **changes: int) -> Ran:
    """What the kernel says when `path`, as it is now, begins to run."""
    status = os.stat(path)
    image = KernelImage(
        status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    )._replace(**changes)
    return Ran(pid, image, str(path), settled)


async def digest(answer: Answer) -> tuple[HashState, str]:
    outcome = answer.outcome if isinstance(answer.outcome, HashOutcome) else await answer.outcome
    return outcome.state, outcome.digests[0].value if outcome.digests else ""


async def asked(prover: Prover, what: Ran) -> tuple[HashState, str, Provenance]:
    """As an enricher asks: seize, then ask."""
    answer = prover.ask(what, prover.seize(what), SHA256_ONLY)
    return *(await digest(answer)), answer.provenance


async def test_what_runs_is_taken_from_the_process(prover: Prover, tmp_path: Path) -> None:
    program = copy_of_sleep(tmp_path)
    with running(program) as pid:
        what = ran(program, pid)
        assert await asked(prover, what) == (HashState.OK, HASH, Provenance.PROC)


async def test_what_was_deleted_while_it_ran_is_still_taken_from_the_process(
    prover: Prover, tmp_path: Path
) -> None:
    program = copy_of_sleep(tmp_path)
    with running(program) as pid:
        what = ran(program, pid)
        os.unlink(program)
        # Unlinking moves the change time, so what was said at exec cannot be proven any more.
        assert (await asked(prover, what))[0] is HashState.GONE
        status = os.stat(f"/proc/{pid}/exe")
        what = what._replace(image=what.image._replace(ctime_ns=status.st_ctime_ns))
        assert (await asked(prover, what))[:2] == (HashState.OK, HASH)


async def test_of_a_process_that_is_gone_the_file_is_taken(prover: Prover, tmp_path: Path) -> None:
    assert await asked(prover, ran(copy_of_sleep(tmp_path))) == (HashState.OK, HASH, Provenance.FILE)


async def test_a_file_taken_hold_of_may_lose_its_process(prover: Prover, tmp_path: Path) -> None:
    program = copy_of_sleep(tmp_path)
    with running(program) as pid:
        what = ran(program, pid)
        held = prover.seize(what)
    assert held is not None
    assert (await digest(prover.ask(what, held, SHA256_ONLY))) == (HashState.OK, HASH)


async def test_what_is_known_costs_no_look_at_any_file(prover: Prover) -> None:
    what = ran(SLEEP)  # unlike a file made by a test its last change lies long back
    assert prover.known(what, SHA256_ONLY) is None
    assert (await asked(prover, what))[0] is HashState.OK
    known = prover.known(what._replace(path=None), SHA256_ONLY)
    assert known is not None
    assert known.digests[0].value == HASH
    assert prover.known(what._replace(settled=False), SHA256_ONLY) is None


async def test_a_file_that_was_changed_since_is_not_what_ran(prover: Prover, tmp_path: Path) -> None:
    program = copy_of_sleep(tmp_path)
    what = ran(program)
    with program.open("r+b") as file:
        file.write(b"#")
    assert (await asked(prover, what))[0] is HashState.GONE


async def test_a_file_changed_while_it_is_read_has_no_hash(prover: Prover, tmp_path: Path) -> None:
    program = copy_of_sleep(tmp_path)
    what = ran(program)
    held = prover.seize(what._replace(pid=os.getpid()))
    assert held is None, "another image than ours"
    answer = prover.ask(what, None, SHA256_ONLY)
    with program.open("r+b") as file:
        file.write(b"#")
    state, value = await digest(answer)
    assert (state, value) in {(HashState.CHANGED, ""), (HashState.OK, HASH)}, "never the new content's"


async def test_a_file_changed_just_before_it_ran_proves_nothing_by_its_name(
    prover: Prover, tmp_path: Path
) -> None:
    assert (await asked(prover, ran(copy_of_sleep(tmp_path), settled=False)))[0] is HashState.GONE


async def test_it_may_be_held_where_change_times_cannot_stand_still(prover: Prover, tmp_path: Path) -> None:
    program = copy_of_sleep(tmp_path)
    with running(program) as pid:
        what = ran(program, pid, settled=False)
        prover._fine_grained = True
        assert prover.seize(what) is not None
        prover._fine_grained = False
        assert prover.seize(what) is None


@pytest.mark.parametrize("field", ["inode", "size", "mtime_ns", "ctime_ns"])
async def test_whatever_differs_it_is_not_the_one(prover: Prover, tmp_path: Path, field: str) -> None:
    program = copy_of_sleep(tmp_path)
    what = ran(program)
    other = what._replace(image=what.image._replace(**{field: getattr(what.image, field) + 1}))
    assert (await asked(prover, other))[0] is HashState.GONE


async def test_a_twin_on_another_file_system_is_not_the_one(prover: Prover, tmp_path: Path) -> None:
    shared = Path("/dev/shm")
    if os.stat(shared).st_dev == os.stat(tmp_path).st_dev:
        pytest.skip("/dev/shm is no file system of its own here")
    program = copy_of_sleep(tmp_path)
    assert (await asked(prover, ran(program, device=os.stat(shared).st_dev)))[0] is HashState.GONE
    # Of a file system that no mount here shows, only one whose stat has devices of its own could be it.
    assert (await asked(prover, ran(program, device=os.makedev(0, 9_999))))[0] is HashState.GONE


async def test_a_file_system_nobody_knows_is_not_asked_by_the_loop(prover: Prover, tmp_path: Path) -> None:
    program = copy_of_sleep(tmp_path)
    with running(program) as pid:
        assert prover.seize(ran(program, pid, device=os.makedev(0, 9_999))) is None


async def test_a_file_of_200_gb_is_not_touched(prover: Prover, tmp_path: Path) -> None:
    program = tmp_path / "huge"
    program.touch()
    os.truncate(program, 200 << 30)
    known = prover.known(ran(program), SHA256_ONLY)
    assert known is not None
    assert known.state is HashState.TOO_LARGE


async def test_a_number_that_is_anothers_by_now_is_not_the_one(prover: Prover, tmp_path: Path) -> None:
    first, second = copy_of_sleep(tmp_path, "first"), copy_of_sleep(tmp_path, "second")
    with second.open("ab") as file:
        file.write(b"\n")
    with running(second) as pid:
        assert prover.seize(ran(first, pid)) is None


async def test_one_image_is_read_once_for_all_who_ran_it_at_the_same_time(
    prover: Prover, engine: HashLanes, tmp_path: Path
) -> None:
    program = copy_of_sleep(tmp_path)
    what = ran(program)
    answers = [prover.ask(what, prover.seize(what), SHA256_ONLY) for _ in range(20)]
    assert {await digest(answer) for answer in answers} == {(HashState.OK, HASH)}
    assert engine.counters().files_read == 1


async def test_a_memfd_is_taken_from_the_process(prover: Prover) -> None:
    descriptor = os.memfd_create("image", 0)
    try:
        with open(descriptor, "wb", closefd=False) as file, SLEEP.open("rb") as source:
            shutil.copyfileobj(source, file)
        child = subprocess.Popen([f"/proc/self/fd/{descriptor}", "60"], pass_fds=(descriptor,))
        try:
            path = Path(f"/proc/{child.pid}/exe")
            await asyncio.sleep(0.05)  # the file's last change is to be 20 ms old
            assert await asked(prover, ran(path, child.pid)) == (HashState.OK, HASH, Provenance.PROC)
        finally:
            child.kill()
            child.wait()
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    "path", ["relative", "/missing", "/dev/null", "/proc/self/exe", "/bad\udcff", "/nul\0"]
)
async def test_a_path_that_leads_nowhere_is_no_error(prover: Prover, path: str) -> None:
    what = ran(SLEEP)._replace(path=path)
    assert (await asked(prover, what))[0] is HashState.GONE


@needs_root
@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="needs FUSE: no /dev/fuse here")
@pytest.mark.parametrize("way", ["seize", "ask_alive"])
async def test_a_look_that_does_not_come_back_shows_on_the_pulse(engine: HashLanes, way: str) -> None:
    pulse = Pulse()
    prover = Prover(engine, HASH_MAX_FILE_BYTES, find_memory_device(), Guard(pulse))
    with hostile.stacked_executable(Stall.GETATTR) as stacked:
        local = ran(SLEEP, stacked.pid)  # what it ran before
        looks = {
            "seize": lambda: prover.seize(local),
            "ask_alive": lambda: prover.ask_alive(
                stacked.pid, FileIdentity._make(local.image), ("md5",), read=True
            ),
        }
        looker = child_of(looks[way])
        wait_until(lambda: pulse.read()[1:3] == (Stage.IMAGE, stacked.pid), "the pulse to show it")
        wait_until(lambda: stacked.mounted.switch.unanswered > 0, "the look")
    assert reap(looker) == 0
    pulse.close()


@pytest.mark.parametrize("way", ["seize", "ask_alive"])
async def test_a_look_that_is_withheld_is_left_to_the_next_sweep(engine: HashLanes, way: str) -> None:
    guard = Guard(None, Withheld(everyone=True))
    prover = Prover(engine, HASH_MAX_FILE_BYTES, find_memory_device(), guard)
    local = ran(Path(sys.executable).resolve(), os.getpid())
    if way == "seize":
        assert prover.seize(local) is None
    else:
        identity = FileIdentity._make(local.image)
        answer = prover.ask_alive(os.getpid(), identity, ("md5",), read=True)
        assert answer.outcome == HashOutcome(HashState.PENDING)

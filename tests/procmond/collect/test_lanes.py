"""Two lanes of hashing: what may never answer is opened by a child, and holds up nobody else."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from common.messages import HashState
from procmond.collect import mounts as mounts_module
from procmond.collect.digest import identity_of
from procmond.collect.hash_cache import HashOutcome
from procmond.collect.lanes import ChildDigester, HashLanes, make_lanes
from procmond.collect.mounts import MountTable, Places, find_memory_device, parse_mountinfo
from procmond.collect.sighting import FileIdentity
from procmond.collect.vetting import Descriptor
from tests.procmond.collect.made import leaderless, made
from tests.support import hostile
from tests.support.attacks import call
from tests.support.children import PATIENCE_S, wait_until
from tests.support.daemons import eventually
from tests.support.fuse_server import Stall, fuse_mount
from tests.support.images import copy_of_sleep, running
from tests.support.privilege import needs_root

needs_fuse = pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="needs FUSE: no /dev/fuse here")
DEADLINE_S = 1.0


@pytest.fixture
async def lanes() -> AsyncIterator[HashLanes]:
    made = make_lanes(
        workers=1,
        max_file_bytes=2**20,
        file_deadline_s=DEADLINE_S,
        cache_entries=16,
        memory_device=find_memory_device(),
    )
    yield made
    await made.close()


def image_of(pid: int) -> FileIdentity:
    return identity_of(os.stat(f"/proc/{pid}/exe"))


def test_mounts_are_read_and_nonsense_is_left_out() -> None:
    raw = (
        b"36 35 98:0 /m /mnt\\0401 rw - ext3 /dev/r rw\n\nx y\n40 1 0:5 / /f rw master:1 - fuse.sshfs a rw\n"
    )
    mounts = parse_mountinfo(raw)
    assert [(mount.number, mount.place, mount.kind, mount.remote) for mount in mounts] == [
        (36, b"/mnt 1", "ext3", False),
        (40, b"/f", "fuse.sshfs", True),
    ]


def test_only_a_line_feed_ends_a_line_of_mountinfo() -> None:
    (mount,) = parse_mountinfo(b"36 35 0:5 / /mnt/a\rb\x0bc\x0cd rw - fuse dev rw\n")
    assert (mount.place, mount.remote) == (b"/mnt/a\rb\x0bc\x0cd", True)


def test_a_mount_of_no_type_may_hang() -> None:
    (mount,) = parse_mountinfo(b"36 35 0:5 / /mnt/a rw\n")
    assert mount.remote


def test_a_local_image_and_one_in_memory_cannot_hang(tmp_path: Path) -> None:
    places = Places(MountTable(), find_memory_device())
    with running(copy_of_sleep(tmp_path)) as pid:
        assert not places.may_hang(pid, image_of(pid).device)
    descriptor = os.memfd_create("image")
    device = os.fstat(descriptor).st_dev
    os.close(descriptor)
    assert not places.may_hang(os.getpid(), device)


def test_of_an_image_on_our_own_mounts_no_other_table_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(mounts_module, "_mounts_of", lambda pid: pytest.fail(f"read that of {pid}"))
    places = Places(MountTable(), find_memory_device())
    with running(copy_of_sleep(tmp_path)) as pid:
        assert not places.may_hang(pid, image_of(pid).device)


@needs_root
def test_of_a_foreign_table_a_bounded_part_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    places = Places(MountTable(), find_memory_device())
    with made("must(libc.unshare(0x00020000)); os.write(1, b'r'); os.execv('/bin/cat', ['cat'])") as process:
        while os.readlink(f"/proc/{process.pid}/exe") != os.path.realpath("/bin/cat"):
            pass
        device = image_of(process.pid).device
        assert not places.may_hang(process.pid, device)
        monkeypatch.setattr(mounts_module, "_MAX_FOREIGN_BYTES", 10)
        assert places.may_hang(process.pid, device)


@needs_root
def test_of_a_process_whose_first_thread_has_ended_the_foreign_table_is_read_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    places = Places(MountTable(), find_memory_device())
    in_a_namespace = """
    if sys.argv[-1] != "again":
        must(libc.unshare(0x00020000))
        os.execv(sys.executable, open("/proc/self/cmdline").read().split("\\0")[:-1] + ["again"])
    """
    with leaderless(first=in_a_namespace) as process:
        (thread,) = {int(name) for name in os.listdir(f"/proc/{process.pid}/task")} - {process.pid}
        device = image_of(thread).device
        assert not places.may_hang(process.pid, device)
        monkeypatch.setattr(mounts_module, "_MAX_FOREIGN_BYTES", 10)
        assert places.may_hang(process.pid, device)


@needs_root
@needs_fuse
def test_an_image_on_fuse_may_hang() -> None:
    places = Places(MountTable(), find_memory_device())
    with hostile.silent_executable() as silent:
        assert places.may_hang(silent.pid, device=0xFFFF)


@needs_root
@needs_fuse
def test_an_image_on_somebodys_overlay_over_fuse_may_hang() -> None:
    places = Places(MountTable(), find_memory_device())
    with hostile.stacked_executable() as stacked:
        assert places.may_hang(stacked.pid, device=0xFFFF)


@needs_root
def test_an_overlay_of_our_own_is_trusted_in_other_namespaces_too(tmp_path: Path) -> None:
    """As the images of containers lie on what their engine mounted."""
    layers = [tmp_path / name for name in ("one", "two", "merged")]
    for layer in layers:
        layer.mkdir()
    copy_of_sleep(layers[0]).rename(layers[0] / "image")
    merged = str(layers[2])
    lowest = f"lowerdir={layers[0]}:{layers[1]}".encode()
    call("mount", b"overlay", merged.encode(), b"overlay", 0, lowest)
    places = Places(MountTable(), find_memory_device())
    code = "must(libc.unshare(0x00020000)); os.write(1, b'r'); os.execv(sys.argv[1], ['sleep', '1000'])"
    try:
        with made(code, f"{merged}/image") as process:
            wait_until(lambda: "merged" in os.readlink(f"/proc/{process.pid}/exe"), "the image to run")
            assert not places.may_hang(process.pid, device=0xFFFF)
    finally:
        call("umount2", merged.encode(), 2)


@needs_root
@needs_fuse
def test_a_carriage_return_in_its_mount_point_hides_no_fuse_mount() -> None:
    with (
        open(hostile.SLEEP, "rb") as file,
        fuse_mount(file.read(), prefix="daemoneye-\r-") as mounted,
        hostile.executed(mounted.path, (b"sleep", b"1000")) as pid,
    ):
        assert Places(MountTable(), find_memory_device()).may_hang(pid, image_of(pid).device)


def test_a_child_digests_like_a_thread(tmp_path: Path) -> None:
    path = copy_of_sleep(tmp_path)
    digester = ChildDigester(2**20, DEADLINE_S)
    identity = identity_of(path.stat())
    buffer = bytearray(65536)
    open_file = lambda: os.open(path, os.O_RDONLY)  # noqa: E731 - what an opener is
    before = len(os.listdir("/proc/self/fd"))
    outcome = digester.digest(open_file, identity, ("sha256",), buffer)
    plain = super(ChildDigester, digester).digest(open_file, identity, ("sha256",), buffer)
    assert outcome == plain
    assert outcome.state is HashState.OK
    assert len(os.listdir("/proc/self/fd")) == before


@needs_root
@needs_fuse
async def test_stacked_images_hold_up_only_their_own_lane(lanes: HashLanes, tmp_path: Path) -> None:
    with hostile.stacked_executable() as stacked, running(copy_of_sleep(tmp_path)) as honest:
        # Its stat would hang as well: any identity does, the open is what is tried.
        silent = lanes.submit_image(stacked.pid, FileIdentity(0xFFFF, 1, 1, 1, 1))
        async with asyncio.timeout(PATIENCE_S):
            assert (await lanes.submit_image(honest, image_of(honest))).state is HashState.OK
            assert (await silent).state is HashState.TIMED_OUT


def test_a_child_that_hangs_is_given_up_and_ends_by_itself() -> None:
    digester = ChildDigester(2**20, DEADLINE_S)

    def never() -> int:
        time.sleep(3600)
        raise AssertionError

    outcome = digester.digest(never, FileIdentity(1, 1, 1, 1, 1), ("sha256",), bytearray(16))
    assert outcome == HashOutcome(HashState.TIMED_OUT)
    eventually(lambda: not digester.hanging())


@needs_root
@needs_fuse
async def test_silent_images_hold_up_only_their_own_lane(lanes: HashLanes, tmp_path: Path) -> None:
    with (
        hostile.silent_executable(Stall.OPEN | Stall.READ) as one,
        hostile.silent_executable(Stall.OPEN | Stall.READ) as two,
        hostile.silent_executable(Stall.OPEN | Stall.READ) as three,
        running(copy_of_sleep(tmp_path)) as honest,
    ):
        # Their stat would hang as well: any identity does, the open is what is tried.
        silent = [
            lanes.submit_image(each.pid, FileIdentity(0xFFFF, number, 1, 1, 1))
            for number, each in enumerate((one, two, three))
        ]
        outcome = await lanes.submit_image(honest, image_of(honest))
        assert outcome.state is HashState.OK
        assert {each.state for each in await asyncio.gather(*silent)} == {HashState.TIMED_OUT}


@needs_root
@needs_fuse
@pytest.mark.parametrize("holds", [False, True])
async def test_an_image_that_began_to_run_after_the_judgement_is_not_opened(
    lanes: HashLanes, monkeypatch: pytest.MonkeyPatch, holds: bool
) -> None:
    monkeypatch.setattr(Places, "may_hang", lambda *_: False)  # said of what it ran before
    with hostile.silent_executable(Stall.OPEN | Stall.READ) as silent:
        held = Descriptor(os.open(f"/proc/{silent.pid}/exe", os.O_PATH | os.O_CLOEXEC)) if holds else None
        async with asyncio.timeout(PATIENCE_S):
            outcome = await lanes.submit_image(silent.pid, FileIdentity(0xFFFF, 1, 1, 1, 1), held=held)
        assert outcome.state is HashState.GONE


async def test_an_image_in_memory_is_read(lanes: HashLanes) -> None:
    code = """
    number = os.memfd_create("image", 0)
    os.write(number, open("/bin/sleep", "rb").read())
    os.write(1, b"r")
    os.execv(f"/proc/self/fd/{number}", ["sleep", "1000"])
    """
    with made(code) as process:
        wait_until(lambda: "memfd" in os.readlink(f"/proc/{process.pid}/exe"), "the image to run")
        outcome = await lanes.submit_image(process.pid, image_of(process.pid))
    assert outcome.state is HashState.OK
    assert outcome.digests[0].value == hashlib.sha256(Path("/bin/sleep").read_bytes()).hexdigest()

"""Images shared between processes. One rule: what runs something else by now lends its image to nobody."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from common.messages import HashState
from procmond.collect.images import Image, Images
from procmond.collect.task_images import Place, TaskImages, unseen
from procmond.events.ebpf import Programs
from procmond.events.facts import CHANGED, TaskFacts
from procmond.events.tasks import read_tasks
from tests.support.children import wait_until
from tests.support.images import SLEEP, copy_of_sleep, running


def task_of(programs: Programs, pid: int) -> TaskFacts:
    """The iterator's record of `pid`, once its exec is over."""
    if programs.tasks is None:
        pytest.skip(f"no task iterator here: {programs.missing['tasks'].detail}")
    found: list[TaskFacts] = []

    def is_told() -> bool:
        found.extend(task for task in read_tasks(programs) if task.pid == pid)
        return not found[-1].flags & CHANGED

    wait_until(is_told, f"a record of {pid}")
    return found[-1]


def elsewhere(task: TaskFacts) -> TaskFacts:
    """The same as on btrfs: the kernel has another device than stat(2) reports."""
    return msgspec.structs.replace(task, encoded_device=task.encoded_device + 1)


def look(images: TaskImages, place: Place, task: TaskFacts) -> Image:
    """As the collector does it."""
    return images.look(place, task, b"/proc/%d/" % task.pid)


def swept() -> TaskImages:
    """In its first sweep."""
    images = TaskImages(Images())
    images.begin()
    return images


def test_one_look_serves_all_who_run_the_file_for_one_sweep(programs: Programs) -> None:
    images = swept()
    with running(SLEEP) as pid, running(SLEEP) as other:
        task, second = task_of(programs, pid), task_of(programs, other)
        place = images.place(task)
        image = look(images, place, task)
        assert images.place(second) is place
        assert place.sweep == images.sweep
        images.begin()
        assert place.sweep != images.sweep
        assert look(images, place, second) is image
    status = SLEEP.stat()
    assert image.identity == (
        *(status.st_dev, status.st_ino, status.st_size),
        *(status.st_mtime_ns, status.st_ctime_ns),
    )
    assert (image.path, image.verdict.on_disk_mismatch) == (str(SLEEP), False)


def test_the_same_file_elsewhere_is_another_place(programs: Programs) -> None:
    images = swept()
    with running(SLEEP) as pid:
        task = task_of(programs, pid)
    place = images.place(task)
    assert images.place(msgspec.structs.replace(task, mount_namespace=1)) is not place
    assert images.place(msgspec.structs.replace(task, ctime_rest=task.ctime_rest ^ 1)) is not place
    assert images.place(elsewhere(task)) is not place


@pytest.mark.parametrize("what", ["inode", "size", "mtime_rest", "ctime_rest", "upward_path"])
def test_whoever_runs_something_else_by_now_lends_nothing(programs: Programs, what: str) -> None:
    images = swept()
    with running(SLEEP) as pid:
        task = task_of(programs, pid)
        other = b"other/bin/" if what == "upward_path" else getattr(task, what) ^ 1
        claimed = msgspec.structs.replace(task, **{what: other})
        place = images.place(claimed)
        with pytest.raises(ProcessLookupError):
            look(images, place, claimed)
    assert place.sweep != images.sweep


def test_whoever_has_ended_lends_nothing(programs: Programs) -> None:
    images = swept()
    with running(SLEEP) as pid:
        task = task_of(programs, pid)
    with pytest.raises(ProcessLookupError):
        look(images, images.place(task), task)


def test_a_file_gone_from_its_name_is_looked_up_for_each(programs: Programs, tmp_path: Path) -> None:
    images = swept()
    program = copy_of_sleep(tmp_path)
    with running(program) as pid:
        program.unlink()
        task = task_of(programs, pid)
        place = images.place(task)
        assert look(images, place, task).verdict.on_disk_mismatch
    assert place.sweep != images.sweep


def test_a_device_the_kernel_does_not_name_is_proven_by_the_next_record(programs: Programs) -> None:
    images = swept()
    with running(SLEEP) as pid:
        task = elsewhere(task_of(programs, pid))
        place = images.place(task)
        for _ in range(2):
            assert look(images, place, task).identity is not None
            assert place.sweep != images.sweep
        images.begin()
        look(images, place, task)
        assert place.sweep != images.sweep, "the record is older than the look it should prove"
        look(images, place, elsewhere(task_of(programs, pid)))
        assert place.sweep == images.sweep
        assert place.device == SLEEP.stat().st_dev


def test_an_exec_since_then_proves_nothing(programs: Programs) -> None:
    images = swept()
    with running(SLEEP) as pid:
        task = elsewhere(task_of(programs, pid))
        place = images.place(task)
        look(images, place, task)
        images.begin()
        later = msgspec.structs.replace(elsewhere(task_of(programs, pid)), exec_id=task.exec_id + 1)
        look(images, place, later)
        assert place.sweep != images.sweep
        images.begin()
        look(images, place, msgspec.structs.replace(later, boot_ns=2**63))
        assert place.sweep == images.sweep, "the later process is the witness now"


def test_another_device_than_the_proven_one_ends_the_proof(programs: Programs) -> None:
    images = swept()
    with running(SLEEP) as pid:
        task = task_of(programs, pid)
        place = images.place(task)
        place.device = os.stat("/proc").st_dev
        with pytest.raises(ProcessLookupError):
            look(images, place, task)
        assert images.place(task).device is None
        assert look(images, place, task).identity is not None
        assert place.sweep == images.sweep


def test_what_cannot_be_looked_at_keeps_the_kernels_name(programs: Programs, tmp_path: Path) -> None:
    images = swept()
    with running(copy_of_sleep(tmp_path, "x (deleted)")) as pid:
        image = unseen(images.place(task_of(programs, pid)), HashState.TIMED_OUT)
    assert (image.path, image.identity) == (str(tmp_path / "x (deleted)"), None)


def test_nothing_is_kept_of_files_nobody_runs(programs: Programs) -> None:
    images = swept()
    with running(SLEEP) as pid:
        place = images.place(task_of(programs, pid))
    assert len(images._places) == 1
    del place
    assert not images._places

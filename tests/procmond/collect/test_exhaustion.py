"""Collectors that run out of descriptors. One rule: a record is whole, or says that they ran out."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Callable, Iterator

import pytest

from common.messages import HashState
from common.pb import ipc_pb2 as pb
from procmond.collect.lanes import ChildDigester
from procmond.collect.mounts import MountTable, Places, find_memory_device
from procmond.collect.processes import PsutilCollector
from procmond.collect.procfs import ProcfsCollector
from procmond.collect.sighting import Collector, FileIdentity, Sighting, Wanted
from procmond.collect.users import Users
from tests.procmond.collect.made import leaderless, made, record_of
from tests.support.images import SLEEP, running

FULL = Wanted(full=True, environment=True)
CHANGING = ("cpu_usage", "cpu_time_ns", "memory_usage", "collection_time", "status")
MAKERS: dict[str, Callable[[], Collector]] = {
    "psutil": PsutilCollector,
    "procfs": lambda: ProcfsCollector(held_descriptors=0),
    "procfs-without-pidfd": lambda: ProcfsCollector(held_descriptors=0, pidfd=False),
}


@contextlib.contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """No more than `count` can be opened in this process."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    # Every number up to the highest in use, then the limit right behind them.
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    while not taken or taken[-1] <= highest:
        taken.append(os.open("/dev/null", os.O_RDONLY))
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken[-1] + 1 + count, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for descriptor in taken:
            os.close(descriptor)


def facts(sighting: Sighting) -> pb.ProcessRecord:
    record = record_of(sighting)
    for name in CHANGING:
        record.ClearField(name)
    return record


@pytest.mark.parametrize("name", MAKERS)
def test_a_record_is_whole_or_says_that_descriptors_ran_out(name: str) -> None:
    whole, exhausted = 0, 0
    with running(SLEEP) as plain, leaderless() as headless, made("os.setsid(); ready()") as other:
        pids = [plain, headless.pid, other.pid]
        collector = MAKERS[name]()
        truth = [facts(sighting) for sighting in collector.sweep(FULL, pids) if sighting]
        for count in range(6):
            with descriptors_left(count):
                found = [sighting for sighting in collector.sweep(FULL, pids) if sighting]
            assert [sighting.pid for sighting in found] == pids
            for sighting, true in zip(found, truth, strict=True):
                record = facts(sighting)
                if record == true:
                    whole += 1
                    continue
                exhausted += 1
                assert {item.reason for item in record.exceptions} == {"exhausted"}
                assert not record.accessible
                assert (sighting.image, sighting.image_state) == (None, HashState.IO_ERROR)
    assert whole > 0
    assert exhausted > 0


def test_names_of_users_are_kept_while_the_file_cannot_be_opened() -> None:
    users = Users()
    collector = ProcfsCollector(held_descriptors=0, users=users)
    with running(SLEEP) as pid:
        (before,) = collector.sweep(FULL, [pid])
        users._state = None  # as if it had changed
        with descriptors_left(0):
            list(collector.sweep(FULL, [pid]))
        (after,) = collector.sweep(FULL, [pid])
    assert before is not None
    assert after is not None
    assert record_of(after).user_name == record_of(before).user_name != ""


def test_an_image_of_which_nothing_can_be_asked_is_taken_for_one_that_may_hang() -> None:
    places = Places(MountTable(), find_memory_device())
    with descriptors_left(0):
        assert places.may_hang(os.getpid(), 0xFFFF)
    assert not places.may_hang(2**22 - 1, 0xFFFF)


@pytest.mark.parametrize("count", [0, 1])
def test_a_child_that_cannot_be_made_is_a_failed_read(count: int) -> None:
    with descriptors_left(count):
        outcome = ChildDigester(1, 1.0).digest(
            lambda: pytest.fail("opened"), FileIdentity(0, 0, 0, 0, 0), ("sha256",), bytearray(1)
        )
    assert outcome.state is HashState.IO_ERROR


def test_a_child_that_cannot_be_forked_leaves_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise BlockingIOError

    monkeypatch.setattr(os, "fork", refuse)
    with descriptors_left(2):
        for _ in range(3):
            outcome = ChildDigester(1, 1.0).digest(
                lambda: pytest.fail("opened"), FileIdentity(0, 0, 0, 0, 0), ("sha256",), bytearray(1)
            )
            assert outcome.state is HashState.IO_ERROR
    assert outcome.bytes == 0

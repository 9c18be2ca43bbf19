"""The numbers of a sweep, and what in it is worth a look."""

from __future__ import annotations

from typing import Any

import pytest

from agent.answer import Answer
from agent.cli.census import changes, largest, longest_running, most_notable, reasons, take_census
from agent.inventory import take_inventory
from common.messages import HashState, ProcessStatus
from tests.agent.cli.records import NOW, kernel_thread, record


def test_executables_are_counted_once_by_identity() -> None:
    same = {"executable_device": 1, "executable_inode": 2}
    census = take_census([record(1, **same), record(2, **same, executable_path="/other/name"), record(3)])
    assert (census.processes, census.executables, census.hashed) == (3, 2, 2)


def test_executables_of_servers_that_give_no_identity_are_told_apart_by_path() -> None:
    weak = {"executable_device": 0, "executable_inode": 0, "executable_path": "/usr/bin/same"}
    assert take_census([record(1, **weak), record(2, **weak)]).executables == 1


def test_every_missing_hash_is_counted_with_its_reason() -> None:
    census = take_census(
        [
            record(1),
            record(2, executable_hash=None, hash_state=HashState.TOO_LARGE),
            record(3, executable_hash=None, hash_state=HashState.PENDING),
            record(4, executable_hash=None, hash_state=HashState.PENDING),
            record(5, executable_hash=None, hash_state=HashState.UNSPECIFIED),
            record(
                6, executable_hash=None, executable_path=None, executable_inode=0, hash_state=HashState.DENIED
            ),
        ]
    )
    assert census.hashed == 1
    assert census.unhashed == (("pending", 2), ("too large", 1), ("no reason given", 1))
    assert census.unknown_images == (("denied", 1),)


def test_a_hash_seen_once_counts_for_all_processes_of_the_image() -> None:
    same: dict[str, Any] = {"executable_device": 1, "executable_inode": 2}
    gone = record(1, **same, executable_hash=None, hash_state=HashState.GONE)
    assert take_census([gone, record(2, **same)]).unhashed == ()
    assert take_census([record(2, **same), gone]).hashed == 1


def test_kinds_users_and_containers_are_counted() -> None:
    census = take_census(
        [
            kernel_thread(2),
            record(3, status=ProcessStatus.ZOMBIE, executable_path=None, executable_inode=0),
            record(4, accessible=False, container_id="c" * 64),
            record(5, on_disk_mismatch=True, user_name="", user_id=None),
        ]
    )
    assert (census.kernel_threads, census.zombies, census.inaccessible) == (1, 1, 1)
    assert (census.users, census.containers, census.mismatched) == (2, 1, 1)
    assert census.unknown_images == ()


def test_an_empty_sweep_has_an_inventory() -> None:
    assert take_census([]).processes == 0


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"memory_backed": True, "on_disk_mismatch": True}, "from memory"),
        ({"on_disk_mismatch": True, "file_exists": False}, "deleted"),
        ({"on_disk_mismatch": True}, "replaced"),
        ({"command_line_blocked": True}, "withholds"),
        ({"executable_path": "/dev/shm/x"}, "runs from /dev/shm"),
        ({"executable_path": "/var/tmp/x"}, "runs from /var/tmp"),
        ({"executable_path": "/home/bob/x"}, "home directory"),
        ({"effective_uid": 0}, "runs with uid 0, started by 1000"),
        ({"container_id": "c0ffee"}, "container"),
        ({"accessible": False}, "not fully readable"),
        ({"start_time": NOW - 3}, "new"),
    ],
)
def test_each_oddity_is_named(facts: dict[str, Any], words: str) -> None:
    ((_, reason),) = reasons(record(1, **facts), NOW)
    assert words in reason


def test_an_ordinary_process_gives_no_reason() -> None:
    assert reasons(record(1), NOW) == ()
    assert reasons(record(1, executable_path="/tmpfiles/x"), NOW) == ()


def test_the_heaviest_come_first_and_alike_ones_share_a_line() -> None:
    shared = {"executable_path": "/tmp/x", "executable_inode": 9}
    notable = most_notable(
        [
            record(1),
            record(5, **shared),
            record(4, **shared),
            record(6, memory_backed=True),
            kernel_thread(2),
        ],
        NOW,
        10,
    )
    assert [(n.record.pid, n.number) for n in notable] == [(6, 1), (4, 2)]


def test_users_not_shown_yet_fill_the_table() -> None:
    notable = most_notable(
        [record(1, user_name="a"), record(2, user_name="a"), record(3, user_name="b")], NOW, 10
    )
    assert [(n.record.pid, n.reasons) for n in notable] == [(1, ()), (3, ())]


def test_no_more_are_chosen_than_asked_for() -> None:
    odd = [record(pid, memory_backed=True) for pid in range(1, 30)]
    assert len(most_notable(odd, NOW, 15)) == 15
    assert len(most_notable([record(1, user_name="a"), record(2, user_name="b")], NOW, 1)) == 1


def test_the_longest_running_leave_out_kernel_threads_and_the_unknown() -> None:
    processes = [kernel_thread(2, start_time=1), record(9), record(8), record(7, start_time=None)]
    assert [p.pid for p in longest_running(processes, 5)] == [8, 9]
    assert [p.pid for p in longest_running(processes, 1)] == [8]


def test_the_largest_leave_out_those_without_memory() -> None:
    processes = [record(1, memory_usage=None), record(2, memory_usage=7), record(3, memory_usage=8)]
    assert [p.pid for p in largest(processes, 5)] == [3, 2]


def test_a_pid_used_anew_came_and_went() -> None:
    before = take_inventory(Answer(processes=(record(1), record(2)), boot_id="b"))
    after = take_inventory(Answer(processes=(record(1), record(2, start_ticks=999)), boot_id="b"))
    difference = changes(before, after)
    assert [p.start_ticks for p in difference.started] == [999]
    assert difference.ended == 1

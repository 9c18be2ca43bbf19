"""Inventory: identities, and what changed between two sweeps."""

from __future__ import annotations

from agent.answer import Answer
from agent.inventory import Counts, Inventory, WeakKey, count, take_inventory
from common.messages import CollectionSummary, ProcessKey, ProcessRecord


def answer(*records: ProcessRecord, boot_id: str = "boot", **more: CollectionSummary) -> Answer:
    return Answer(processes=records, boot_id=boot_id, **more)  # type: ignore[arg-type]  # only `summary`


def test_the_identity_is_boot_pid_and_start() -> None:
    inventory = take_inventory(answer(ProcessRecord(pid=7, start_ticks=100)))
    assert list(inventory.records) == [ProcessKey("boot", 7, 100)]
    assert not inventory.weak


def test_without_boot_id_the_identity_is_weak_and_says_so() -> None:
    inventory = take_inventory(answer(ProcessRecord(pid=7, start_time=1_700_000_000), boot_id=""))
    assert list(inventory.records) == [WeakKey(7, 1_700_000_000)]
    assert inventory.weak


def test_a_pid_used_again_is_one_gone_and_one_new() -> None:
    before = take_inventory(answer(ProcessRecord(pid=7, start_ticks=1), ProcessRecord(pid=8, start_ticks=1)))
    whole = answer(ProcessRecord(pid=7, start_ticks=2), ProcessRecord(pid=8, start_ticks=1))
    counts = count(whole, take_inventory(whole), before)
    assert (counts.processes, counts.new, counts.gone) == (2, 1, 1)


def test_without_a_sweep_before_all_is_new() -> None:
    whole = answer(ProcessRecord(pid=7), ProcessRecord(pid=8))
    counts = count(whole, take_inventory(whole), None)
    assert (counts.new, counts.gone) == (2, 0)


def test_the_server_s_own_numbers_are_taken_over() -> None:
    summary = CollectionSummary(
        processes_vanished=1,
        processes_inaccessible=2,
        executables_hashed=3,
        executables_pending=4,
        executables_unhashed=5,
    )
    whole = answer(summary=summary)
    assert count(whole, Inventory(records={}), None) == Counts(
        processes=0, new=0, gone=0, executables=0, hashed=3, pending=4, refused=5, vanished=1, inaccessible=2
    )


def test_without_a_summary_what_cannot_be_counted_is_unknown() -> None:
    whole = answer(
        ProcessRecord(pid=1, accessible=True, executable_path="/bin/a", executable_hash="00"),
        ProcessRecord(pid=2, accessible=True, executable_path="/bin/a", executable_hash="00"),
        ProcessRecord(pid=3, accessible=False),
        boot_id="",
    )
    counts = count(whole, take_inventory(whole), None)
    assert (counts.executables, counts.hashed, counts.inaccessible) == (1, 1, 1)
    assert (counts.pending, counts.refused, counts.vanished) == (None, None, None)


def test_two_files_of_one_name_are_two_executables_and_two_names_of_one_file_are_one() -> None:
    whole = answer(
        ProcessRecord(pid=1, executable_path="/bin/a", executable_device=1, executable_inode=10),
        ProcessRecord(pid=2, executable_path="/bin/a", executable_device=1, executable_inode=11),
        ProcessRecord(pid=3, executable_path="/bin/b", executable_device=1, executable_inode=11),
        ProcessRecord(pid=4),
    )
    assert count(whole, take_inventory(whole), None).executables == 2

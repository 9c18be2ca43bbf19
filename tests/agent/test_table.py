"""agent.table: the process table after each kind of event."""

from __future__ import annotations

import msgspec

from agent.table import ProcessTable, slim
from common.messages import ProcessEvent, ProcessEventKind, ProcessRecord
from tests.support.stories import credentials, execution, exited, fork, lost, process, snapshot

INIT = process(1, name="init")
SHELL = process(7, name="bash")


def table_of(*events: ProcessEvent, **bounds: int) -> ProcessTable:
    table = ProcessTable(**bounds)  # type: ignore[arg-type]  # bounds are its own
    for event in events:
        table.apply(event)
    return table


def record_of(table: ProcessTable, record: ProcessRecord) -> ProcessRecord | None:
    entry = table.get((record.pid, record.start_ticks))
    return None if entry is None else entry.record


def test_a_snapshot_puts_a_process_in_and_an_exit_takes_it_out() -> None:
    table = table_of(snapshot(SHELL))
    assert record_of(table, SHELL) == SHELL
    entry = table.apply(exited(SHELL, at_ns=5))
    assert entry is not None
    assert entry.changed_ns == 5
    assert len(table) == 0
    assert table.known((7, 7)) == SHELL


def test_a_forked_child_is_what_its_parent_was() -> None:
    child = process(9)
    table = table_of(snapshot(SHELL), fork(child, SHELL))
    known = record_of(table, child)
    assert known is not None
    assert (known.pid, known.start_ticks, known.ppid, known.parent_start_ticks) == (9, 9, 7, 7)
    assert (known.executable_path, known.real_uid) == ("/usr/bin/bash", 1000)


def test_what_a_fork_says_itself_goes_before_what_the_parent_was() -> None:
    event = msgspec.structs.replace(fork(process(9), SHELL), process=ProcessRecord(name="renamed"))
    known = record_of(table_of(snapshot(SHELL), event), process(9))
    assert known is not None
    assert (known.name, known.executable_path) == ("renamed", "/usr/bin/bash")


def test_a_child_of_nobody_known_is_kept_without_guesses() -> None:
    known = record_of(table_of(fork(process(9), SHELL)), process(9))
    assert known is not None
    assert (known.ppid, known.executable_path, known.user_id) == (7, None, None)


def test_the_parent_is_who_forked_even_after_it_ended() -> None:
    child = process(9, name="curl")
    table = table_of(snapshot(SHELL), fork(child, SHELL), exited(SHELL))
    entry = table.apply(execution(child))
    assert entry is not None
    assert entry.record.executable_path == "/usr/bin/curl"
    assert table.parent_of(entry) == SHELL


def test_credentials_change_root_included() -> None:
    root = process(7, name="", real_uid=0, effective_uid=0, user_id="0", user_name="root")
    known = record_of(table_of(snapshot(SHELL), credentials(root)), SHELL)
    assert known is not None
    assert (known.effective_uid, known.user_name, known.name) == (0, "root", "bash")


def test_credentials_nobody_could_read_change_nothing() -> None:
    gone = ProcessRecord(pid=7, start_ticks=7)
    known = record_of(table_of(snapshot(SHELL), credentials(gone)), SHELL)
    assert known == SHELL


def test_a_pid_used_anew_ends_its_holder_and_is_counted() -> None:
    table = table_of(snapshot(SHELL), fork(process(7, 99), INIT))
    assert list(table) == [(7, 99)]
    assert table.take_superseded() == 1
    assert table.take_superseded() == 0


def test_a_pid_without_start_ticks_is_that_of_its_holder() -> None:
    unknown = process(7, 0)
    table = table_of(snapshot(SHELL), exited(unknown))
    assert len(table) == 0


def test_a_process_without_start_ticks_is_identified_later_without_a_loss() -> None:
    table = table_of(fork(process(9, 0), INIT), snapshot(process(9)))
    assert list(table) == [(9, 9)]
    assert table.take_superseded() == 0


def test_without_room_the_event_is_answered_but_not_kept() -> None:
    table = table_of(snapshot(INIT), limit=1)
    entry = table.apply(execution(SHELL))
    assert entry is not None
    assert entry.record == SHELL
    assert (len(table), table.refused) == (1, 1)


def test_the_ended_are_remembered_up_to_a_bound() -> None:
    table = ProcessTable(remembered=2)
    for pid in (2, 3, 4):
        table.apply(snapshot(process(pid)))
        table.apply(exited(process(pid), at_ns=pid))
    assert table.known((2, 2)) is None
    assert table.known((4, 4)) is not None
    assert table.forgotten_ns == 2


def test_one_that_is_asked_for_is_remembered_longer() -> None:
    table = ProcessTable(remembered=2)
    for pid in (2, 3):
        table.apply(snapshot(process(pid)))
        table.apply(exited(process(pid)))
    assert table.ended((2, 2)) is not None
    table.apply(snapshot(process(4)))
    table.apply(exited(process(4)))
    assert table.known((2, 2)) is not None
    assert table.known((3, 3)) is None


def test_gaps_and_unknown_events_speak_of_no_process() -> None:
    table = table_of(snapshot(SHELL))
    assert table.apply(lost("x")) is None
    assert table.apply(ProcessEvent(kind=ProcessEventKind.UNSPECIFIED, pid=7)) is None
    assert table.apply(exited(process(8))) is None
    assert table.apply(credentials(process(8))) is None
    assert len(table) == 1


def test_an_exec_without_a_record_only_moves_the_time() -> None:
    event = msgspec.structs.replace(execution(SHELL, at_ns=9), process=None)
    table = table_of(snapshot(SHELL))
    entry = table.apply(event)
    assert entry is not None
    assert (entry.record, entry.changed_ns) == (SHELL, 9)


def test_a_slim_record_keeps_what_comparisons_need() -> None:
    full = process(7, cwd="/", cgroup="0::/x", command_line=("a",) * 100, environment=())
    kept = slim(full)
    assert kept.command_line == ()
    for name in ("pid", "start_ticks", "name", "executable_path", "executable_inode", "executable_hash"):
        assert getattr(kept, name) == getattr(full, name)
    assert (kept.real_uid, kept.effective_uid, kept.user_id) == (1000, 1000, "1000")


def test_another_boot_forgets_everything() -> None:
    table = table_of(snapshot(SHELL), snapshot(INIT), exited(INIT))
    table.clear()
    assert (len(table), table.known((1, 1)), table.holder(7)) == (0, None, None)

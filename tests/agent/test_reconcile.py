"""agent.reconcile: after any loss a sweep makes the table true, and without one it finds nothing to say."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.reconcile import Comparison, Repairs, reconcile
from agent.table import ProcessTable
from common.messages import ProcessEvent, ProcessRecord, ProcessStatus
from tests.support.stories import (
    TICK_NS,
    credentials,
    execution,
    exited,
    fork,
    process,
    snapshot,
)

unhurried = settings(deadline=None)  # a busy machine is no failure

PIDS = range(2, 8)
"""Few, so that numbers are used again all the time."""

TOLD_OF_A_FORK = ("pid", "start_ticks", "name", "executable_path", "user_id", "real_uid", "effective_uid")
"""What procmond tells of a child; digests and inode of its image are those of who forked it, as that was."""

INIT = process(1, name="init")
SHELL = process(7, name="bash")


class Host:
    """A host in which one thing happens per tick."""

    def __init__(self) -> None:
        self.now_ns = 100 * TICK_NS
        self.running: dict[int, ProcessRecord] = {1: INIT}

    def act(self, action: int, choice: int) -> ProcessEvent | None:
        """Do one of four things to a process by number; None if that is impossible now."""
        self.now_ns += TICK_NS
        living = [record for pid, record in sorted(self.running.items()) if pid != 1]
        if action == 0:
            return self._fork(choice)
        if not living:
            return None
        record = living[choice % len(living)]
        if action == 1:
            name = f"tool{choice}"
            inode, digest = 1000 + choice, f"{choice:064x}"
            return self._change(
                execution,
                record,
                name=name,
                executable_path=f"/usr/bin/{name}",
                executable_inode=inode,
                executable_hash=digest,
            )
        if action == 2:
            return self._change(
                credentials, record, real_uid=choice, effective_uid=choice, user_id=f"{choice}"
            )
        del self.running[record.pid]
        return exited(record, self.now_ns)

    def truth(self) -> dict[tuple[int, int], tuple[object, ...]]:
        return {(one.pid, one.start_ticks): facts(one) for one in self.running.values()}

    def _fork(self, choice: int) -> ProcessEvent | None:
        free = [pid for pid in PIDS if pid not in self.running]
        if not free:
            return None
        parents = sorted(self.running)
        parent = self.running[parents[choice % len(parents)]]
        child = msgspec.structs.replace(
            parent,
            pid=free[choice % len(free)],
            start_ticks=self.now_ns // TICK_NS,
            ppid=parent.pid,
            parent_start_ticks=parent.start_ticks,
        )
        self.running[child.pid] = child
        event = fork(child, parent, self.now_ns)
        brief = ProcessRecord(**{name: getattr(child, name) for name in TOLD_OF_A_FORK})
        return msgspec.structs.replace(event, process=brief)

    def _change(self, make: object, record: ProcessRecord, **changes: object) -> ProcessEvent:
        assert callable(make)
        changed = self.running[record.pid] = msgspec.structs.replace(record, **changes)
        event = make(changed, self.now_ns)
        assert isinstance(event, ProcessEvent)
        return event


def facts(record: ProcessRecord) -> tuple[object, ...]:
    return record.executable_path, record.executable_hash, record.real_uid, record.effective_uid


def known(table: ProcessTable) -> dict[tuple[int, int], tuple[object, ...]]:
    entries = ((identity, table.get(identity)) for identity in table)
    return {identity: facts(entry.record) for identity, entry in entries if entry is not None}


def table_of(*records: ProcessRecord) -> ProcessTable:
    table = ProcessTable()
    for record in records:
        table.apply(snapshot(record))
    return table


deeds = st.tuples(st.integers(0, 3), st.integers(0, 9))


@unhurried
@given(st.lists(st.tuples(deeds, st.booleans()), max_size=60))
def test_after_any_loss_the_next_sweep_makes_the_table_true(
    story: list[tuple[tuple[int, int], bool]],
) -> None:
    host, table = Host(), table_of(INIT)
    lossless = True
    for deed, delivered in story:
        event = host.act(*deed)
        if event is not None and delivered:
            table.apply(event)
        lossless = lossless and (event is None or delivered)
    host.now_ns += TICK_NS
    repairs = reconcile(table, tuple(host.running.values()), began_ns=host.now_ns)
    assert known(table) == host.truth()
    if lossless:
        assert repairs == Repairs()
    again = reconcile(table, tuple(host.running.values()), began_ns=host.now_ns + TICK_NS)
    assert again == Repairs()


@unhurried
@given(st.lists(deeds, max_size=30), st.lists(deeds, max_size=30))
def test_after_a_crash_the_snapshot_of_the_next_stream_makes_the_table_true(
    before: list[tuple[int, int]], unseen: list[tuple[int, int]]
) -> None:
    host, table = Host(), table_of(INIT)
    for deed in before:
        if (event := host.act(*deed)) is not None:
            table.apply(event)
    for deed in unseen:
        host.act(*deed)
    comparison = Comparison(table, host.now_ns + 1, told=True)
    for record in host.running.values():
        comparison.add(record, host.now_ns + 1)
    comparison.finish()
    assert known(table) == host.truth()


@unhurried
@given(st.lists(deeds, max_size=20), st.lists(st.lists(deeds, max_size=4), min_size=8, max_size=8))
def test_a_sweep_that_races_with_events_claims_nothing(
    before: list[tuple[int, int]], meanwhile: list[list[tuple[int, int]]]
) -> None:
    host, table = Host(), table_of(INIT)

    def play(story: list[tuple[int, int]]) -> None:
        for deed in story:
            if (event := host.act(*deed)) is not None:
                table.apply(event)

    play(before)
    host.now_ns += TICK_NS
    began_ns = host.now_ns
    records = []
    for pid, story in zip(range(1, 9), meanwhile, strict=True):  # one process is read at a time
        if pid in host.running:
            records.append(host.running[pid])
        play(story)
    assert reconcile(table, records, began_ns=began_ns) == Repairs()
    assert known(table) == host.truth()


@unhurried
@given(st.lists(deeds, max_size=20), st.lists(st.lists(deeds, max_size=4), min_size=8, max_size=8))
def test_a_snapshot_followed_by_the_events_since_is_the_truth(
    before: list[tuple[int, int]], meanwhile: list[list[tuple[int, int]]]
) -> None:
    """As procmond sends it: what a process is shown to be later than an event is not told again."""
    host, table = Host(), table_of(INIT)
    for deed in before:
        host.act(*deed)
    host.now_ns += TICK_NS
    comparison = Comparison(table, host.now_ns, told=True)
    waiting: list[ProcessEvent] = []
    for pid, story in zip(range(1, 9), meanwhile, strict=True):
        if (record := host.running.get(pid)) is not None:
            comparison.add(record, host.now_ns)
            shown = (record.pid, record.start_ticks)
            waiting = [event for event in waiting if (event.pid, event.start_ticks) != shown]
        waiting += filter(None, [host.act(*deed) for deed in story])
    for event in waiting:
        table.apply(event)
    comparison.finish()
    # Who forked may have been shown as it was later; the digest of what it ran before is then unknown.
    truth = host.truth()
    assert known(table).keys() == truth.keys()
    for identity, (path, digest, *ids) in known(table).items():
        true_path, true_digest, *true_ids = truth[identity]
        assert (path, ids) == (true_path, true_ids)
        assert digest in (None, true_digest)


def found(repairs: Repairs) -> tuple[list[int], list[int], list[tuple[int, tuple[str, ...]]]]:
    return (
        [one.pid for one in repairs.started],
        [one.pid for one in repairs.ended],
        [(one.after.pid, one.what) for one in repairs.changed],
    )


def test_each_kind_of_repair_is_told() -> None:
    table = table_of(INIT, SHELL, process(8), process(9))
    became = process(9, name="nc", real_uid=0, effective_uid=0)
    repairs = reconcile(table, (INIT, process(8), became, process(10)), began_ns=TICK_NS * 50)
    assert found(repairs) == ([10], [7], [(9, ("image", "credentials"))])
    assert repairs.number == 3


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"executable_path": "/usr/bin/sh (renamed)"}, None),
        ({"executable_inode": 99}, None),  # overlayfs: events and stat may name different ones
        ({"executable_inode": 99, "executable_hash": "f" * 64}, ("image",)),
        ({"executable_inode": 99, "executable_path": "/bin/x"}, ("image",)),
        ({"executable_inode": 0, "executable_path": "/bin/x"}, ("image",)),
        ({"executable_path": None, "executable_inode": 0, "executable_hash": None}, None),
        ({"name": "renamed"}, None),
        ({"effective_gid": 5}, ("credentials",)),
        ({"command_line": ("rewritten",)}, None),
    ],
)
def test_only_what_an_event_should_have_told_is_a_change(
    changes: dict[str, object], what: tuple[str, ...] | None
) -> None:
    table = table_of(SHELL)
    repairs = reconcile(table, [msgspec.structs.replace(SHELL, **changes)], began_ns=TICK_NS * 50)
    assert [one.what for one in repairs.changed] == ([what] if what else [])


def test_what_a_fork_left_unknown_is_filled_in_without_a_word() -> None:
    table = ProcessTable()
    table.apply(fork(SHELL, None))
    assert reconcile(table, [SHELL], began_ns=TICK_NS * 50) == Repairs()
    assert known(table) == {(7, 7): facts(SHELL)}


def zombie(record: ProcessRecord, **facts: object) -> ProcessRecord:
    return msgspec.structs.replace(record, status=ProcessStatus.ZOMBIE, **facts)


def test_a_zombie_whose_end_was_told_is_no_news() -> None:
    table = table_of(INIT, SHELL)
    table.apply(exited(SHELL, TICK_NS))
    for began_ns in (50 * TICK_NS, 60 * TICK_NS):
        assert reconcile(table, (INIT, zombie(SHELL)), began_ns=began_ns) == Repairs()


def test_a_zombie_nobody_told_of_started_and_ended_unseen_and_is_told_once() -> None:
    table = table_of(INIT)
    assert found(reconcile(table, (INIT, zombie(SHELL)), began_ns=50 * TICK_NS)) == ([7], [], [])
    assert reconcile(table, (INIT, zombie(SHELL)), began_ns=60 * TICK_NS) == Repairs()
    assert reconcile(table, (INIT,), began_ns=70 * TICK_NS) == Repairs()


def test_a_process_that_became_a_zombie_untold_has_ended() -> None:
    assert found(reconcile(table_of(SHELL), [zombie(SHELL)], began_ns=50 * TICK_NS)) == ([], [7], [])


def test_a_leader_that_ended_before_its_threads_still_runs() -> None:
    table = table_of(SHELL)
    leader = zombie(SHELL, threads=3, executable_path=None, executable_hash=None, executable_inode=0)
    assert reconcile(table, [leader], began_ns=50 * TICK_NS) == Repairs()
    assert (7, 7) in known(table)


def test_what_may_have_been_forgotten_is_not_called_news() -> None:
    table = ProcessTable(remembered=1)
    for pid in (2, 3):
        table.apply(snapshot(process(pid)))
        table.apply(exited(process(pid), at_ns=60 * TICK_NS))
    assert reconcile(table, [process(2)], began_ns=50 * TICK_NS) == Repairs()
    assert found(reconcile(table, [process(2)], began_ns=70 * TICK_NS)) == ([2], [], [])


def test_without_room_nothing_is_told_again_and_again() -> None:
    table = ProcessTable(limit=1)
    table.apply(snapshot(INIT))
    assert reconcile(table, (INIT, SHELL), began_ns=50 * TICK_NS) == Repairs()
    assert table.refused == 1


def test_a_holder_whose_end_was_not_told_is_counted() -> None:
    repairs = reconcile(table_of(SHELL), [process(7, 20)], began_ns=50 * TICK_NS)
    assert (found(repairs), repairs.superseded) == (([7], [], []), 1)


def test_a_process_the_source_could_not_identify_is_identified() -> None:
    table = ProcessTable()
    table.apply(fork(process(9, 0), None))
    assert reconcile(table, [process(9)], began_ns=50 * TICK_NS) == Repairs()
    assert list(known(table)) == [(9, 9)]

"""The process table: who is who, when numbers are used again and exits are lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from procmond.events.event import Key
from procmond.events.table import ENDED_NS, ProcessTable

INIT: Key = (1, 1)
SHELL: Key = (100, 50)


def table() -> ProcessTable:
    made = ProcessTable()
    made.found(INIT, None, "init", "/sbin/init", b"init's", 1_000)
    made.forked(SHELL, INIT, "init", 2_000)
    made.ran(SHELL, INIT, "sh", "/bin/sh", b"sh's", 3_000)
    return made


def test_a_child_runs_its_parents_image_until_it_runs_its_own() -> None:
    known = table()
    child = known.forked((101, 60), SHELL, "sh", 4_000)
    assert (child.path, child.record) == ("/bin/sh", b"sh's")
    known.ran((101, 60), SHELL, "ls", "/bin/ls", b"ls's", 5_000)
    assert (child.name, child.path, child.record) == ("ls", "/bin/ls", b"ls's")
    assert known.get(SHELL) is not None


def test_a_child_knows_a_parent_that_has_ended() -> None:
    known = table()
    known.exited(SHELL, 4_000)
    assert known.forked((101, 60), SHELL, "sh", 5_000).path == "/bin/sh"
    assert [process.key for process in known.ancestry((101, 60))] == [(101, 60), SHELL, INIT]


def test_a_number_that_is_used_again_is_another_process() -> None:
    known = table()
    known.exited(SHELL, 4_000)
    again = known.forked((100, 70), INIT, "init", 5_000)
    assert again.path == "/sbin/init", "nothing of the last holder"
    assert known.holder(100) is again
    before = known.get(SHELL)
    assert before is not None
    assert (before.path, before.ended_ns) == ("/bin/sh", 4_000)


def test_a_number_used_again_within_one_tick_is_another_process_all_the_same() -> None:
    known = table()
    known.exited(SHELL, 4_000)
    again = known.forked(SHELL, INIT, "init", 4_500)
    assert (again.path, again.ended_ns) == ("/sbin/init", 0)
    assert known.holder(100) is again
    assert known.forked(SHELL, INIT, "init", 4_600) is not again, "nor when the exit was lost"


def test_an_exit_that_was_lost_shows_when_the_number_is_used_again() -> None:
    known = table()
    known.forked((100, 70), INIT, "init", 5_000)
    before = known.get(SHELL)
    assert before is not None
    assert before.ended_ns == 5_000
    assert known.exited((100, 70), 6_000) is known.get((100, 70))


def test_an_exit_of_an_earlier_holder_does_not_end_the_present_one() -> None:
    known = table()
    again = known.forked((100, 70), INIT, "init", 5_000)
    known.exited(SHELL, 6_000)
    assert known.holder(100) is again
    assert not again.ended_ns


def test_a_sweep_does_not_change_who_forked_a_process() -> None:
    known = table()
    known.forked((101, 60), SHELL, "sh", 4_000)
    known.exited(SHELL, 5_000)
    known.found((101, 60), INIT, "sh", "/bin/sh", b"", 6_000)  # reparented by then
    child = known.get((101, 60))
    assert child is not None
    assert child.parent == SHELL


def test_a_fork_that_is_told_after_the_sweep_tells_who_forked() -> None:
    known = table()
    known.found((101, 60), INIT, "ls", "/bin/ls", b"", 6_000)
    child = known.forked((101, 60), SHELL, "sh", 4_000)
    assert (child.parent, child.forked, child.path) == (SHELL, True, "/bin/ls")


def test_a_sweep_does_not_bring_the_dead_back() -> None:
    known = table()
    known.exited(SHELL, 4_000)
    known.found(SHELL, INIT, "sh", "/bin/sh", b"", 5_000)
    assert known.holder(100) is None


def test_what_a_sweep_does_not_meet_has_ended_unless_it_is_younger() -> None:
    known = table()
    known.forked((102, 90), INIT, "init", 9_000)
    known.keep_only({INIT}, began_ns=8_000, now_ns=10_000)
    assert known.holder(100) is None
    assert known.holder(102) is not None
    assert known.holder(1) is not None


def test_a_process_known_by_its_number_alone_can_be_told_later() -> None:
    known = table()
    child = known.forked((101, 0), SHELL, "sh", 4_000)
    known.identify(child, 60)
    assert known.get((101, 60)) is child
    assert known.holder(101) is child
    assert known.get((101, 0)) is None


def test_who_ended_is_forgotten_after_a_while() -> None:
    known = table()
    known.exited(SHELL, 4_000)
    known.forget(4_000 + ENDED_NS - 1)
    assert known.get(SHELL) is not None
    known.forget(4_000 + ENDED_NS)
    assert known.get(SHELL) is None
    assert known.get(INIT) is not None


def test_when_it_is_full_the_one_that_ended_first_goes_first() -> None:
    known = ProcessTable(capacity=3)
    for pid in (1, 2, 3):
        known.forked((pid, pid), None, "", pid)
    known.exited((2, 2), 10)
    known.forked((4, 4), None, "", 11)
    assert [process.key[0] for process in known] == [1, 3, 4]
    known.forked((5, 5), None, "", 12)
    assert [process.key[0] for process in known] == [3, 4, 5]


def test_no_more_than_so_many_that_ended_are_kept() -> None:
    known = ProcessTable(ended=10)
    for pid in range(100):
        known.forked((pid, pid), None, "", pid)
        known.exited((pid, pid), pid)
    assert len(known) == 10


def test_an_ancestry_that_runs_in_a_circle_ends() -> None:
    known = ProcessTable()
    known.forked((1, 1), (2, 2), "", 1)
    known.forked((2, 2), (1, 1), "", 2)
    assert len(known.ancestry((1, 1))) <= 1024


STEP = st.tuples(
    st.sampled_from(("fork", "exec", "exit", "found")),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 4),
)


@given(st.lists(STEP, max_size=60))
def test_whatever_comes_nobody_speaks_for_another_and_the_bound_holds(
    steps: list[tuple[str, int, int, int]],
) -> None:
    known = ProcessTable(capacity=5, ended=3)
    for now, (what, pid, start, above) in enumerate(steps, 1):
        key, parent = (pid, start), (above, 1)
        if what == "fork":
            known.forked(key, parent, "f", now)
        elif what == "exec":
            known.ran(key, parent, "e", f"/{pid}/{start}", b"", now)
        elif what == "exit":
            known.exited(key, now)
        else:
            known.found(key, parent, "s", f"/{pid}/{start}", b"", now)
        known.forget(now)
        assert len(known) <= 5
        holders = [known.holder(number) for number in range(1, 5)]
        for number, holder in enumerate(holders, 1):
            assert holder is None or (holder.key[0] == number and not holder.ended_ns)
        alive = [process.key for process in known if not process.ended_ns]
        assert len({key[0] for key in alive}) == len(alive), "one holder of each number"

"""Every process is drawn once, parents first, whatever the records say."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.cli.tree import ASCII, MAX_DRAWN_DEPTH, branches
from common.messages import ProcessRecord


def process(pid: int, ppid: int | None, ticks: int, parent_ticks: int | None = None) -> ProcessRecord:
    return ProcessRecord(pid=pid, ppid=ppid, start_ticks=ticks, parent_start_ticks=parent_ticks)


def drawn(*records: ProcessRecord) -> list[str]:
    return [branch.prefix + str(branch.record.pid) for branch in branches(records)]


def test_children_stand_under_their_parent_oldest_first() -> None:
    assert drawn(
        process(30, 10, 5), process(20, 10, 3), process(1, 0, 1), process(25, 20, 4), process(10, 1, 2)
    ) == ["1", "└─ 10", "   ├─ 20", "   │  └─ 25", "   └─ 30"]


def test_ascii_strokes_draw_the_same() -> None:
    records = (process(1, 0, 1), process(2, 1, 2), process(3, 1, 3))
    assert [b.prefix for b in branches(records, ASCII)] == ["", "|- ", "`- "]


def test_a_process_without_a_listed_parent_is_a_root() -> None:
    assert drawn(process(7, 3, 1), process(8, None, 2)) == ["7", "8"]


def test_a_pid_used_anew_is_no_parent() -> None:
    assert drawn(process(5, 0, 90), process(6, 5, 50)) == ["6", "5"]
    assert drawn(process(5, 0, 40), process(6, 5, 50, parent_ticks=39)) == ["5", "6"]


def test_a_loop_of_parents_is_cut() -> None:
    assert drawn(process(1, 2, 5), process(2, 1, 5)) == ["1", "└─ 2"]
    assert drawn(process(3, 3, 5)) == ["3"]


def test_a_deep_chain_is_drawn_whole_with_bounded_indentation() -> None:
    chain = [process(pid, pid - 1, pid) for pid in range(1, 5001)]
    everything = list(branches(chain))
    assert [branch.record.pid for branch in everything] == list(range(1, 5001))
    assert everything[-1].depth == 4999
    assert max(len(branch.prefix) for branch in everything) <= 3 * MAX_DRAWN_DEPTH


@given(
    st.lists(
        st.builds(
            process,
            st.integers(1, 12),
            st.none() | st.integers(0, 12),
            st.integers(0, 5),
            st.none() | st.integers(0, 5),
        ),
        max_size=30,
        unique_by=lambda record: (record.pid, record.start_ticks),
    )
)
def test_every_process_is_drawn_exactly_once(records: list[ProcessRecord]) -> None:
    identities = [(branch.record.pid, branch.record.start_ticks) for branch in branches(records)]
    assert sorted(identities) == sorted((record.pid, record.start_ticks) for record in records)

"""The inventory as it is told."""

from __future__ import annotations

from agent.cli.escape import width
from agent.cli.render import Screen
from agent.cli.story import SweepView, inventory_lines, live_line
from common.messages import CollectionSummary, HashState, Loss
from tests.agent.cli.records import NOW, kernel_thread, record


def sweep(*records: object, **facts: object) -> SweepView:
    summary = CollectionSummary(processes_vanished=2, losses=(Loss(reason="collector_lost", count=1),))
    view = SweepView(tuple(records), summary, 0.25, NOW)  # type: ignore[arg-type]  # the tests' records are
    return view._replace(**facts)  # type: ignore[arg-type]  # any of its fields


def test_the_inventory_names_every_number() -> None:
    lines = list(
        inventory_lines(
            sweep(
                record(1), kernel_thread(2), record(3, executable_hash=None, hash_state=HashState.TOO_LARGE)
            ),
            Screen(),
        )
    )
    assert lines[:9] == [
        "Processes     3 (1 kernel thread)",
        "Executables   2 distinct",
        "  hashed      1",
        "  not hashed  1 (1 too large)",
        "Inaccessible  0",
        "Users         2",
        "Vanished      2 while being read",
        "Lost          1 (collector_lost)",
        "Sweep         0.25s",
    ]
    for title in ("Longest running", "Largest in memory", "Most interesting"):
        assert title in lines


def test_the_most_interesting_are_told_with_reason_and_hash() -> None:
    odd = record(7, on_disk_mismatch=True, file_exists=False, executable_path="/tmp/x")
    twin = record(
        8, on_disk_mismatch=True, file_exists=False, executable_path="/tmp/x", executable_inode=1007
    )
    last = list(inventory_lines(sweep(odd, twin), Screen()))[-1]
    assert "deleted from disk, runs from /tmp" in last
    assert last.endswith("/tmp/x (2 processes)")
    assert "000000000000" in last


def test_an_inventory_fits_its_terminal() -> None:
    long = record(1, command_line=("x" * 500,), executable_path="/tmp/" + "y" * 500, user_name="u" * 90)
    assert all(width(line) <= 100 for line in inventory_lines(sweep(long), Screen(width=100)))


def test_hostile_names_cannot_act() -> None:
    hostile = record(1, name="\x1b[2J", command_line=("\x1b]0;x\x07",), executable_path="/tmp/\u202e")
    told = "\n".join([*inventory_lines(sweep(hostile), Screen()), live_line(2, sweep(hostile), (), Screen())])
    assert "\x1b" not in told
    assert "\u202e" not in told


def test_a_live_line_tells_what_came_and_went() -> None:
    after = sweep(record(1), record(5), record(6), record(7), record(8))
    line = live_line(3, after, (record(1), record(2)), Screen())
    assert line.endswith(
        "sweep 3: 5 processes, 5 of 5 executables hashed, 0.25s, "
        "+4 -1 (worker5[5] worker6[6] worker7[7] and 1 more)"
    )


def test_a_quiet_live_line_names_nobody() -> None:
    assert live_line(3, sweep(record(1)), (record(1),), Screen()).endswith("0.25s, +0 -0")


def test_a_live_line_is_one_line() -> None:
    after = sweep(*(record(pid, name="n" * 15) for pid in range(1, 9)))
    assert width(live_line(3, after, (), Screen(width=60))) <= 60

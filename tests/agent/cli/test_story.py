"""The inventory as it is told."""

from __future__ import annotations

from agent.answer import Answer
from agent.cli.escape import width
from agent.cli.render import Screen
from agent.cli.story import inventory_lines, live_line
from agent.inventory import SweepReport, count, take_inventory
from common.messages import CollectionSummary, HashState, Loss, ProcessRecord
from tests.agent.cli.records import NOW, kernel_thread, record

SCREEN = Screen()


def sweep(*records: ProcessRecord, summary: CollectionSummary | None = None) -> SweepReport:
    answer = Answer(processes=records, summary=summary, boot_id="b")
    inventory = take_inventory(answer)
    return SweepReport(
        inventory=inventory, answer=answer, counts=count(answer, inventory, None), duration_s=0.25
    )


def told(report: SweepReport, screen: Screen = SCREEN) -> list[str]:
    return list(inventory_lines(report, NOW, screen))


def live(report: SweepReport, *before: ProcessRecord, screen: Screen = SCREEN) -> str:
    return live_line(3, report, sweep(*before).inventory, NOW, screen)


def test_the_inventory_names_every_number() -> None:
    unhashed = record(3, executable_hash=None, hash_state=HashState.TOO_LARGE)
    summary = CollectionSummary(processes_vanished=2, losses=(Loss(reason="collector_lost", count=1),))
    lines = told(sweep(record(1), kernel_thread(2), unhashed, summary=summary))
    assert lines[:10] == [
        "First sweep",
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
    last = told(sweep(odd, twin))[-1]
    assert "deleted from disk, runs from /tmp" in last
    assert last.split()[:2] == ["7", "2"]
    assert last.endswith(" /tmp/x")
    assert "000000000000" in last


def test_several_unknown_images_are_not_told_as_one_command() -> None:
    hidden = {"executable_path": None, "executable_inode": 0, "accessible": False}
    alone = told(sweep(record(7, **hidden)))[-1]
    assert alone.endswith(" /usr/bin/worker7 --serve")
    both = told(sweep(record(7, **hidden), record(8, **hidden)))[-1]
    assert both.split()[:2] == ["7", "2"]
    assert both.endswith(" ?")


def test_an_inventory_fits_its_terminal() -> None:
    long = record(1, command_line=("x" * 500,), executable_path="/tmp/" + "y" * 500, user_name="u" * 90)
    assert all(width(line) <= 100 for line in told(sweep(long), Screen(width=100)))


def test_hostile_names_cannot_act() -> None:
    hostile = record(1, name="\x1b[2J", command_line=("\x1b]0;x\x07",), executable_path="/tmp/\u202e")
    text = "\n".join([*told(sweep(hostile)), live(sweep(hostile))])
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_a_live_line_tells_what_came_and_went() -> None:
    line = live(sweep(record(1), record(5), record(6), record(7), record(8)), record(1), record(2))
    assert line.endswith(
        "sweep 3: 5 processes, 5 of 5 executables hashed, 0.25s, "
        "+4 -1 (worker5[5] worker6[6] worker7[7] and 1 more)"
    )


def test_a_quiet_live_line_names_nobody() -> None:
    assert live(sweep(record(1)), record(1)).endswith("0.25s, +0 -0")


def test_a_live_line_is_one_line() -> None:
    crowd = sweep(*(record(pid, name="n" * 15) for pid in range(1, 9)))
    assert width(live(crowd, screen=Screen(width=60))) <= 60

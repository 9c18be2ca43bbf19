"""agent.cli.lines: one event, one line, and what a process calls itself cannot break it."""

from __future__ import annotations

from copy import copy
from datetime import UTC
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.cli.lines import clock, event_line, gap_text
from agent.cli.render import Screen
from agent.table import ProcessTable
from common.messages import Gap, Loss, ProcessEvent, ProcessEventKind
from tests.support.stories import credentials, execution, exited, fork, lost, process, snapshot, snapshot_end

unhurried = settings(deadline=None)  # a busy machine is no failure

PLAIN = Screen(width=None, colour=False, unicode=True)
COLOUR = Screen(width=None, colour=True, unicode=True)
SECOND_NS = 1_000_000_000

INIT = process(1, name="init", ppid=0, parent_start_ticks=None)
SSHD = process(5, name="sshd", ppid=1, parent_start_ticks=1)
SHELL = process(7, name="bash", ppid=5, parent_start_ticks=5)
CURL = process(9, name="curl", command_line=("curl", "http://x"), ppid=7, parent_start_ticks=7)


def told(*events: ProcessEvent, screen: Screen = PLAIN) -> list[str]:
    table = ProcessTable()
    lines = []
    for event in events:
        before = copy(table.get((event.pid, event.start_ticks)))
        table.apply(event)
        lines.append(event_line(event, before, table, screen, UTC))
    return lines


def last(*events: ProcessEvent, screen: Screen = PLAIN) -> str:
    return told(*events, screen=screen)[-1]


STORY = (snapshot(INIT), snapshot(SSHD), snapshot(SHELL))


def test_an_exec_is_told_with_its_ancestors_arguments_and_hash() -> None:
    line = last(*STORY, fork(process(9), SHELL), execution(CURL, at_ns=3 * SECOND_NS))
    digest = (CURL.executable_hash or "")[:12]
    assert line == f"00:00:03.000  exec        9 alice      init─sshd─bash─curl http://x  [{digest}]"


def test_more_ancestors_than_fit_are_marked() -> None:
    deep = process(11, name="sh", ppid=9, parent_start_ticks=9)
    line = last(*STORY, fork(process(9), SHELL), execution(CURL), fork(process(11), CURL), execution(deep))
    assert "…─sshd─bash─curl─sh" in line


def test_a_terminal_without_unicode_gets_none() -> None:
    line = last(*STORY, execution(CURL), screen=PLAIN._replace(unicode=False))
    assert "init-sshd-bash-curl" in line
    assert line.isascii()


def test_a_fork_names_what_forked() -> None:
    assert last(*STORY, fork(process(9), SHELL)).endswith("fork        9 alice      init─sshd─bash─bash")


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"exit_code": 0}, "bash exit 0"),
        ({"exit_code": 3, "run_time_ns": 2 * SECOND_NS}, "bash exit 3 after 2.00s"),
        ({"exit_code": None, "exit_signal": 9}, "bash killed by signal 9"),
        ({"exit_code": None}, "bash ended"),
    ],
)
def test_an_exit_tells_how(facts: dict[str, Any], text: str) -> None:
    assert last(*STORY, exited(SHELL, **facts)).endswith(f"init─sshd─{text}")


def test_credentials_tell_from_and_to_and_root_is_red() -> None:
    root = process(7, name="bash", effective_uid=0, ppid=5, parent_start_ticks=5)
    assert last(*STORY, credentials(root)).endswith("bash uid 1000/1000 to 1000/0")
    assert "\x1b[31m" in last(*STORY, credentials(root), screen=COLOUR)


def test_a_process_nobody_knew_is_told_all_the_same() -> None:
    assert last(exited(process(99))).endswith("exit       99 ?          ? exit 0")


def test_a_gap_is_loud() -> None:
    gap = Gap(
        reason="kernel_ring_full",
        count=312,
        from_boot_time_ns=SECOND_NS,
        to_boot_time_ns=3 * SECOND_NS,
        losses=(Loss(reason="kernel_ring_full", count=300, kind=ProcessEventKind.EXEC),),
    )
    event = ProcessEvent(kind=ProcessEventKind.GAP, gap=gap, wall_time_ms=5000)
    assert event_line(event, None, ProcessTable(), PLAIN, UTC) == (
        "00:00:05.000  *** GAP *** 312 events lost: kernel ring full within 2.00s, 300 exec"
    )
    assert "\x1b[31m" in event_line(event, None, ProcessTable(), COLOUR, UTC)


def test_a_gap_of_unknown_size_is_louder() -> None:
    event = lost("collector_lost")
    assert "EVENTS LOST, nobody knows how many: collector lost" in gap_text(event.gap or Gap(), event, UTC)


def test_the_end_of_a_snapshot_counts() -> None:
    assert "3 processes before; live from here" in last(*STORY, snapshot_end())


def test_a_time_nobody_told_is_no_midnight() -> None:
    assert clock(0) == "--:--:--.---"
    assert clock(2**62) == "?"


hostile = st.text(st.sampled_from("a\x1b\n\r\t\u202e\x07 \u200b[]─"), max_size=12)


@unhurried
@given(
    text=hostile, width=st.integers(20, 90), kind=st.sampled_from([snapshot, execution, exited, credentials])
)
def test_no_name_breaks_a_line(text: str, width: int, kind: object) -> None:
    assert callable(kind)
    evil = process(9, name=text, user_name=text, command_line=(text, text), ppid=7, parent_start_ticks=7)
    parent = msgspec.structs.replace(SHELL, name=text)
    line = last(snapshot(parent), snapshot(evil), kind(evil), screen=PLAIN._replace(width=width))
    assert line.isprintable()
    assert not set("\x1b\n\r\u202e\u200b") & set(line)
    event = lost(text, losses=())
    assert gap_text(event.gap or Gap(), event).isprintable()


def test_a_line_fits_its_terminal() -> None:
    long = process(9, name="x", command_line=("x",) * 500)
    assert len(last(execution(long), screen=PLAIN._replace(width=60))) <= 60

"""Texts of /proc: whole, cut short, hostile."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.messages import ProcessStatus
from procmond.collect.procfs_parse import (
    Ids,
    MalformedProc,
    parse_environment,
    parse_ids,
    parse_login_uid,
    parse_namespace,
    parse_stat,
    split_arguments,
    tty_name,
)

STAT = (
    b"%d (%s) %s 1 4711 4712 34816 4711 4194304 1337 0 0 0 30 12 0 0 20 0 3 0 195847 18526208 891 "
    b"18446744073709551615 94 95 96 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 97 98 99 1000 1042 1042 1050 0\n"
)
STATUS = (
    b"Name:\tx\\nUid:\t9\t9\t9\t9\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t42\nNgid:\t0\nPid:\t42\n"
    b"PPid:\t1\nTracerPid:\t0\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nFDSize:\t64\n"
)


def test_stat_is_read_whole() -> None:
    stat = parse_stat(STAT % (7, b"cat", b"S"))
    assert (stat.name, stat.status, stat.ppid, stat.session) == (b"cat", ProcessStatus.SLEEPING, 1, 4712)
    assert (stat.cpu_ticks, stat.threads, stat.start_ticks, stat.resident_pages) == (42, 3, 195847, 891)
    assert (stat.argument_bytes, stat.kernel_thread, tty_name(stat.tty)) == (42, False, "pts/0")


@given(st.binary(max_size=15))
def test_no_name_moves_what_stands_behind_it(name: bytes) -> None:
    stat = parse_stat(STAT % (7, name, b"R"))
    assert (stat.name, stat.ppid, stat.start_ticks) == (name, 1, 195847)


def test_of_a_kernel_thread_the_name_is_cut_to_what_the_contract_allows() -> None:
    raw = (STAT % (7, b"kworker/0:1-events_power", b"I")).replace(b" 4194304 ", b" 2129984 ")
    stat = parse_stat(raw)
    assert (stat.name, stat.kernel_thread, stat.status) == (b"kworker/0:1-eve", True, ProcessStatus.IDLE)


@pytest.mark.parametrize("letter", b"RSDTtZIXx")
def test_every_state_of_proc_5_is_known(letter: int) -> None:
    assert parse_stat(STAT % (1, b"x", bytes([letter]))).status is not ProcessStatus.UNSPECIFIED


def test_another_state_is_unspecified() -> None:
    assert parse_stat(STAT % (1, b"x", b"P")).status is ProcessStatus.UNSPECIFIED


def test_a_stat_cut_short_is_malformed() -> None:
    raw = STAT % (7, b"cat", b"S")
    for length in range(raw.index(b" 1000 1042")):
        with pytest.raises(MalformedProc, match="stat"):
            parse_stat(raw[:length])


@given(st.binary())
def test_hostile_text_is_malformed_or_parsed(raw: bytes) -> None:
    for parse in (parse_stat, parse_ids, parse_namespace, parse_login_uid):
        try:
            parse(raw)
        except MalformedProc:
            continue


def test_every_stat_on_this_machine_is_read() -> None:
    read = 0
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            raw = Path(f"/proc/{name}/stat").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        assert parse_stat(raw).start_ticks >= 0
        read += 1
    assert read > 1


def test_ids_are_the_real_and_the_effective_ones() -> None:
    assert parse_ids(STATUS) == (Ids(1, 2, 5, 6), 42)


def test_a_status_cut_short_is_malformed() -> None:
    for length in range(STATUS.index(b"FDSize")):
        with pytest.raises(MalformedProc, match="status"):
            parse_ids(STATUS[:length])


@pytest.mark.parametrize(
    ("raw", "arguments"),
    [
        (b"", ()),
        (b"\0", ("",)),
        (b"a\0", ("a",)),
        (b"a\0b c\0", ("a", "b c")),
        (b"a\0\0b\0\0", ("a", "", "b", "")),
        (b"a title written over", ("a title written over",)),
        (b"\xc3\xbc\xff\0", ("ü\\xff",)),
    ],
)
def test_arguments_are_split_at_nul_and_nowhere_else(raw: bytes, arguments: tuple[str, ...]) -> None:
    assert split_arguments(raw) == arguments


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1))
def test_what_was_passed_is_what_is_told(arguments: list[str]) -> None:
    assert split_arguments("\0".join(arguments).encode() + b"\0") == tuple(arguments)


def test_of_the_environment_only_what_is_named_is_taken_and_the_first_wins() -> None:
    raw = b"A=1\0B=2\0A=3\0NOT\0C=x=y\0\0\xff=1\0"
    assert parse_environment(raw, {"A", "C", "NOT"}) == {"A": "1", "C": "x=y"}


def test_a_namespace_is_its_inode_number() -> None:
    assert parse_namespace(b"pid:[4026531836]") == 4026531836
    for raw in (b"", b"pid:[", b"pid:[x]", b"]["):
        with pytest.raises(MalformedProc):
            parse_namespace(raw)


def test_a_process_of_no_login_has_no_login_uid() -> None:
    assert parse_login_uid(b"4294967295") is None
    assert parse_login_uid(b"0") == 0
    assert parse_login_uid(b"1000\n") == 1000
    with pytest.raises(MalformedProc):
        parse_login_uid(b"")


@pytest.mark.parametrize(
    ("major", "minor", "name"),
    [
        (136, 0, "pts/0"),
        (136, 300, "pts/300"),
        (4, 1, "tty1"),
        (4, 64, "ttyS0"),
        (5, 1, "console"),
        (188, 2, "ttyUSB2"),
        (166, 0, "ttyACM0"),
        (204, 64, "ttyAMA0"),
        (204, 0, "204:0"),
        (229, 0, "hvc0"),
        (240, 7, "240:7"),
    ],
)
def test_terminals_have_their_names(major: int, minor: int, name: str) -> None:
    assert tty_name(minor & 0xFF | major << 8 | (minor & ~0xFF) << 12) == name


def test_no_terminal_has_no_name() -> None:
    assert tty_name(0) == ""

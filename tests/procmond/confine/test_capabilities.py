"""Reading /proc/PID/status, and the names of capabilities."""

from __future__ import annotations

import os

import pytest

from procmond.confine.capabilities import (
    Capability,
    mask_of,
    names_of,
    open_status,
    parse_status,
    read_status,
)

TEXT = b"""Name:\tpython: odd
State:\tR (running)
Uid:\t1\t2\t3\t4
Gid:\t5\t6\t7\t8
Groups:\t10 20 
Threads:\t3
CapInh:\t0000000000000001
CapPrm:\t0000000000080004
CapEff:\t0000000000000004
CapBnd:\t000001ffffffffff
CapAmb:\t0000000000000002
NoNewPrivs:\t1
Seccomp:\t2
Seccomp_filters:\t3
"""  # noqa: W291 - the kernel leaves that blank


def test_status_is_read_field_by_field() -> None:
    status = parse_status(TEXT)
    assert (status.threads, status.user_ids, status.group_ids, status.groups) == (
        3,
        (1, 2, 3, 4),
        (5, 6, 7, 8),
        (10, 20),
    )
    assert (status.inheritable, status.permitted, status.effective) == (1, 0x80004, 4)
    assert (status.bounding, status.ambient) == (0x1FFFFFFFFFF, 2)
    assert (status.no_new_privs, status.seccomp_mode, status.seccomp_filters) == (True, 2, 3)


def test_older_kernels_say_less() -> None:
    shorter = TEXT.replace(b"Seccomp_filters:\t3\n", b"").replace(b"Seccomp:\t2\n", b"")
    status = parse_status(shorter)
    assert (status.seccomp_mode, status.seccomp_filters) == (0, None)


@pytest.mark.parametrize("line", [b"Threads", b"CapPrm", b"NoNewPrivs", b"Uid"])
def test_a_missing_line_is_an_error(line: bytes) -> None:
    with pytest.raises(KeyError):
        parse_status(TEXT.replace(line, b"Other"))


def test_own_status_is_read_whole() -> None:
    status = read_status(open_status())
    assert status.user_ids == (*os.getresuid(), os.geteuid())
    assert status.groups == tuple(sorted(os.getgroups()))


def test_names_and_masks() -> None:
    assert mask_of((Capability.SYS_PTRACE, Capability.DAC_READ_SEARCH)) == 0x80004
    assert names_of(0x80004) == ("CAP_DAC_READ_SEARCH", "CAP_SYS_PTRACE")
    assert names_of(1 << 40 | 1) == ("CAP_0", "CAP_40")
    assert names_of(0) == ()

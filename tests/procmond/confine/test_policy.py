"""The tables: what they hold, judged for both architectures on the tests' own BPF machine."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from procmond.confine.machine import AARCH64, SYSCALLS, X86_64, Machine, number
from procmond.confine.policy import collector_rules, front_rules, merge, supervisor_rules
from procmond.confine.seccomp import ALLOW, ERRNO, Bits, Null, OneOf, Rule, assemble
from tests.support.bpf_machine import run

BOTH = pytest.mark.parametrize("machine", [X86_64, AARCH64], ids=lambda machine: machine.name)
PID, UID, GID, GROUP = 4242, 601, 602, 4711
REFUSED = ERRNO | errno.EPERM

TABLES: dict[str, Callable[[Machine], tuple[Rule, ...]]] = {
    "front": lambda _machine: front_rules(PID),
    "collector": lambda machine: collector_rules(PID, machine),
    "supervisor": lambda machine: supervisor_rules(PID, machine, (UID, GID), (GROUP,)),
}
EVERY_TABLE = pytest.mark.parametrize("role", TABLES)


def answers(role: str, machine: Machine) -> Callable[..., int]:
    program = assemble(TABLES[role](machine), machine)

    def answer(name: str, *arguments: int) -> int:
        nr = number(machine, name)
        assert nr is not None
        return run(program, machine.audit_architecture, nr, arguments)

    return answer


@EVERY_TABLE
def test_every_row_has_a_reason(role: str) -> None:
    assert all(rule.reason for rule in TABLES[role](X86_64))


@BOTH
def test_supervisor_allows_whatever_its_replacements_need(machine: Machine) -> None:
    supervisor = answers("supervisor", machine)
    interesting = (0, 1, 2, 3, 4, 5, 15, 17, 1030, 0x1000, 0x5421, 0x01200011, 0x003D0F00, PID, 1 << 40)
    for role in ("front", "collector"):
        own = answers(role, machine)
        for name in SYSCALLS:
            if number(machine, name) is None:
                continue
            for place in range(5):
                for value in interesting:
                    arguments = [0] * 5
                    arguments[place] = value
                    if own(name, *arguments) == ALLOW:
                        assert supervisor(name, *arguments) == ALLOW, (role, name, arguments)


@BOTH
@EVERY_TABLE
def test_no_open_writes_or_creates(role: str, machine: Machine) -> None:
    answer = answers(role, machine)
    reading = role != "front"
    o_cloexec, o_path = 0o2000000, 0o10000000
    good = o_cloexec | o_path | machine.open_directory | machine.open_nofollow | machine.open_largefile
    assert (answer("openat", 0, 0, good) == ALLOW) is reading
    assert (answer("openat", 0, 0, 0) == ALLOW) is reading
    # O_WRONLY, O_RDWR, both, O_CREAT, O_EXCL, O_TRUNC, O_APPEND, O_ASYNC, O_NOATIME, __O_TMPFILE, O_SYNC
    for flag in (1, 2, 3, 0o100, 0o200, 0o1000, 0o2000, 0o20000, 0o1000000, 0o20000000, 0o4010000):
        assert answer("openat", 0, 0, good | flag) == REFUSED, oct(flag)


def test_the_same_bit_is_direct_on_one_machine_and_directory_on_the_other() -> None:
    assert X86_64.open_directory == 0o200000
    assert AARCH64.open_directory == 0o40000
    assert answers("collector", X86_64)("openat", 0, 0, 0o40000) == REFUSED  # O_DIRECT there
    assert answers("collector", AARCH64)("openat", 0, 0, 0o200000) == REFUSED


@BOTH
@EVERY_TABLE
def test_no_clone_makes_a_namespace_or_a_stranger(role: str, machine: Machine) -> None:
    answer = answers(role, machine)
    starting = role != "front"
    glibc_thread, musl_thread, fork = 0x003D0F00, 0x007D0F00, 0x01200011
    for flags in (glibc_thread, musl_thread, fork):
        assert (answer("clone", flags) == ALLOW) is starting
    # NEWTIME, PIDFD, PTRACE, PARENT, NEWNS, UNTRACED, NEWCGROUP ... NEWNET, IO
    for bit in (0x80, 0x1000, 0x2000, 0x8000, 0x20000, 0x800000, *(1 << n for n in range(25, 32))):
        assert answer("clone", fork | bit) == REFUSED, hex(bit)
    assert answer("clone3", 0, 0) == ERRNO | errno.ENOSYS


@BOTH
@EVERY_TABLE
def test_no_memory_becomes_executable(role: str, machine: Machine) -> None:
    answer = answers(role, machine)
    for name in ("mmap", "mprotect"):
        assert answer(name, 0, 4096, 3) == ALLOW
        assert answer(name, 0, 4096, 5) == REFUSED
        assert answer(name, 0, 4096, 7) == REFUSED


@BOTH
@EVERY_TABLE
def test_signals_reach_nobody_else(role: str, machine: Machine) -> None:
    answer = answers(role, machine)
    f_setown, f_setsig, f_setown_ex, f_setfl = 8, 10, 15, 4
    for command in (f_setown, f_setsig, f_setown_ex, 1024, 1026, 1033):  # lease, notify, seals
        assert answer("fcntl", 0, command, 1) == REFUSED
    assert answer("fcntl", 0, f_setfl, 0o4002) == ALLOW
    assert answer("fcntl", 0, f_setfl, 0o20002) == REFUSED  # O_ASYNC
    for request in (0x8901, 0x8902, 0x5452, 0x5412):  # FIOSETOWN, SIOCSPGRP, FIOASYNC, TIOCSTI
        assert answer("ioctl", 0, request) == REFUSED
    assert answer("tgkill", PID, 1, 6) == ALLOW
    assert answer("tgkill", PID + 1, 1, 6) == REFUSED
    assert answer("prlimit64", 1, 7, 0) == ALLOW
    assert answer("prlimit64", 0, 7, 1 << 32) == REFUSED


@BOTH
@EVERY_TABLE
def test_no_call_names_a_receiver_but_where_descriptors_are_sent(role: str, machine: Machine) -> None:
    answer = answers(role, machine)
    assert answer("sendto", 3, 0, 0, 0, 0) == ALLOW
    assert answer("sendto", 3, 0, 0, 0, 1 << 32) == REFUSED
    assert (answer("sendmsg", 3, 0, 0) == REFUSED) is (role == "collector")


@EVERY_TABLE
def test_every_number_known_is_used_by_a_table(role: str) -> None:
    names = {rule.name for rule in TABLES[role](X86_64)}
    assert names <= SYSCALLS.keys()
    if role == "supervisor":  # which holds the other two
        assert names == SYSCALLS.keys()


@BOTH
def test_supervisor_kills_its_groups_and_nothing_else(machine: Machine) -> None:
    answer = answers("supervisor", machine)
    assert answer("kill", -GROUP, 9) == ALLOW
    for pid, signal in ((-GROUP, 15), (GROUP, 9), (0, 9), (-1, 9), (1, 9), (-GROUP - 1, 9), (PID, 9)):
        assert answer("kill", pid, signal) == REFUSED
    assert answer("setpgid", 0, GROUP) == ALLOW
    assert answer("setpgid", 0, 0) == REFUSED
    for role in ("front", "collector"):
        assert answers(role, machine)("kill", -GROUP, 9) == REFUSED
    nobody = assemble(supervisor_rules(PID, machine, None), machine)
    for name in ("kill", "setpgid", "setresuid", "setresgid", "setgroups"):
        nr = number(machine, name)
        assert nr is not None
        assert run(nobody, machine.audit_architecture, nr, (0, 0, 0)) == REFUSED


@BOTH
def test_supervisor_becomes_exactly_the_front(machine: Machine) -> None:
    answer = answers("supervisor", machine)
    for name, own, other in (("setresuid", UID, GID), ("setresgid", GID, UID)):
        assert answer(name, own, own, own) == ALLOW
        for ids in ((0, 0, 0), (own, own, 0), (own, own, -1), (-1, own, own), (own, other, own)):
            assert answer(name, *ids) == REFUSED
    assert answer("setgroups", 0, 0) == ALLOW
    assert answer("setgroups", 1, 0) == REFUSED


def test_merging_allows_what_either_allows() -> None:
    one = (
        Rule("read", "first", ((Null(0),),)),
        Rule("write", "first"),
        Rule("close", "first", ((Bits(0, 1),),)),
    )
    two = (
        Rule("read", "second", ((OneOf(0, (5,)),),)),
        Rule("write", "second", ((Null(0),),)),
        Rule("close", "second"),
        Rule("fstat", "second"),
    )
    assert merge(one, two) == (
        Rule("read", "first", ((Null(0),), (OneOf(0, (5,)),))),
        Rule("write", "first"),
        Rule("close", "first"),
        Rule("fstat", "second"),
    )
    assert merge(one, one) == one

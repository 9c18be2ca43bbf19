"""The assembler: what a program answers, run on a BPF machine of the tests' own."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procmond.confine.machine import AARCH64, SYSCALLS, X86_64, Machine, number
from procmond.confine.seccomp import (
    ALLOW,
    ERRNO,
    KILL_PROCESS,
    Bits,
    Check,
    Instruction,
    Null,
    OneOf,
    Rule,
    assemble,
)
from tests.support.bpf_machine import run

BOTH = pytest.mark.parametrize("machine", [X86_64, AARCH64], ids=lambda machine: machine.name)
REFUSED = ERRNO | errno.EPERM


def answer(rules: list[Rule], machine: Machine, name: str, *arguments: int) -> int:
    nr = number(machine, name)
    assert nr is not None
    return run(assemble(rules, machine), machine.audit_architecture, nr, arguments)


@BOTH
def test_only_what_is_named_is_allowed(machine: Machine) -> None:
    program = assemble([Rule("read", "a test")], machine)
    allowed = [nr for nr in range(1024) if run(program, machine.audit_architecture, nr) != REFUSED]
    assert allowed == [number(machine, "read")]


@BOTH
def test_another_architecture_kills_whatever_the_number(machine: Machine) -> None:
    program = assemble([Rule(name, "a test") for name in SYSCALLS], machine)
    for foreign in (0x40000003, 0x40000028, 0, X86_64.audit_architecture ^ 1):  # i386, arm
        assert {run(program, foreign, nr) for nr in range(512)} == {KILL_PROCESS}


def test_x32_numbers_kill() -> None:
    program = assemble([Rule("read", "a test")], X86_64)
    for nr in (0x40000000, 0x40000000 + 39, 0x400001FF, 0x7FFFFFFF, 0xFFFFFFFF):
        assert run(program, X86_64.audit_architecture, nr) == KILL_PROCESS
    assert run(program, X86_64.audit_architecture, 0x3FFFFFFF) == REFUSED


@BOTH
def test_arguments_are_32_bits_but_pointers_64(machine: Machine) -> None:
    rules = [
        Rule("openat", "a test", ((Bits(2, 0b101),),)),
        Rule("socketpair", "a test", ((OneOf(0, (1, -7)), OneOf(1, (5,))),)),
        Rule("sendto", "a test", ((Null(4),),)),
    ]
    garbage = 0xDEAD << 32  # the kernel ignores it in an int
    assert answer(rules, machine, "openat", 0, 0, 0b101 | garbage) == ALLOW
    assert answer(rules, machine, "openat", 0, 0, 0b111) == REFUSED
    assert answer(rules, machine, "openat", 0, 0, 1 << 31) == REFUSED
    assert answer(rules, machine, "socketpair", 1 | garbage, 5) == ALLOW
    assert answer(rules, machine, "socketpair", -7, 5) == ALLOW
    assert answer(rules, machine, "socketpair", 1, 6) == REFUSED
    assert answer(rules, machine, "socketpair", 2, 5) == REFUSED
    assert answer(rules, machine, "sendto", 9, 9, 9, 9, 0) == ALLOW
    assert answer(rules, machine, "sendto", 9, 9, 9, 9, 1) == REFUSED
    assert answer(rules, machine, "sendto", 9, 9, 9, 9, 1 << 32) == REFUSED


@BOTH
def test_one_alternative_suffices_and_a_refusal_has_its_own_errno(machine: Machine) -> None:
    rules = [
        Rule("fcntl", "a test", ((OneOf(1, (1, 2)),), (OneOf(1, (3,)), Bits(2, 1)))),
        Rule("clone3", "a test", (), errno.ENOSYS),
    ]
    assert [answer(rules, machine, "fcntl", 0, command, 1) == ALLOW for command in range(5)] == [
        False,
        True,
        True,
        True,
        False,
    ]
    assert answer(rules, machine, "fcntl", 0, 3, 2) == REFUSED
    assert answer(rules, machine, "clone3", 0, 0) == ERRNO | errno.ENOSYS


values = st.integers(0, 2**32 - 1)
checks = st.one_of(
    st.builds(Bits, st.integers(0, 5), values),
    st.builds(OneOf, st.integers(0, 5), st.lists(values, min_size=1, max_size=40).map(tuple)),
    st.builds(Null, st.integers(0, 5)),
)
tables = st.lists(
    st.builds(
        Rule,
        st.sampled_from(sorted(SYSCALLS)),
        st.just("a test"),
        st.lists(st.lists(checks, min_size=1, max_size=3).map(tuple), max_size=4).map(tuple),
        st.none(),
    ),
    max_size=30,
    unique_by=lambda rule: rule.name,
)


def holds(check: Check, arguments: list[int]) -> bool:
    low = arguments[check.argument] & 0xFFFFFFFF
    match check:
        case Bits(_, allowed):
            return low & ~allowed == 0
        case OneOf(_, values):
            return low in values
        case Null(_):
            return arguments[check.argument] == 0


@given(tables, st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 3), min_size=6, max_size=6))
def test_program_answers_as_its_table_says(rules: list[Rule], arguments: list[int]) -> None:
    program = assemble(rules, X86_64)
    table = {rule.name: rule for rule in rules}
    for name in SYSCALLS:
        nr = number(X86_64, name)
        assert nr is not None
        rule = table.get(name)
        allowed = rule is not None and (
            not rule.alternatives
            or any(all(holds(check, arguments) for check in checks) for checks in rule.alternatives)
        )
        assert run(program, X86_64.audit_architecture, nr, arguments) == (ALLOW if allowed else REFUSED)


def test_rules_over_255_instructions_are_jumped_over() -> None:
    many = tuple((OneOf(0, tuple(range(n * 100, n * 100 + 99))),) for n in range(5))
    rules = [
        Rule("fcntl", "a test", many),
        Rule("ioctl", "a test", ((OneOf(1, (7,)),),)),
        Rule("read", "a test"),
    ]
    assert len(assemble(rules, X86_64)) > 500
    assert answer(rules, X86_64, "fcntl", 498) == ALLOW
    assert answer(rules, X86_64, "fcntl", 499) == REFUSED
    assert answer(rules, X86_64, "ioctl", 0, 7) == ALLOW
    assert answer(rules, X86_64, "read") == ALLOW


def test_what_does_not_fit_is_an_error() -> None:
    with pytest.raises(ValueError, match="jump of"):
        assemble([Rule("fcntl", "a test", ((OneOf(0, tuple(range(300))),),))], X86_64)
    with pytest.raises(ValueError, match="named twice"):
        assemble([Rule("read", "a test"), Rule("read", "a test")], X86_64)
    long = tuple((OneOf(0, tuple(range(250))),) for _ in range(20))
    with pytest.raises(ValueError, match="the kernel takes 4096"):
        assemble([Rule("fcntl", "a test", long)], X86_64)


def test_the_tests_machine_knows_nothing_it_was_not_told() -> None:
    with pytest.raises(ValueError, match="unknown instruction 0x7"):
        run([Instruction(7, 0, 0, 0)], 0, 0)

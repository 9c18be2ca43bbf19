"""System call filters as classic BPF. One rule: what no rule of the table names is refused.

Assembled here rather than by libseccomp: it would put a C library and an unmaintained binding (pyseccomp,
last released in 2021, runs ldconfig or gcc when imported) into root, and the program could not be read and
run by a test on another architecture. What libseccomp would take over is the sixty lines of `assemble`.

Shape: the architecture is checked before the number means anything, then the numbers one by one. Every
rule ends in a return of its own, so no jump is longer than one rule; the one over a whole rule is
`BPF_JA`, whose offset has 32 bits (conditional jumps have 8). Kernels from 5.11 on remember which numbers
pass unconditionally and do not run the program for them; so rules that look at arguments come first.

Sources: seccomp(2); linux/filter.h; linux/seccomp.h; Documentation/userspace-api/seccomp_filter.rst.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from procmond.confine import kernel
from procmond.confine.machine import Machine, number

# struct seccomp_data { int nr; u32 arch; u64 instruction_pointer; u64 args[6]; }, little-endian.
OFFSET_NUMBER: Final = 0
OFFSET_ARCHITECTURE: Final = 4
OFFSET_ARGUMENTS: Final = 16

LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
JUMP: Final = 0x05  # BPF_JMP | BPF_JA
JUMP_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
JUMP_AT_LEAST: Final = 0x35  # BPF_JMP | BPF_JGE | BPF_K
JUMP_ANY_BIT: Final = 0x45  # BPF_JMP | BPF_JSET | BPF_K
RETURN: Final = 0x06  # BPF_RET | BPF_K

ALLOW: Final = 0x7FFF0000
KILL_PROCESS: Final = 0x80000000
ERRNO: Final = 0x00050000
"""To be combined with the errno the call then fails with."""

MAX_INSTRUCTIONS: Final = 4096
"""BPF_MAXINSNS: the kernel takes no longer program."""
MAX_SHORT_JUMP: Final = 255
"""Instructions; jt and jf are bytes."""

_SET_MODE_FILTER: Final = 1
_FLAG_TSYNC: Final = 1
_WORD: Final = 0xFFFFFFFF


class Bits(NamedTuple):
    """The argument, a 32-bit value to the kernel, has no bit set outside `allowed`."""

    argument: int
    allowed: int


class OneOf(NamedTuple):
    """The argument, a 32-bit value to the kernel (which ignores the upper half), is one of `values`."""

    argument: int
    values: tuple[int, ...]


class Null(NamedTuple):
    """The argument, a pointer, is null: all 64 bits."""

    argument: int


Check = Bits | OneOf | Null


class Rule(NamedTuple):
    """One system call that is answered, and why."""

    name: str
    reason: str
    alternatives: tuple[tuple[Check, ...], ...] = ()
    """Empty: with any arguments. Otherwise allowed if all checks of at least one alternative hold."""
    refusal: int | None = None
    """Not None: it is never answered, and fails with this errno instead of EPERM."""


class Instruction(NamedTuple):
    """struct sock_filter."""

    code: int
    if_true: int
    if_false: int
    value: int


def _check(check: Check) -> list[Instruction]:
    """Falls off its end if the check holds; a jump of -1 stands for "this alternative does not hold"."""
    low = OFFSET_ARGUMENTS + 8 * check.argument
    match check:
        case Bits(_, allowed):
            return [Instruction(LOAD, 0, 0, low), Instruction(JUMP_ANY_BIT, -1, 0, ~allowed & _WORD)]
        case OneOf(_, values):
            last = len(values) - 1
            return [
                Instruction(LOAD, 0, 0, low),
                *(
                    Instruction(JUMP_EQUAL, last - index, -1 if index == last else 0, value & _WORD)
                    for index, value in enumerate(values)
                ),
            ]
        case Null(_):
            equal_zero = Instruction(JUMP_EQUAL, 0, -1, 0)
            return [
                Instruction(LOAD, 0, 0, low),
                equal_zero,
                Instruction(LOAD, 0, 0, low + 4),
                equal_zero,
            ]


def _alternative(checks: Sequence[Check]) -> list[Instruction]:
    """Allows if all `checks` hold, else falls off its end."""
    body = [instruction for check in checks for instruction in _check(check)]
    length = len(body) + 1

    def resolved(offset: int, index: int) -> int:
        offset = length - index - 1 if offset == -1 else offset
        if not 0 <= offset <= MAX_SHORT_JUMP:
            raise ValueError(f"a rule's jump of {offset} instructions; at most {MAX_SHORT_JUMP} fit")
        return offset

    return [
        Instruction(code, resolved(if_true, index), resolved(if_false, index), value)
        for index, (code, if_true, if_false, value) in enumerate(body)
    ] + [Instruction(RETURN, 0, 0, ALLOW)]


def assemble(rules: Sequence[Rule], machine: Machine) -> tuple[Instruction, ...]:
    """The program for `rules` on `machine`. Pure.

    A foreign architecture, or the x32 ABI of x86-64, kills the process: its numbers mean other calls.
    Anything no rule names fails with EPERM. Rules for calls `machine` does not have are left out.

    Raises: ValueError if a call is named twice or the program is longer than the kernel takes.
    """
    if len({rule.name for rule in rules}) != len(rules):
        raise ValueError("a system call is named twice: only its first rule would count")
    program = [
        Instruction(LOAD, 0, 0, OFFSET_ARCHITECTURE),
        Instruction(JUMP_EQUAL, 1, 0, machine.audit_architecture),
        Instruction(RETURN, 0, 0, KILL_PROCESS),
        Instruction(LOAD, 0, 0, OFFSET_NUMBER),
    ]
    if machine.foreign_from is not None:
        program += [
            Instruction(JUMP_AT_LEAST, 0, 1, machine.foreign_from),
            Instruction(RETURN, 0, 0, KILL_PROCESS),
        ]
    for rule in sorted(rules, key=lambda rule: not rule.alternatives):  # stable: argument checks first
        nr = number(machine, rule.name)
        if nr is None:
            continue
        if not rule.alternatives:
            verdict = ALLOW if rule.refusal is None else ERRNO | rule.refusal
            program += [Instruction(JUMP_EQUAL, 0, 1, nr), Instruction(RETURN, 0, 0, verdict)]
            continue
        body = [step for checks in rule.alternatives for step in _alternative(checks)]
        body.append(Instruction(RETURN, 0, 0, ERRNO | errno.EPERM))
        program += [Instruction(JUMP_EQUAL, 1, 0, nr), Instruction(JUMP, 0, 0, len(body)), *body]
    program.append(Instruction(RETURN, 0, 0, ERRNO | errno.EPERM))
    if len(program) > MAX_INSTRUCTIONS:
        raise ValueError(f"a program of {len(program)} instructions; the kernel takes {MAX_INSTRUCTIONS}")
    return tuple(program)


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def install(program: Sequence[Instruction], machine: Machine) -> None:
    """Put `program` in force for every thread of this process, for good, and for its future children.

    Needs no_new_privs (or CAP_SYS_ADMIN). A filter that is already in force stays so: the stricter wins.

    Raises: OSError as seccomp(2) does; ESRCH if another thread has a filter this one does not have.
    """
    image = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    seccomp = number(machine, "seccomp")
    assert seccomp is not None  # noqa: S101 - the table has it for both architectures
    header = _Program(len(program), image)  # named, so that it outlives the call
    offending = kernel.syscall(seccomp, _SET_MODE_FILTER, _FLAG_TSYNC, ctypes.addressof(header))
    if offending:
        raise OSError(errno.ESRCH, f"thread {offending} could not be given the filter")

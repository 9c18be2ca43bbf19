"""A machine for classic BPF, as the kernel runs a filter. One rule: an unknown instruction is an error.

With it a filter can be judged for every system call number and for either architecture, on any machine.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from procmond.confine.seccomp import Instruction


def run(program: Sequence[Instruction], architecture: int, number: int, arguments: Sequence[int] = ()) -> int:
    """What `program` returns for a system call. Raises: IndexError if it runs off its end."""
    padded = [argument & (1 << 64) - 1 for argument in (*arguments, 0, 0, 0, 0, 0, 0)[:6]]
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, architecture, 0, *padded)
    accumulator = 0
    position = 0
    while True:
        code, if_true, if_false, value = program[position]
        position += 1
        match code:
            case 0x20:  # BPF_LD | BPF_W | BPF_ABS
                (accumulator,) = struct.unpack_from("<I", data, value)
            case 0x05:  # BPF_JMP | BPF_JA
                position += value
            case 0x15:  # BPF_JMP | BPF_JEQ | BPF_K
                position += if_true if accumulator == value else if_false
            case 0x35:  # BPF_JMP | BPF_JGE | BPF_K
                position += if_true if accumulator >= value else if_false
            case 0x45:  # BPF_JMP | BPF_JSET | BPF_K
                position += if_true if accumulator & value else if_false
            case 0x06:  # BPF_RET | BPF_K
                return value
            case _:
                raise ValueError(f"unknown instruction {code:#x}")

"""The numbers are those of the kernel's headers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from procmond.confine.machine import SYSCALLS, this_machine

HEADERS = [
    Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),  # Debian
    Path("/usr/include/asm/unistd_64.h"),  # elsewhere
]
GENERIC = Path("/usr/include/asm-generic/unistd.h")
# asm-generic names some calls after what they are in both widths.
GENERIC_NAMES = {"newfstatat": "fstatat"}


def numbers_in(header: Path) -> dict[str, int]:
    pattern = re.compile(r"#define\s+__NR(?:3264)?_(\w+)\s+(\d+)$", re.MULTILINE)
    return {name: int(number) for name, number in pattern.findall(header.read_text())}


def test_numbers_of_x86_64_are_the_headers() -> None:
    header = next((path for path in HEADERS if path.exists()), None)
    if header is None:
        pytest.skip("no header of x86-64 here: install linux-libc-dev")
    known = numbers_in(header)
    assert {name: column[0] for name, column in SYSCALLS.items()} == {name: known[name] for name in SYSCALLS}


def test_numbers_of_aarch64_are_the_headers() -> None:
    if not GENERIC.exists():
        pytest.skip("no asm-generic header here: install linux-libc-dev")
    known = numbers_in(GENERIC)
    for name, (_, number) in SYSCALLS.items():
        if number is not None:
            assert known[GENERIC_NAMES.get(name, name)] == number, name


def test_this_machine_is_one_the_filter_knows() -> None:
    assert this_machine() is not None

"""The kernel calls Python has no function for. One rule: bytes and numbers through, nothing decided."""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Final

_libc: Final = ctypes.CDLL(None, use_errno=True)

PR_CAPBSET_READ: Final = 23
PR_CAPBSET_DROP: Final = 24
PR_SET_NO_NEW_PRIVS: Final = 38
PR_CAP_AMBIENT: Final = 47
PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
"""linux/prctl.h."""

_CAPABILITY_VERSION_3: Final = 0x20080522
"""linux/capability.h: two 32-bit halves per set."""


def syscall(number: int, *arguments: int) -> int:
    """Make system call `number`. Raises: OSError with what it failed with."""
    ctypes.set_errno(0)
    result = int(_libc.syscall(ctypes.c_long(number), *(ctypes.c_long(argument) for argument in arguments)))
    if result == -1:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def prctl(option: int, *arguments: int) -> int:
    """prctl(2), the arguments left out being 0. Raises: OSError."""
    padded = (*arguments, 0, 0, 0, 0)[:4]
    ctypes.set_errno(0)
    result = int(_libc.prctl(ctypes.c_int(option), *(ctypes.c_ulong(argument) for argument in padded)))
    if result == -1:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set this thread's three capability sets, each a mask of 64 bits. Raises: OSError."""
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0))
    sets = (effective, permitted, inheritable)
    data = ctypes.create_string_buffer(
        struct.pack("=6I", *(mask & 0xFFFFFFFF for mask in sets), *(mask >> 32 for mask in sets))
    )
    ctypes.set_errno(0)
    if _libc.capset(header, data) == -1:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def unshare(flags: int) -> None:
    """unshare(2), which Python has from 3.12. Raises: OSError."""
    ctypes.set_errno(0)
    if _libc.unshare(ctypes.c_int(flags)) == -1:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))

"""File capabilities in words. One rule: what cannot be read is shown as it came.

The format is `struct vfs_ns_cap_data` of include/uapi/linux/capability.h: little-endian magic (revision in
the top byte, bit 0 the effective flag), then permitted and inheritable, 32 bits each, once or twice. Pure.
"""

from __future__ import annotations

import struct

_WORDS_OF_REVISION = {0x01: 1, 0x02: 2, 0x03: 2}  # a third revision appends the root uid of its namespace
_NAMES = [
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "linux_immutable",
    "net_bind_service",
    "net_broadcast",
    "net_admin",
    "net_raw",
    "ipc_lock",
    "ipc_owner",
    "sys_module",
    "sys_rawio",
    "sys_chroot",
    "sys_ptrace",
    "sys_pacct",
    "sys_admin",
    "sys_boot",
    "sys_nice",
    "sys_resource",
    "sys_time",
    "sys_tty_config",
    "mknod",
    "lease",
    "audit_write",
    "audit_control",
    "setfcap",
    "mac_override",
    "mac_admin",
    "syslog",
    "wake_alarm",
    "block_suspend",
    "audit_read",
    "perfmon",
    "bpf",
    "checkpoint_restore",
]


def describe(hexadecimal: str) -> str:
    """`security.capability` in hex as `net_raw+ep`, groups joined by spaces; empty for none.

    Sets are named as setcap(8) does: e effective, i inheritable, p permitted.
    """
    try:
        raw = bytes.fromhex(hexadecimal)
        (magic,) = struct.unpack_from("<I", raw)
        words = _WORDS_OF_REVISION[magic >> 24]
        sets = struct.unpack_from(f"<{2 * words}I", raw, 4)
    except (ValueError, struct.error, KeyError):
        return hexadecimal
    permitted = sum(word << 32 * index for index, word in enumerate(sets[0::2]))
    inheritable = sum(word << 32 * index for index, word in enumerate(sets[1::2]))
    groups: dict[str, list[str]] = {}
    for number in range(64):
        held = permitted >> number & 1
        flags = (
            ("e" if held and magic & 1 else "")
            + ("i" if inheritable >> number & 1 else "")
            + ("p" if held else "")
        )
        if flags:
            name = _NAMES[number] if number < len(_NAMES) else f"cap_{number}"
            groups.setdefault(flags, []).append(name)
    return " ".join(f"{','.join(names)}+{flags}" for flags, names in groups.items())

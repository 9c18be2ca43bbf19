"""From what was read of a process to its encoded record. One rule: equal readings make equal bytes.

So a record may be kept for as long as the readings stay equal. Nothing is read here but the clock.
"""

from __future__ import annotations

import os
import time
from typing import Final, NamedTuple

from common.messages import HashState, Provenance
from procmond.collect.arguments import Arguments, Shown
from procmond.collect.details import NO_DETAILS, Details, detail_facts
from procmond.collect.handles import is_exhausted, parse_credentials
from procmond.collect.images import Image
from procmond.collect.procfs_parse import MalformedProc, Stat, tty_name
from procmond.collect.records import Facts, encode_record, encode_time
from procmond.collect.scripts import script_path
from procmond.collect.sighting import Sighting, Wanted
from procmond.collect.text import text
from procmond.collect.users import Users

TICKS: Final = os.sysconf("SC_CLK_TCK")
NS_PER_TICK: Final = 1_000_000_000 // TICKS
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


class Reading(NamedTuple):
    """One process as read, raw where the raw form is as good."""

    raw_stat: bytes
    credentials: bytes
    image: Image
    arguments: Arguments
    details: Details = NO_DETAILS
    parent_start_ticks: int | None = None
    names_version: int = 0
    """Which reading of the user names."""

    @property
    def accessible(self) -> bool:
        """Whether the kernel refused none of the specification's facts."""
        return self.image.state is not HashState.DENIED and self.arguments.missing != "denied"


def unread(pid: int, wanted: Wanted, error: OSError | MalformedProc) -> Sighting:
    """A process of which `error` hid all but that it exists.

    Its facts are missing as `denied` where procmond was refused (hidepid), as `exhausted` where there were no
    descriptors or memory to ask with, else as `failed`.
    """
    state = HashState.DENIED if isinstance(error, PermissionError) else HashState.IO_ERROR
    reason = "denied" if state is HashState.DENIED else "failed"
    if isinstance(error, OSError) and is_exhausted(error):
        reason = "exhausted"
    missing = dict.fromkeys(("ppid", "name", "start_ticks"), reason) if wanted.full else None
    payload = encode_record({"pid": pid, "accessible": False}, missing)
    payload += encode_time(time.time_ns() // 1_000_000)
    return Sighting(pid, 0, 0, "", None, None, state, False, payload)


class Builder:
    """Makes encoded records."""

    def __init__(self, boot_time: int, users: Users) -> None:
        """`boot_time` in Unix seconds; `users` gives names."""
        self._boot_time = boot_time
        self._users = users

    def build(self, pid: int, stat: Stat, reading: Reading, shown: Shown, *, full: bool) -> bytes:
        """The record without what differs in every sweep: cpu_usage and collection_time.

        Raises:
            MalformedProc: the kernel wrote another form than proc(5) says.
        """
        verdict = reading.image.verdict
        ids = parse_credentials(reading.credentials, pid)
        missing = _missing(reading)
        argv = shown.argv
        facts: Facts = {
            "pid": pid,
            "ppid": stat.ppid,
            "name": text(stat.name),
            "executable_path": reading.image.path,
            "command_line": argv,
            "start_time": self._boot_time + stat.start_ticks // TICKS,
            "memory_usage": stat.resident_pages * _PAGE_BYTES,
            "user_id": str(ids.real_uid),
            "accessible": reading.accessible,
            "file_exists": verdict.file_exists,
            "on_disk_mismatch": verdict.on_disk_mismatch,
        }
        if not full:
            return encode_record(facts)
        details, refused = detail_facts(reading.details)
        missing.update(refused)
        facts.update(details)
        facts.update(
            {
                "parent_start_ticks": reading.parent_start_ticks,
                "real_uid": ids.real_uid,
                "effective_uid": ids.effective_uid,
                "real_gid": ids.real_gid,
                "effective_gid": ids.effective_gid,
                "user_name": self._users.name(ids.real_uid),
                "memory_backed": verdict.memory_backed,
                "command_line_blocked": reading.arguments.missing == "blocked",
                "command_line_length": reading.arguments.length,
                "redacted": shown.redacted,
                "provenance": Provenance.PROC,
                "script_path": script_path(verdict.path, argv, details.get("cwd", "")),
            }
        )
        facts.update(_stat_facts(stat))
        if reading.image.identity is not None:
            facts["executable_device"] = reading.image.identity.device
            facts["executable_inode"] = reading.image.identity.inode
        return encode_record(facts, missing)


def _stat_facts(stat: Stat) -> Facts:
    """The fields from 100 up that /proc/PID/stat gives."""
    return {
        "start_ticks": stat.start_ticks,
        "status": stat.status,
        "threads": stat.threads,
        "cpu_time_ns": stat.cpu_ticks * NS_PER_TICK,
        "session": stat.session,
        "tty": tty_name(stat.tty),
        "is_kernel_thread": stat.kernel_thread,
    }


def _missing(reading: Reading) -> dict[str, str]:
    missing: dict[str, str] = {}
    if reading.image.state is HashState.DENIED:
        refused = ("executable_path",) if reading.image.path is None else ("file_exists", "on_disk_mismatch")
        missing.update(dict.fromkeys(refused, "denied"))
    elif reading.image.identity is not None and reading.image.path is None:
        missing["executable_path"] = "cut"
    if reading.arguments.missing:
        missing["command_line"] = reading.arguments.missing
    elif reading.arguments.length:
        missing["command_line"] = "cut"
    return missing

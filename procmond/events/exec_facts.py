"""The record of an exec as the kernel told it. One rule: what the kernel did not say is named, not guessed.

Pure. Most of a record is the same from one exec of an image to the next, so that part is encoded once.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from common.limits import MAX_COMMAND_LINE_BYTES
from common.messages import ProcessStatus, Provenance
from procmond.collect.build import TICKS
from procmond.collect.cgroups import container_id
from procmond.collect.procfs_parse import split_arguments
from procmond.collect.records import Facts, encode_exception, encode_record
from procmond.collect.scripts import script_path
from procmond.collect.sighting import Redact
from procmond.collect.text import text
from procmond.collect.users import Users
from procmond.events.facts import (
    ARGUMENTS_UNREADABLE,
    CWD_CUT,
    CWD_DELETED,
    HAS_CWD,
    HAS_IMAGE,
    IMAGE_DELETED,
    INTERPRETED,
    NO_LOGIN_UID,
    PATH_CUT,
    ExecEvent,
    KernelEvent,
)

MAX_KEPT: Final = 4096
"""Encoded parts kept; a busy host runs a few hundred images as a few users in a few directories."""

_IMAGE_FLAGS: Final = HAS_IMAGE | IMAGE_DELETED | PATH_CUT | HAS_CWD | CWD_DELETED | CWD_CUT
_UNREPORTED: Final = encode_exception("tty", Provenance.MISSING, "unreported")
_ARGUMENTS_CUT: Final = encode_exception("command_line", Provenance.MISSING, "cut")
_ARGUMENTS_UNREADABLE: Final = encode_exception("command_line", Provenance.MISSING, "unreadable")
_PATH_CUT: Final = encode_exception("executable_path", Provenance.MISSING, "cut")
_CWD_CUT: Final = encode_exception("cwd", Provenance.MISSING, "cut")
_NO_CWD: Final = encode_exception("cwd", Provenance.MISSING, "exited")


@lru_cache(maxsize=MAX_KEPT)
def name_of(comm: bytes) -> str:
    """A process's name, from the kernel's 16 bytes padded with NULs."""
    return text(comm.partition(b"\0")[0])


class ExecFacts:
    """Makes encoded ProcessRecords, without hash fields, from exec events."""

    def __init__(self, boot_time: int, users: Users, redact: Redact | None) -> None:
        """`boot_time` in Unix seconds, the server's; `redact` replaces secrets in arguments."""
        self._boot_time = boot_time
        self._users = users
        self._redact = redact
        self._kept: dict[tuple[object, ...], tuple[str | None, str, bytes]] = {}

    def encode(self, event: ExecEvent, wall_ms: int, *, reparented: bool | None) -> tuple[str | None, bytes]:
        """The executable's path and the record. `wall_ms` is the event's time in Unix milliseconds."""
        path, cwd, same = self._same(event)
        argv = () if event.flags & ARGUMENTS_UNREADABLE else split_arguments(event.arguments)
        redacted = False
        if argv and self._redact is not None:
            argv, redacted = self._redact(argv, path)
        invoked = text(event.invoked_path)
        cut = event.argument_length > MAX_COMMAND_LINE_BYTES
        facts: Facts = {
            "pid": event.pid,
            "ppid": event.ppid,
            "name": name_of(event.comm),
            "command_line": argv,
            "start_time": self._boot_time + event.start_ticks // TICKS,
            "collection_time": wall_ms,
            "start_ticks": event.start_ticks,
            "parent_start_ticks": event.parent_start_ticks if event.ppid else None,
            "invoked_path": invoked,
            "script_path": _script(event, invoked, path, argv, cwd),
            "reparented": reparented,
        }
        if redacted:
            facts["redacted"] = True
        record = encode_record(facts) + same
        if cut:
            record += encode_record({"command_line_length": event.argument_length}) + _ARGUMENTS_CUT
        elif event.flags & ARGUMENTS_UNREADABLE:
            record += _ARGUMENTS_UNREADABLE
        return path, record

    def _same(self, event: ExecEvent) -> tuple[str | None, str, bytes]:
        key = (
            event.upward_path,
            event.upward_cwd,
            event.upward_cgroup,
            event.inode,
            event.encoded_device,
            event.flags & _IMAGE_FLAGS,
            event.real_uid,
            event.effective_uid,
            event.real_gid,
            event.effective_gid,
            event.login_uid,
            event.session,
            event.pid_namespace,
            event.mount_namespace,
            self._users.version,
        )
        kept = self._kept.get(key)
        if kept is None:
            if len(self._kept) >= MAX_KEPT:
                self._kept.clear()
            kept = self._kept[key] = self._encode_same(event)
        return kept

    def _encode_same(self, event: ExecEvent) -> tuple[str | None, str, bytes]:
        flags = event.flags
        named = flags & HAS_IMAGE and not flags & PATH_CUT
        path = text(event.path) if named else None
        cwd = text(event.cwd) if flags & HAS_CWD and not flags & CWD_CUT else ""
        if cwd and flags & CWD_DELETED:
            cwd += " (deleted)"  # as /proc/PID/cwd shows it
        deleted = bool(flags & IMAGE_DELETED)
        cgroup = event.cgroup
        facts: Facts = {
            "executable_path": path,
            "file_exists": bool(flags & HAS_IMAGE) and not deleted,
            "on_disk_mismatch": deleted,
            "memory_backed": deleted and _never_named(event),
            "executable_device": event.device,
            "executable_inode": event.inode,
            "cwd": cwd,
            "cgroup": text(cgroup),
            "container_id": container_id(b"0::" + cgroup),
            "accessible": True,
            "status": ProcessStatus.RUNNING,
            "threads": 1,  # execve ends all others
            "provenance": Provenance.KERNEL,
            "pid_namespace": event.pid_namespace,
            "mount_namespace": event.mount_namespace,
        }
        facts.update(identity_facts(event, self._users))
        record = encode_record(facts) + _UNREPORTED
        if flags & PATH_CUT:
            record += _PATH_CUT
        if flags & CWD_CUT:
            record += _CWD_CUT
        elif not flags & HAS_CWD:
            record += _NO_CWD
        return path, cwd, record


def identity_facts(event: KernelEvent, users: Users) -> Facts:
    """Who a process is: ids, names and session."""
    return {
        "user_id": str(event.real_uid),
        "user_name": users.name(event.real_uid),
        "real_uid": event.real_uid,
        "effective_uid": event.effective_uid,
        "real_gid": event.real_gid,
        "effective_gid": event.effective_gid,
        "login_uid": None if event.login_uid == NO_LOGIN_UID else event.login_uid,
        "session": event.session,
    }


def _never_named(event: ExecEvent) -> bool:
    """Whether the image is a memfd, or a file made by O_TMPFILE, by the names the kernel gives these."""
    path = event.path
    return path.startswith((b"/memfd:", b"memfd:")) or path.endswith(b"/#%d" % event.inode)


def _script(event: ExecEvent, invoked: str, path: str | None, argv: tuple[str, ...], cwd: str) -> str:
    """The absolute path of the script an interpreter runs; empty for none."""
    if not event.flags & INTERPRETED or invoked.startswith("/dev/fd/"):
        return script_path(path or "", argv, cwd)
    if invoked.startswith("/"):
        return invoked
    return f"{cwd.rstrip('/')}/{invoked.removeprefix('./')}" if cwd.startswith("/") else ""

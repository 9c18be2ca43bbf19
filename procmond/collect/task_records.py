"""Records of what the task iterator told. One rule: its facts in the words of /proc, so that one builder
makes every record; what changes whenever a process runs stands apart, so that the rest may be kept.
"""

from __future__ import annotations

import os
import struct
from typing import Final

import msgspec

from common.messages import ProcessStatus, Provenance
from procmond.collect.arguments import (
    MAX_KEPT_BYTES,
    NO_ARGUMENTS,
    NOT_SHOWN,
    Arguments,
    Presenter,
    Shown,
)
from procmond.collect.build import Builder, Reading
from procmond.collect.details import Details
from procmond.collect.images import NO_IMAGE, Image
from procmond.collect.procfs_parse import Stat
from procmond.collect.records import encode_exception, encode_record
from procmond.collect.sighting import Redact
from procmond.collect.text import text
from procmond.collect.users import Users
from procmond.events.facts import CWD_DELETED, HAS_CWD, KERNEL_THREAD, TaskFacts
from procmond.events.wire import lasting, parse_task

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_CREDENTIALS: Final = struct.Struct("=IIII").pack  # the form of handles.parse_credentials
_DELETED: Final = b" (deleted)"

_FROM_KERNEL: Final = encode_record({"provenance": Provenance.KERNEL})  # in place of the builder's PROC
_ARGUMENTS_FROM_PROC: Final = _FROM_KERNEL + encode_exception("command_line", Provenance.PROC)
"""What is made of the arguments, such as the script's name, comes from where they come from."""


class _Record(msgspec.Struct, frozen=True, gc=False):
    """An encoded record, and what it was made of."""

    facts: bytes
    """The iterator's."""
    image: Image
    arguments: Arguments
    names_version: int
    ppid: int
    name: str
    path: str | None
    accessible: bool
    payload: bytes
    """All but the environment, the processor usage and the time of collection."""
    lasting_bytes: int
    """Of the payload, what stays while only the counters change."""


_NO_RECORD: Final = _Record(b"", NO_IMAGE, NO_ARGUMENTS, -1, 0, "", None, False, b"", 0)


class Kept(msgspec.Struct, gc=False):
    """What is kept of a process's records from sweep to sweep."""

    shown: Shown = NOT_SHOWN
    specified: _Record = _NO_RECORD
    """With the specification's fields only."""
    full: _Record = _NO_RECORD


class TaskRecords:
    """Makes records, each part anew only when what it is made of has changed."""

    def __init__(self, boot_time: int, users: Users, redact: Redact | None) -> None:
        """`boot_time` in Unix seconds; `users` gives names, `redact` replaces secrets in arguments."""
        self._builder = Builder(boot_time, users)
        self._users = users
        self._presenter = Presenter(redact)

    def record(
        self, kept: Kept, facts: bytes, boot_ns: int, image: Image, arguments: Arguments, *, full: bool
    ) -> _Record:
        """The record of the process that the iterator told `facts` of at `boot_ns`.

        Raises:
            MalformedProc: a fact has a value that its field cannot hold.
        """
        record = kept.full if full else kept.specified
        if (
            record.facts is facts
            and record.image is image
            and record.arguments is arguments
            and record.names_version == self._users.version
        ):
            return record
        record = self._renew(record, kept, facts, boot_ns, image, arguments, full=full)
        if len(arguments.raw) <= MAX_KEPT_BYTES:
            if full:
                kept.full = record
            else:
                kept.specified = record
        return record

    def _renew(
        self,
        last: _Record,
        kept: Kept,
        facts: bytes,
        boot_ns: int,
        image: Image,
        arguments: Arguments,
        *,
        full: bool,
    ) -> _Record:
        task, version = parse_task(boot_ns, facts), self._users.version
        counters = _encode_counters(task, full=full)
        made_of = (image, arguments, version)
        if made_of == (last.image, last.arguments, last.names_version) and lasting(facts) == lasting(
            last.facts
        ):
            payload = last.payload[: last.lasting_bytes] + counters
            return msgspec.structs.replace(
                last, facts=facts, image=image, arguments=arguments, payload=payload
            )
        shown = self._show(kept, arguments.raw, image.path)
        reading = _reading(task, image, arguments)
        payload = self._builder.build(task.pid, _stat(task), reading, shown, full=full)
        if full:
            payload += _ARGUMENTS_FROM_PROC if arguments.raw and not arguments.length else _FROM_KERNEL
        return _Record(
            facts,
            *made_of,
            task.ppid,
            text(task.name),
            image.path,
            reading.accessible,
            payload + counters,
            len(payload),
        )

    def _show(self, kept: Kept, raw: bytes, path: str | None) -> Shown:
        shown = kept.shown
        if shown.raw != raw or shown.path != path:
            shown = self._presenter.show(raw, path)
            kept.shown = shown if len(raw) <= MAX_KEPT_BYTES else NOT_SHOWN
        return shown


def _encode_counters(task: TaskFacts, *, full: bool) -> bytes:
    """The part of a record that changes whenever the process runs."""
    memory_usage = task.resident_pages * _PAGE_BYTES
    if not full:
        return encode_record({"memory_usage": memory_usage})
    return encode_record({"memory_usage": memory_usage, "cpu_time_ns": task.cpu_ns, "status": task.status})


def _reading(task: TaskFacts, image: Image, arguments: Arguments) -> Reading:
    return Reading(
        b"",
        _CREDENTIALS(task.real_uid, task.real_gid, task.effective_uid, task.effective_gid),
        image,
        arguments,
        _details(task),
        task.parent_start_ticks if task.ppid else None,
    )


def _stat(task: TaskFacts) -> Stat:
    """Without counters: they are told apart, and in merging messages a number that is 0 replaces nothing."""
    return Stat(
        name=task.name,
        status=ProcessStatus.UNSPECIFIED,
        ppid=task.ppid,
        session=task.session,
        tty=task.tty,
        kernel_thread=bool(task.flags & KERNEL_THREAD),
        cpu_ticks=0,
        threads=task.threads,
        start_ticks=task.start_ticks,
        resident_pages=0,
        argument_bytes=task.argument_end - task.argument_start,
    )


def _details(task: TaskFacts) -> Details:
    cwd = b""
    if task.flags & HAS_CWD:
        cwd = task.cwd + _DELETED if task.flags & CWD_DELETED else task.cwd
    return Details(
        b"%d" % task.login_uid,
        cwd,
        b"0::" + task.cgroup,
        b"pid:[%d]" % task.pid_namespace,
        b"mnt:[%d]" % task.mount_namespace if task.mount_namespace else b"",
    )

"""An exec as one journal entry. One rule: a text is cut before it costs the line, and the cut is said.

Pure. Lengths are those of the encoded text, in which a character of a process's choosing may take 12 bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from common.limits import EXEC_ENTRY_BYTES, EXEC_TEXT_BYTES
from common.messages import HashState, ProcessEvent, ProcessRecord, Provenance

_HASH_FIELD = 9  # executable_hash in ProcessRecord
_ELLIPSIS = "..."


def exec_entry(record: ProcessRecord, parent: ProcessRecord | None) -> dict[str, object]:
    """The fields of an entry about a process and what it runs; `parent` is None when nothing is known of it.

    What is not known is left out, but for the facts a reader would look for first.
    """
    arguments, cut = _bounded(record.command_line)
    entry: dict[str, object] = {
        "pid": record.pid,
        "start_ticks": record.start_ticks,
        "ppid": record.ppid,
        "user": record.user_name or record.user_id,
        "uid": record.real_uid if record.user_id is not None else None,
        "image": _text(record.executable_path),
        "arguments": arguments,
        "sha256": record.executable_hash,
        "hash_provenance": hash_provenance(record),
        "parent_image": _text(parent.executable_path or parent.name) if parent is not None else None,
        "cwd": _text(record.cwd or None),
    }
    optional: dict[str, object | None] = {
        "effective_uid": record.effective_uid if record.effective_uid != record.real_uid else None,
        "login_uid": record.login_uid,
        "container": record.container_id or None,
        "invoked": _text(record.invoked_path) if _differs(record.invoked_path, record) else None,
        "script": _text(record.script_path or None),
        "arguments_bytes": record.command_line_length or None,
        "arguments_cut": True if cut or record.command_line_length else None,
        "hash_state": _hash_state(record),
        "memory_backed": record.memory_backed or None,
        "missing": _missing(record) or None,
    }
    return entry | {name: value for name, value in optional.items() if value is not None}


def exit_entry(event: ProcessEvent, record: ProcessRecord | None) -> dict[str, object]:
    """The fields of an entry about the end of a process; `record` is None when nothing is known of it."""
    return {
        "pid": event.pid,
        "start_ticks": event.start_ticks,
        "image": _text(record.executable_path) if record is not None else None,
        "exit_code": event.exit_code,
        "exit_signal": event.exit_signal,
        "run_time_ms": None if event.run_time_ns is None else event.run_time_ns // 1_000_000,
    }


def hash_provenance(record: ProcessRecord) -> str | None:
    """Where the hash comes from, as the schema's short name; None where there is no hash."""
    if not record.executable_hash:
        return None
    for item in record.exceptions:
        if item.field == _HASH_FIELD:
            return item.provenance.name.lower()
    return record.provenance.name.lower()


def _hash_state(record: ProcessRecord) -> str | None:
    if record.executable_hash or record.hash_state is HashState.UNSPECIFIED:
        return None
    return record.hash_state.name.lower()


def _missing(record: ProcessRecord) -> dict[str, str]:
    """Why facts are not there, by the schema's field name."""
    return {
        _FIELD_NAMES.get(item.field, str(item.field)): item.reason or "unknown"
        for item in record.exceptions
        if item.provenance is Provenance.MISSING
    }


def _differs(invoked: str, record: ProcessRecord) -> bool:
    return bool(invoked) and invoked != record.executable_path


def _bounded(arguments: Iterable[str]) -> tuple[list[str], bool]:
    """The first arguments that fit, the last of them cut; and whether anything is missing."""
    kept: list[str] = []
    room = EXEC_ENTRY_BYTES
    for argument in arguments:
        room -= 4  # quotes, comma, space
        text = _cut(argument, room)
        if text != argument:
            if text:
                kept.append(text)
            return kept, True
        kept.append(text)
        room -= len(json.dumps(text))
    return kept, False


def _text(text: str | None) -> str | None:
    return None if text is None else _cut(text, EXEC_TEXT_BYTES)


def _cut(text: str, room: int) -> str:
    """`text` if its encoding fits into `room` bytes, else what does with an ellipsis; empty if nothing."""
    if len(json.dumps(text)) <= room:
        return text
    kept = ""
    room -= len(_ELLIPSIS) + 2
    for character in text:
        room -= len(json.dumps(character)) - 2
        if room < 0:
            break
        kept += character
    return kept + _ELLIPSIS if kept else ""


# Numbers 1-17 and 100 onwards in the order of common.messages, as in proto/ipc.proto.
_FIELD_NAMES = dict(zip([*range(1, 18), *range(100, 133)], ProcessRecord.__struct_fields__, strict=True))

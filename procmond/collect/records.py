"""Building encoded ProcessRecords. One rule: with common/codec.py the only importer of common.pb.

This is the server's hot path, so facts go into the generated class without a value object between.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Final, TypedDict, Unpack

from common.messages import HashState, ProcessEventKind, ProcessStatus, Provenance
from common.pb import ipc_pb2 as pb
from procmond.collect.procfs_parse import MalformedProc


class Facts(TypedDict, total=False):
    """The fields of ProcessRecord that a collector fills, by their schema names; None leaves one unset."""

    pid: int
    ppid: int | None
    name: str
    executable_path: str | None
    command_line: tuple[str, ...]
    start_time: int | None
    cpu_usage: float | None
    memory_usage: int | None
    user_id: str | None
    accessible: bool
    file_exists: bool
    collection_time: int
    on_disk_mismatch: bool
    start_ticks: int
    parent_start_ticks: int | None
    status: ProcessStatus
    threads: int
    cpu_time_ns: int
    real_uid: int
    effective_uid: int
    real_gid: int
    effective_gid: int
    login_uid: int | None
    user_name: str
    session: int
    tty: str
    cwd: str
    cgroup: str
    container_id: str
    pid_namespace: int
    mount_namespace: int
    executable_device: int
    executable_inode: int
    is_kernel_thread: bool
    memory_backed: bool
    command_line_length: int
    command_line_blocked: bool
    redacted: bool
    provenance: Provenance
    script_path: str
    invoked_path: str
    reparented: bool | None


_SHORT: Final = (
    *(bytes((number,)) for number in range(0x80)),
    *(bytes((number & 0x7F | 0x80, number >> 7)) for number in range(0x80, 0x800)),
)
"""Varints of the lengths that nearly all events and records have: each event takes several."""


def varint(number: int) -> bytes:
    """A protobuf varint of a number that is not negative."""
    if number < 0x800:
        return _SHORT[number]
    if number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7))
    if number < 0x200000:
        return bytes((number & 0x7F | 0x80, number >> 7 & 0x7F | 0x80, number >> 14))
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def encode_record(
    facts: Facts,
    missing: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> bytes:
    """Encode one ProcessRecord, or a part of one: concatenated parts merge.

    `missing` maps names of fields that could not be obtained to the reason (`denied`, `cut`, ...), which
    becomes their FieldProvenance; `environment` maps variable names to values.

    Raises:
        MalformedProc: a fact has a value that its field cannot hold.
    """
    try:
        record = pb.ProcessRecord(**facts)  # type: ignore[arg-type]  # our enums are ints to protobuf
    except ValueError:
        raise MalformedProc("record") from None
    if missing:
        numbers = pb.ProcessRecord.DESCRIPTOR.fields_by_name
        for field, reason in missing.items():
            record.exceptions.add(
                field=numbers[field].number,
                provenance=Provenance.MISSING,
                reason=reason,
            )
    if environment:
        for name, value in environment.items():
            record.environment.add(name=name, value=value)
    return record.SerializeToString()


def lacks_arguments(record: bytes) -> bool:
    """Whether an encoded ProcessRecord has no argument vector and does not say why."""
    decoded = pb.ProcessRecord.FromString(record)
    number = pb.ProcessRecord.COMMAND_LINE_FIELD_NUMBER
    return not decoded.command_line and all(one.field != number for one in decoded.exceptions)


class HashFacts(TypedDict, total=False):
    """The hash fields of ProcessRecord, by their schema names."""

    executable_hash: str | None
    hash_algorithm: str | None
    hash_state: HashState


def encode_hash_facts(digests: Mapping[str, str] | None = None, **facts: Unpack[HashFacts]) -> bytes:
    """Encode what is appended to `Sighting.payload` once the hash engine has answered.

    `digests` maps further algorithms to lower-case hex. Callers leave `hash_state` and `digests` out where
    the peer asked for the specification's fields only.
    """
    record = pb.ProcessRecord(**facts)  # type: ignore[arg-type]  # our enums are ints to protobuf
    for algorithm, value in (digests or {}).items():
        record.digests.add(algorithm=algorithm, value=value)
    return record.SerializeToString()


_CPU_USAGE: Final = struct.Struct("<Bd").pack
_CPU_USAGE_TAG: Final = 7 << 3 | 1  # field 7, fixed 64 bits
_COLLECTION_TIME_TAG: Final = bytes([14 << 3])  # field 14, varint


def encode_moment(cpu_usage: float, collection_time: bytes) -> bytes:
    """Encode the two facts that differ in every sweep: percent of one core, and `encode_time`'s result."""
    return _CPU_USAGE(_CPU_USAGE_TAG, cpu_usage) + collection_time


def encode_time(milliseconds: int) -> bytes:
    """Encode collection_time, Unix milliseconds, not negative."""
    return _COLLECTION_TIME_TAG + varint(milliseconds)


class EventFacts(TypedDict, total=False):
    """The fields of ProcessEvent that only some kinds have, by their schema names; None leaves one unset."""

    parent_pid: int | None
    parent_start_ticks: int | None
    exit_code: int | None
    exit_signal: int | None
    run_time_ns: int | None


_EVENTS_TAG: Final = varint(105 << 3 | 2)  # DetectionResult.events, length-delimited
_SEQUENCE_TAG: Final = bytes([2 << 3])
_PROCESS_TAG: Final = bytes([7 << 3 | 2])
_EXCEPTIONS_TAG: Final = varint(129 << 3 | 2)


def encode_event(
    kind: ProcessEventKind,
    boot_ns: int,
    wall_ms: int,
    key: tuple[int, int],
    record: bytes,
    **facts: Unpack[EventFacts],
) -> bytes:
    """Encode a ProcessEvent without its sequence. `key` is (pid, start_ticks), `record` a ProcessRecord."""
    event = pb.ProcessEvent(
        kind=kind,  # type: ignore[arg-type]  # our enums are ints to protobuf
        boot_time_ns=boot_ns,
        wall_time_ms=wall_ms,
        pid=key[0],
        start_ticks=key[1],
        **facts,
    )
    return event.SerializeToString() + embed_record(record)


def encode_life(
    kind: ProcessEventKind,
    boot_ns: int,
    wall_ms: int,
    key: tuple[int, int],
    parent: tuple[int, int] | None,
    *,
    reparented: bool | None,
    forker: tuple[int, int] | None = None,
    ended: tuple[int, int] | None = None,
) -> bytes:
    """Encode an event of a process's life without its sequence; the rest of the record may be appended.

    `parent` is who it is under now, `forker` who forked it, `ended` the status, as wait(2) reports it, and
    the nanoseconds it ran.
    """
    pid, start_ticks = key
    event = pb.ProcessEvent(
        kind=kind,  # type: ignore[arg-type]  # our enums are ints to protobuf
        boot_time_ns=boot_ns,
        wall_time_ms=wall_ms,
        pid=pid,
        start_ticks=start_ticks,
    )
    place = event.process
    place.pid, place.start_ticks = pid, start_ticks
    if parent is not None:
        place.ppid, place.parent_start_ticks = parent
    if reparented is not None:
        place.reparented = reparented
    if forker is not None:
        event.parent_pid, event.parent_start_ticks = forker
    if ended is not None:
        status, event.run_time_ns = ended
        if status & 0x7F:
            event.exit_signal = status & 0x7F
        else:
            event.exit_code = status >> 8 & 0xFF
    return event.SerializeToString()


def embed_record(record: bytes) -> bytes:
    """A ProcessRecord, or a part of one, as it stands in a ProcessEvent: several merge."""
    return _PROCESS_TAG + varint(len(record)) + record


def encode_sequence(number: int) -> bytes:
    """What is appended to an encoded event once its number is known."""
    return _SEQUENCE_TAG + varint(number)


def join_events(events: Iterable[bytes]) -> bytes:
    """Encoded events as they stand in a DetectionResult."""
    pieces: list[bytes] = []
    for event in events:
        pieces += (_EVENTS_TAG, varint(len(event)), event)
    return b"".join(pieces)


def encode_exception(field: str, provenance: Provenance, reason: str = "") -> bytes:
    """The part of a ProcessRecord that says where one fact comes from; callers keep what is constant."""
    number = pb.ProcessRecord.DESCRIPTOR.fields_by_name[field].number
    exception = pb.FieldProvenance(field=number, provenance=provenance, reason=reason)  # type: ignore[arg-type]  # an int to protobuf
    raw = exception.SerializeToString()
    return _EXCEPTIONS_TAG + varint(len(raw)) + raw


def one_image_hashed(*, duration_us: int, boot_time: int) -> bytes:
    """The end of a complete answer about one image whose digests are known: success, and its summary."""
    summary = pb.CollectionSummary(executables_hashed=1, duration_us=duration_us, boot_time=boot_time)
    return pb.DetectionResult(success=True, summary=summary).SerializeToString()

"""Building encoded ProcessRecords. One rule: with common/codec.py the only importer of common.pb.

This is the server's hot path, so facts go into the generated class without a value object between.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final, TypedDict, Unpack

from common.messages import HashState, ProcessStatus, Provenance
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
    out = bytearray(_COLLECTION_TIME_TAG)
    while milliseconds > 0x7F:
        out.append(milliseconds & 0x7F | 0x80)
        milliseconds >>= 7
    out.append(milliseconds)
    return bytes(out)

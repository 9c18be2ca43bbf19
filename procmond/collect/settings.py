"""What the collector needs to know. One rule: plain values made by the supervisor before it forks."""

from __future__ import annotations

from typing import Literal

import msgspec


class CollectorSettings(msgspec.Struct, frozen=True):
    """How processes are looked at and what hashing may cost."""

    collector: Literal["auto", "bpf", "procfs", "psutil"]
    boot_time: int
    """Unix seconds; read once by the supervisor, so that start_time never jitters across collectors."""
    memory_device: int
    """st_dev of memfds, found while one could still be made."""
    max_frame_size: int
    redact_arguments: bool
    environment_variables: tuple[str, ...]
    hash_max_file_bytes: int
    hash_file_deadline_s: float
    hash_workers: int
    hash_cache_entries: int
    hash_budget_s: float
    """Seconds a sweep waits for cold hashes when its task does not say."""

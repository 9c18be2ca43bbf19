"""Process records for tests: plausible ones, and the means to vary them."""

from __future__ import annotations

from typing import Any

from common.messages import HashState, ProcessRecord, ProcessStatus

NOW = 1_800_000_000  # Unix seconds


def record(pid: int, **facts: Any) -> ProcessRecord:
    """A process as a server reports it with all facts; `facts` replace them."""
    name = facts.get("name", f"worker{pid}")
    defaults: dict[str, Any] = {
        "pid": pid,
        "ppid": 1,
        "name": name,
        "executable_path": f"/usr/bin/{name}",
        "command_line": (f"/usr/bin/{name}", "--serve"),
        "start_time": NOW - 3600 + pid,
        "cpu_usage": 0.5,
        "memory_usage": 1024 * pid,
        "executable_hash": f"{pid:064x}",
        "hash_algorithm": "sha256",
        "user_id": "1000",
        "accessible": True,
        "file_exists": True,
        "collection_time": NOW * 1000,
        "start_ticks": 100 * pid,
        "status": ProcessStatus.SLEEPING,
        "threads": 1,
        "real_uid": 1000,
        "effective_uid": 1000,
        "user_name": "alice",
        "executable_device": 8,
        "executable_inode": 1000 + pid,
        "hash_state": HashState.OK,
    }
    return ProcessRecord(**(defaults | facts))


def kernel_thread(pid: int, **facts: Any) -> ProcessRecord:
    """A process without image and arguments."""
    defaults: dict[str, Any] = {
        "name": "kworker/0:1",
        "executable_path": None,
        "command_line": (),
        "executable_hash": None,
        "hash_algorithm": None,
        "user_id": "0",
        "user_name": "root",
        "real_uid": 0,
        "effective_uid": 0,
        "executable_device": 0,
        "executable_inode": 0,
        "hash_state": HashState.NO_EXECUTABLE,
        "is_kernel_thread": True,
        "memory_usage": 0,
        "file_exists": False,
    }
    return record(pid, **(defaults | facts))

"""What a sweep found, in numbers. One rule: whatever is missing is counted with its reason.

Pure: records in, values out. The words and tables made of them are in `story`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from agent.cli.columns import state_words, user
from agent.inventory import Inventory
from common.messages import HashState, ProcessRecord, ProcessStatus

RECENT_S = 60  # a process this young is worth a look
TEMPORARY = ("/tmp/", "/var/tmp/", "/dev/shm/", "/run/user/")  # noqa: S108 - compared with, never written to
HOMES = ("/home/", "/root/")

ImageKey = tuple[int, int] | str


class Census(NamedTuple):
    """The numbers of one sweep."""

    processes: int
    kernel_threads: int
    zombies: int
    inaccessible: int
    executables: int  # distinct running images
    hashed: int  # of those
    unhashed: tuple[tuple[str, int], ...]  # distinct images without a hash, by reason, most frequent first
    unknown_images: tuple[tuple[str, int], ...]  # processes whose image could not be told, by reason
    users: int
    containers: int
    mismatched: int  # processes whose running image is not the file at its name


class Notable(NamedTuple):
    """A group of processes worth a person's look: same image, same user, same reasons."""

    record: ProcessRecord  # the oldest of them
    reasons: tuple[str, ...]
    number: int


class Changes(NamedTuple):
    """What differs between two sweeps."""

    started: tuple[ProcessRecord, ...]
    ended: int


def image_key(record: ProcessRecord) -> ImageKey | None:
    """What tells running images apart: device and inode, else the path; None if neither is known."""
    if record.executable_inode:
        return record.executable_device, record.executable_inode
    return record.executable_path


def take_census(records: Iterable[ProcessRecord]) -> Census:
    """The numbers of one sweep's records."""
    states: dict[ImageKey, HashState | None] = {}
    unknown: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    users: set[str] = set()
    containers: set[str] = set()
    for record in records:
        totals["processes"] += 1
        totals["kernel_threads"] += record.is_kernel_thread
        totals["zombies"] += record.status is ProcessStatus.ZOMBIE
        totals["inaccessible"] += not record.accessible
        totals["mismatched"] += record.on_disk_mismatch
        users.add(user(record))
        containers.add(record.container_id)
        key = image_key(record)
        if key is not None:
            if record.executable_hash:
                states[key] = None
            else:
                states.setdefault(key, record.hash_state)
        elif not record.is_kernel_thread and record.status is not ProcessStatus.ZOMBIE:
            unknown[_reason(record.hash_state)] += 1
    unhashed = Counter(_reason(state) for state in states.values() if state is not None)
    return Census(
        processes=totals["processes"],
        kernel_threads=totals["kernel_threads"],
        zombies=totals["zombies"],
        inaccessible=totals["inaccessible"],
        executables=len(states),
        hashed=len(states) - unhashed.total(),
        unhashed=tuple(unhashed.most_common()),
        unknown_images=tuple(unknown.most_common()),
        users=len(users - {"?"}),
        containers=len(containers - {""}),
        mismatched=totals["mismatched"],
    )


def reasons(record: ProcessRecord, now: float) -> tuple[tuple[int, str], ...]:
    """Why a process is worth a look: a weight and a few words for each reason; empty for most."""
    path = record.executable_path or ""
    found: list[tuple[int, str]] = []
    if record.memory_backed:
        found.append((100, "runs from memory, never on disk"))
    elif record.on_disk_mismatch:
        found.append((80, "replaced on disk") if record.file_exists else (90, "deleted from disk"))
    if record.command_line_blocked:
        found.append((75, "withholds its arguments"))
    if path.startswith(TEMPORARY):
        found.append((70, "runs from " + next(p for p in TEMPORARY if path.startswith(p)).rstrip("/")))
    elif path.startswith(HOMES):
        found.append((40, "runs from a home directory"))
    if record.effective_uid != record.real_uid:
        found.append((60, f"runs with uid {record.effective_uid}, started by {record.real_uid}"))
    if record.container_id:
        found.append((20, "in a container"))
    if not record.accessible:
        found.append((15, "not fully readable"))
    if record.start_time is not None and 0 <= now - record.start_time < RECENT_S:
        found.append((10, "new"))
    return tuple(found)


def most_notable(records: Iterable[ProcessRecord], now: float, limit: int) -> list[Notable]:
    """The `limit` groups with most reason to look, the heaviest first; kernel threads and zombies never.

    Where fewer have a reason, one process of each user not yet shown follows, the oldest first.
    """
    groups: dict[tuple[ImageKey | None, str, tuple[tuple[int, str], ...]], list[ProcessRecord]] = {}
    for record in records:
        if not record.is_kernel_thread and record.status is not ProcessStatus.ZOMBIE:
            groups.setdefault((image_key(record), user(record), reasons(record, now)), []).append(record)
    weighed = sorted(
        (
            (-sum(weight for weight, _ in why), min(map(_start, members)), why, members)
            for (_, _, why), members in groups.items()
        ),
        key=lambda group: group[:2],
    )
    chosen = [group for group in weighed if group[2]][:limit]
    users = {user(group[3][0]) for group in chosen}
    for group in weighed:
        if len(chosen) < limit and not group[2] and user(group[3][0]) not in users:
            users.add(user(group[3][0]))
            chosen.append(group)
    return [
        Notable(min(members, key=_start), tuple(words for _, words in why), len(members))
        for _, _, why, members in chosen
    ]


def longest_running(records: Iterable[ProcessRecord], limit: int) -> list[ProcessRecord]:
    """The `limit` oldest processes that have an executable; kernel threads are as old as the machine."""
    timed = [record for record in records if record.start_time is not None and not record.is_kernel_thread]
    return sorted(timed, key=_start)[:limit]


def largest(records: Iterable[ProcessRecord], limit: int) -> list[ProcessRecord]:
    """The `limit` processes with most resident memory, the largest first; those that have none never."""
    return sorted(
        (record for record in records if record.memory_usage),
        key=lambda record: (-(record.memory_usage or 0), record.pid),
    )[:limit]


def changes(before: Inventory, after: Inventory) -> Changes:
    """Processes that came and went between two sweeps, by identity and not by pid."""
    started = [record for key, record in after.records.items() if key not in before.records]
    return Changes(tuple(sorted(started, key=_start)), len(before.records.keys() - after.records.keys()))


def _reason(state: HashState) -> str:
    return "no reason given" if state is HashState.UNSPECIFIED else state_words(state)


def _start(record: ProcessRecord) -> tuple[int, int, int]:
    return record.start_time or 0, record.start_ticks, record.pid

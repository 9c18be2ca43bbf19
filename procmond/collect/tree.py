"""MONITOR_PROCESS_TREE: the processes under some roots, parents first. One rule: the order is settled from
pids alone before a record is made, so a tree costs no more memory than a list.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Mapping
from typing import NamedTuple

from common.messages import ProcessFilter
from procmond.collect.filters import compile_filter
from procmond.collect.handles import is_exhausted, read_file
from procmond.collect.procfs_parse import MalformedProc, parse_stat
from procmond.collect.request import Request
from procmond.collect.slices import Slicer
from procmond.collect.sweep import RecordWriter, Tools, wanted_by


class Link(NamedTuple):
    """Where one process hangs."""

    ppid: int
    start_ticks: int


def parents_first(links: Mapping[int, Link], roots: Collection[int]) -> list[int]:
    """The pids of the trees under `roots` (all trees when empty), each after its parent, else ascending.

    Somebody who started before its parent hangs there no more: the pid was re-used between two readings.
    """
    children: dict[int, list[int]] = {}
    tops: dict[int, None] = {}
    for pid in sorted(links):
        link = links[pid]
        parent = links.get(link.ppid)
        if parent is None or link.ppid == pid or parent.start_ticks > link.start_ticks:
            tops[pid] = None
        else:
            children.setdefault(link.ppid, []).append(pid)
    stack = list(reversed(tops))
    ordered: list[int] = []
    while stack:
        pid = stack.pop()
        ordered.append(pid)
        stack += reversed(children.get(pid, ()))
    if not roots:
        return ordered
    inside: dict[int, None] = {}
    for pid in ordered:
        if pid in roots or (links[pid].ppid in inside and pid not in tops):
            inside[pid] = None
    return list(inside)


async def read_links() -> dict[int, Link]:
    """Every process's parent and start, now."""
    slicer = Slicer()
    links: dict[int, Link] = {}
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        await slicer.breathe()
        try:
            stat = parse_stat(read_file(f"/proc/{name}/stat".encode()))
        except (OSError, MalformedProc) as error:
            if isinstance(error, OSError) and is_exhausted(error):
                raise
            continue  # ended meanwhile, or withheld
        links[int(name)] = Link(stat.ppid, stat.start_ticks)
    return links


async def monitor_tree(request: Request, tools: Tools) -> bytes:
    """Answer MONITOR_PROCESS_TREE without `live`; the last frame's records. Raises: InvalidTask, TooLarge."""
    task, tally = request.task, request.tally
    wanted = task.process_filter or ProcessFilter()
    chosen = compile_filter(
        ProcessFilter(process_names=wanted.process_names, executable_pattern=wanted.executable_pattern)
    )
    pids = parents_first(await read_links(), frozenset(wanted.pids))
    tally.seen = tally.vanished = len(pids)
    writer = RecordWriter(request, tools)
    slicer = Slicer()
    try:
        for sighting in tools.collector.sweep(wanted_by(task), pids):
            await slicer.breathe()
            if sighting is None:
                continue
            tally.vanished -= 1
            if chosen.matches(sighting.pid, sighting.name, sighting.executable_path):
                await writer.add(sighting)
        return await writer.finish()
    except asyncio.CancelledError:
        writer.abandon()
        raise

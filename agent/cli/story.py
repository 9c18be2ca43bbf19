"""The inventory that `up` prints, as lines. One rule: readable in one glance, and every number says of what.

Pure: a sweep in, lines out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from agent.cli.columns import View, columns_named, command, digest, executable, user
from agent.cli.escape import cut, escape
from agent.cli.human import age, clock, count, duration
from agent.cli.inventory import (
    Changes,
    Inventory,
    changes,
    largest,
    longest_running,
    most_notable,
    take_inventory,
)
from agent.cli.render import Cell, Heading, Screen, labelled, paint, table
from common.messages import CollectionSummary, ProcessRecord

SHORT_LIST = 5  # longest-running, largest
NOTABLE_LIST = 15  # with the rest of the inventory it fits on a screen of 50 lines
NAMES_PER_LINE = 3  # new processes named in a live line
NAME_COLUMNS = 24


class SweepView(NamedTuple):
    """One sweep as it is told."""

    records: tuple[ProcessRecord, ...]
    summary: CollectionSummary | None
    duration_s: float  # as the agent saw it
    now: float  # Unix seconds


def inventory_lines(sweep: SweepView, screen: Screen) -> Iterator[str]:
    """The first look: numbers, the longest-running, the largest, the most interesting."""
    view = View(now=sweep.now)
    yield from labelled(_numbers(take_inventory(sweep.records), sweep), screen)
    sections = (
        ("Longest running", ("pid", "user", "age", "mem", "hash", "command"), longest_running),
        ("Largest in memory", ("pid", "user", "mem", "age", "hash", "command"), largest),
    )
    for title, names, choose in sections:
        yield from ("", paint(title, "bold", screen))
        columns = columns_named(names)
        rows = [[c.cell(record, view) for c in columns] for record in choose(sweep.records, SHORT_LIST)]
        yield from table([column.heading for column in columns], rows, screen)
    yield from ("", paint("Most interesting", "bold", screen))
    yield from _notable_table(sweep, screen)


def live_line(number: int, sweep: SweepView, before: Sequence[ProcessRecord], screen: Screen) -> str:
    """One line for a later sweep: what it saw, how long it took, what came and went since `before`."""
    inventory = take_inventory(sweep.records)
    difference = changes(before, sweep.records)
    parts = [
        f"{clock(sweep.now)}  sweep {number}: {count(inventory.processes, 'process', 'processes')}",
        f"{inventory.hashed:,} of {count(inventory.executables, 'executable')} hashed",
        duration(sweep.duration_s),
        _came_and_went(difference),
    ]
    line = ", ".join(parts)
    return line if screen.width is None else cut(line, screen.width, screen.ellipsis)


def _numbers(inventory: Inventory, sweep: SweepView) -> Iterator[tuple[str, str]]:
    kinds = [
        count(number, word)
        for number, word in ((inventory.kernel_threads, "kernel thread"), (inventory.zombies, "zombie"))
        if number
    ]
    yield "Processes", f"{inventory.processes:,}" + _listed(kinds)
    yield "Executables", f"{inventory.executables:,} distinct"
    yield "  hashed", f"{inventory.hashed:,}"
    if inventory.unhashed:
        yield "  not hashed", _by_reason(inventory.unhashed)
    if inventory.unknown_images:
        yield "Image unknown", _by_reason(inventory.unknown_images)
    if inventory.mismatched:
        yield "Not as on disk", count(inventory.mismatched, "process", "processes")
    yield "Inaccessible", f"{inventory.inaccessible:,}"
    yield "Users", f"{inventory.users:,}"
    if inventory.containers:
        yield "Containers", f"{inventory.containers:,}"
    if sweep.summary is not None and sweep.summary.processes_vanished:
        yield "Vanished", f"{sweep.summary.processes_vanished:,} while being read"
    if sweep.summary is not None:
        for loss in sweep.summary.losses:
            yield "Lost", f"{loss.count:,} ({loss.reason})"
    yield "Sweep", duration(sweep.duration_s)


def _notable_table(sweep: SweepView, screen: Screen) -> Iterator[str]:
    headings = [
        Heading("PID", right=True),
        Heading("USER", elastic=True),
        Heading("AGE", right=True),
        Heading("SHA256"),
        Heading("WHY", elastic=True),
        Heading("EXECUTABLE", elastic=True),
    ]
    rows = []
    for notable in most_notable(sweep.records, sweep.now, NOTABLE_LIST):
        record = notable.record
        started = "?" if record.start_time is None else age(sweep.now - record.start_time)
        path = executable(record) if record.executable_path else command(record)
        rows.append(
            [
                Cell(str(record.pid)),
                Cell(user(record)),
                Cell(started),
                digest(record),
                Cell(
                    ", ".join(notable.reasons) or "first of its user", "yellow" if notable.reasons else "dim"
                ),
                Cell(path + (f" ({notable.number} processes)" if notable.number > 1 else "")),
            ]
        )
    yield from table(headings, rows, screen)


def _came_and_went(difference: Changes) -> str:
    text = f"+{len(difference.started)} -{difference.ended}"
    if not difference.started:
        return text
    named = [
        f"{cut(escape(record.name), NAME_COLUMNS)}[{record.pid}]"
        for record in difference.started[:NAMES_PER_LINE]
    ]
    more = len(difference.started) - len(named)
    return f"{text} ({' '.join(named)}{f' and {more} more' if more else ''})"


def _by_reason(counted: Sequence[tuple[str, int]]) -> str:
    return f"{sum(number for _, number in counted):,}" + _listed([f"{n:,} {reason}" for reason, n in counted])


def _listed(words: Sequence[str]) -> str:
    return f" ({', '.join(words)})" if words else ""

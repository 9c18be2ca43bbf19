"""The inventory that `up` prints, as lines. One rule: readable in one glance, and every number says of what.

Pure: a sweep in, lines out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agent.cli.census import Census, Changes, changes, largest, longest_running, most_notable, take_census
from agent.cli.columns import View, columns_named, command, digest, executable, user
from agent.cli.escape import cut, escape
from agent.cli.human import age, clock, count, duration
from agent.cli.render import Cell, Heading, Screen, labelled, paint, table
from agent.inventory import Inventory, SweepReport
from common.messages import ProcessRecord

SHORT_LIST = 5  # longest-running, largest
NOTABLE_LIST = 15  # with the rest of the inventory it fits on a screen of 50 lines
NAMES_PER_LINE = 3  # new processes named in a live line
NAME_COLUMNS = 24
REPORT_COLUMNS = (
    120  # where no terminal sets a width: this is a report to read, `ps` gives whole command lines
)


def inventory_lines(report: SweepReport, now: float, screen: Screen) -> Iterator[str]:
    """The first look: numbers, the longest-running, the largest, the most interesting. `now` is Unix time."""
    screen = screen._replace(width=screen.width or REPORT_COLUMNS)
    records = tuple(report.inventory.records.values())
    view = View(now=now)
    yield paint("First sweep", "bold", screen)
    yield from labelled(_numbers(take_census(records), report), screen)
    sections = (
        ("Longest running", ("pid", "user", "age", "mem", "hash", "command"), longest_running),
        ("Largest in memory", ("pid", "user", "mem", "age", "hash", "command"), largest),
    )
    for title, names, choose in sections:
        yield from ("", paint(title, "bold", screen))
        columns = columns_named(names)
        rows = [[column.cell(record, view) for column in columns] for record in choose(records, SHORT_LIST)]
        yield from table([column.heading for column in columns], rows, screen)
    yield from ("", paint("Most interesting", "bold", screen))
    yield from _notable_table(records, now, screen)


def live_line(number: int, report: SweepReport, before: Inventory, now: float, screen: Screen) -> str:
    """One line for a later sweep: what it saw, how long it took, what came and went since `before`."""
    census = take_census(report.inventory.records.values())
    parts = [
        f"{clock(now)}  sweep {number}: {count(census.processes, 'process', 'processes')}",
        f"{census.hashed:,} of {count(census.executables, 'executable')} hashed",
        duration(report.duration_s),
        _came_and_went(changes(before, report.inventory)),
    ]
    line = ", ".join(parts)
    return line if screen.width is None else cut(line, screen.width, screen.ellipsis)


def _numbers(census: Census, report: SweepReport) -> Iterator[tuple[str, str]]:
    kinds = [
        count(number, word)
        for number, word in ((census.kernel_threads, "kernel thread"), (census.zombies, "zombie"))
        if number
    ]
    yield "Processes", f"{census.processes:,}" + _listed(kinds)
    yield "Executables", f"{census.executables:,} distinct"
    yield "  hashed", f"{census.hashed:,}"
    yield "  not hashed", _by_reason(census.unhashed)
    if census.unknown_images:
        yield "Image unknown", _by_reason(census.unknown_images)
    if census.mismatched:
        yield "Not as on disk", count(census.mismatched, "process", "processes")
    yield "Inaccessible", f"{census.inaccessible:,}"
    yield "Users", f"{census.users:,}"
    if census.containers:
        yield "Containers", f"{census.containers:,}"
    summary = report.answer.summary
    if summary is not None:
        if summary.processes_vanished:
            yield "Vanished", f"{summary.processes_vanished:,} while being read"
        for loss in summary.losses:
            yield "Lost", f"{loss.count:,} ({loss.reason})"
    yield "Sweep", duration(report.duration_s)


def _notable_table(records: Sequence[ProcessRecord], now: float, screen: Screen) -> Iterator[str]:
    headings = [
        Heading("PID", right=True),
        Heading("ALIKE", right=True),
        Heading("USER", elastic=True),
        Heading("AGE", right=True),
        Heading("SHA256"),
        Heading("WHY", elastic=True),
        Heading("EXECUTABLE", elastic=True),
    ]
    rows = []
    for notable in most_notable(records, now, NOTABLE_LIST):
        record = notable.record
        started = "?" if record.start_time is None else age(now - record.start_time)
        # Of several whose image is unknown, the arguments of one say nothing about the others.
        alone = not record.executable_path and notable.number == 1
        path = command(record) if alone else executable(record)
        rows.append(
            [
                Cell(str(record.pid)),
                Cell(str(notable.number)),
                Cell(user(record)),
                Cell(started),
                digest(record),
                Cell(
                    ", ".join(notable.reasons) or "first of its user", "yellow" if notable.reasons else "dim"
                ),
                Cell(path),
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

"""`daemoneye tree --live`: the tree as it changes. One rule: a terminal shows the present, a pipe changes."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import time
from typing import NoReturn

from agent.cli.columns import View
from agent.cli.human import count
from agent.cli.lines import gap_text
from agent.cli.live import Events, follow, live_task, until_signal
from agent.cli.output import Output, complain
from agent.cli.ps import tree_table
from agent.cli.render import Screen, paint, table
from agent.cli.terminal import screen_of
from agent.cli.watch import Watch
from agent.client import Client
from agent.reconcile import Comparison
from agent.table import ProcessTable
from common.errors import ConfigError
from common.messages import DetectionTask, Gap, ProcessEvent, ProcessEventKind, ProcessFilter, ProcessRecord

REDRAW_S = 0.5  # seconds between two drawings: faster cannot be read

_ENTER = "\x1b[?1049h\x1b[?25l"  # the alternate screen, no cursor
_LEAVE = "\x1b[?25h\x1b[?1049l"
_HOME = "\x1b[H\x1b[J"


async def run_tree_live(client: Client, said: argparse.Namespace, output: Output) -> int:
    """Show the tree until a signal. Raises: ConfigError for a format that has an end; as `follow`."""
    if output.kind not in ("table", "jsonl"):
        raise ConfigError(f"--live has no end, {output.kind} needs one; use --format table or jsonl")
    task = live_task(ProcessFilter(pids=tuple(said.pid or ())), hashes=not said.no_hashes)
    if output.kind == "jsonl":
        return await until_signal(follow(client, task, Watch(output, (), snapshot=True).show))
    if not output.terminal:
        return await until_signal(follow(client, task, Changes(output, full=said.full).show))
    return await until_signal(_draw(client, task, output, full=said.full))


async def _draw(client: Client, task: DetectionTask, output: Output, *, full: bool) -> NoReturn:
    picture = Picture(output, full=full)
    try:
        await follow(client, task, picture.show)
    finally:
        picture.close()


class Tree:
    """The processes of a live stream, with all that is known of them."""

    def __init__(self) -> None:
        self.complete = False
        """A whole snapshot was seen."""
        self._table = ProcessTable()
        self._snapshot: Comparison | None = None

    def apply(self, event: ProcessEvent) -> None:
        """Take one event."""
        if event.kind is ProcessEventKind.SNAPSHOT and event.process is not None:
            if self._snapshot is None:
                self._snapshot = Comparison(self._table, event.boot_time_ns, told=True)
            self._snapshot.add(event.process, event.boot_time_ns)
        elif event.kind is ProcessEventKind.SNAPSHOT_END:
            if self._snapshot is not None:
                self._snapshot.finish()
            self._snapshot, self.complete = None, True
        else:
            self._table.apply(event)

    @property
    def records(self) -> list[ProcessRecord]:
        """All that run."""
        entries = (self._table.get(identity) for identity in self._table)
        return [entry.record for entry in entries if entry is not None]


class Changes:
    """For a pipe: the tree once, then a line for each change."""

    def __init__(self, output: Output, *, full: bool) -> None:
        self._output = output
        self._full = full
        self._tree = Tree()
        self._watch = Watch(output, (), snapshot=False)

    def show(self, events: Events, boot_id: str) -> None:
        """Print one batch."""
        for event in events:
            was_complete = self._tree.complete
            self._tree.apply(event)
            if self._tree.complete and not was_complete:
                view = View(now=time.time(), full=self._full)
                _, drawn = tree_table(self._tree.records, view, unicode=self._output.screen.unicode)
                self._output.lines(table(*drawn, self._output.screen))
        self._watch.show(events, boot_id)


class Picture:
    """For a terminal: the tree, drawn anew after changes, at most every REDRAW_S."""

    def __init__(self, output: Output, *, full: bool) -> None:
        self._output = output
        self._full = full
        self._tree = Tree()
        self._gaps: list[str] = []
        self._due: asyncio.TimerHandle | None = None
        self._drawn = False
        self._task = asyncio.current_task()

    def show(self, events: Events, _boot_id: str) -> None:
        """Take one batch, and draw if it is time."""
        for event in events:
            self._tree.apply(event)
            if event.kind is ProcessEventKind.GAP:
                self._gaps.append(gap_text(event.gap or Gap(), event))
                del self._gaps[:-3]
        if self._tree.complete and self._due is None:
            loop = asyncio.get_running_loop()
            self._due = loop.call_later(REDRAW_S if self._drawn else 0.0, self._draw)

    def close(self) -> None:
        """Give the terminal back, and say what was lost."""
        if self._due is not None:
            self._due.cancel()
        if self._drawn:
            self._output.text(_LEAVE)
        for gap in self._gaps:
            complain(gap)

    def _draw(self) -> None:
        self._due = None
        enter, self._drawn = "" if self._drawn else _ENTER, True
        screen = screen_of(self._output.stream, full=self._full)
        rows = shutil.get_terminal_size().lines
        lines = picture_lines(self._tree.records, self._gaps, time.time(), screen, rows, full=self._full)
        try:
            self._output.text(enter + _HOME + "\r\n".join(lines))
        except (asyncio.CancelledError, OSError):
            # A signal in a write that blocks, or a terminal that is gone: nobody else would hear of it here.
            if self._task is not None:
                self._task.cancel()


def picture_lines(
    records: list[ProcessRecord], gaps: list[str], now: float, screen: Screen, rows: int, *, full: bool
) -> list[str]:
    """At most `rows` lines: how many run, the last gaps, and the tree as far as it fits; `gaps` escaped."""
    _, drawn = tree_table(records, View(now=now, full=full), unicode=screen.unicode)
    head = [paint(count(len(records), "process", "processes"), "bold", screen)]
    head += [paint(gap, "red", screen) for gap in gaps]
    body = list(table(*drawn, screen))
    room = max(rows - len(head), 1)
    if len(body) > room:
        left_out = len(body) - room + 1
        body = [*body[: room - 1], paint(f"{left_out:,} more do not fit", "dim", screen)]
    return [*head, *body]

"""`daemoneye watch`: what happens, as it happens. One rule: a gap is always shown, whatever was asked for."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from copy import copy

from agent.cli.formats import plain
from agent.cli.kinds import KINDS
from agent.cli.lines import event_line
from agent.cli.live import Events, follow, live_task, until_signal
from agent.cli.output import Output
from agent.client import Client
from agent.table import ProcessTable, slim
from common.messages import ProcessEvent, ProcessEventKind, ProcessFilter

_SNAPSHOT = frozenset({ProcessEventKind.SNAPSHOT, ProcessEventKind.SNAPSHOT_END})


async def run_watch(client: Client, said: argparse.Namespace, output: Output) -> int:
    """Print events until a signal. Raises: as `follow`."""
    chosen = frozenset(KINDS[name] for name in said.kind or ())
    process_filter = ProcessFilter(
        process_names=tuple(said.name or ()), pids=tuple(said.pid or ()), executable_pattern=said.exe
    )
    wanted = chosen | _SNAPSHOT | {ProcessEventKind.GAP} if chosen else chosen
    watch = Watch(output, chosen, snapshot=said.snapshot)
    task = live_task(process_filter, sorted(wanted), hashes=not said.no_hashes)
    return await until_signal(follow(client, task, watch.show))


class Watch:
    """Prints batches of events; keeps what lines need to name ancestors."""

    def __init__(self, output: Output, chosen: Iterable[ProcessEventKind], *, snapshot: bool) -> None:
        """`chosen`: the kinds to show, none for all."""
        self._output = output
        self._chosen = frozenset(chosen)
        self._snapshot = snapshot
        self._table = ProcessTable(slim)

    def show(self, events: Events, boot_id: str) -> None:
        """Print one batch."""
        if self._output.kind == "table":
            lines = [line for event in events if (line := self._line(event)) is not None]
            if lines:
                self._output.lines(lines)
            return
        documents = [{"boot_id": boot_id, **plain(event)} for event in events if self._shows(event)]
        if documents:
            self._output.documents(documents)

    def _line(self, event: ProcessEvent) -> str | None:
        before = copy(self._table.get((event.pid, event.start_ticks)))  # the entry itself may change
        self._table.apply(event)
        return event_line(event, before, self._table, self._output.screen) if self._shows(event) else None

    def _shows(self, event: ProcessEvent) -> bool:
        if event.kind is ProcessEventKind.GAP:
            return True
        if event.kind in _SNAPSHOT:
            return self._snapshot
        return not self._chosen or event.kind in self._chosen

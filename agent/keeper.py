"""Keeps the table of processes true. One rule: what is put right is counted, with or without an excuse.

Snapshots come in the stream of events, sweeps from elsewhere; agent/reconcile.py compares both with the
table.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from agent.blind import BlindLog, Moment
from agent.control_messages import Repair
from agent.execlog import exec_entry
from agent.inventory import SweepReport
from agent.reconcile import Comparison, Repairs, reconcile
from agent.table import ProcessTable, slim
from common.limits import EVENT_SETTLE_S, MAX_REPAIRS_LISTED
from common.logs import get_logger
from common.messages import Gap, ProcessEvent, ProcessRecord

_log = get_logger(__name__)

UNEXPLAINED = "unexplained"


class Keeper:
    """The table, and what had to be put right in it. `log_execs`: programs found late are logged too."""

    def __init__(self, intervals: BlindLog, clock: Callable[[], Moment], *, log_execs: bool) -> None:
        self.table = ProcessTable(slim)
        self.log_execs = log_execs
        self.last: Repair | None = None
        """The last comparison."""
        self.repairs = 0
        self.unexplained = 0
        """Of `repairs`, those that no blind interval explains."""
        self.confession = ""
        """What the source of events says it lacks: a weaker one does not see every change of credentials."""
        self.compared_ns = 0
        """The table was last compared with what ran then (CLOCK_BOOTTIME)."""
        self._intervals = intervals
        self._clock = clock
        self._complete = False
        """The table was compared with all that runs, so what is not in it is news."""
        self._snapshot: Comparison | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._told_ns = 0
        """When the latest event that was told happened (CLOCK_BOOTTIME)."""
        self._heard = False
        """Whether any event was told since it was last waited for."""

    def heard(self, told_ns: int) -> None:
        """Events were told, the latest of `told_ns`."""
        self._told_ns, self._heard = told_ns, True

    def forget(self) -> None:
        """Another boot: identities mean nothing any more."""
        self.abandon_snapshot()
        self.stop()
        self.table.clear()
        self._complete = False

    def take_snapshot(self, event: ProcessEvent) -> None:
        """One process of a snapshot."""
        if event.process is None:
            return
        if self._timer is not None:
            self._finish_snapshot()  # the one before, of a stream that is gone
            self.stop()  # or a sweep from before, which says nothing any more
        if self._snapshot is None:
            self._snapshot = Comparison(self.table, event.boot_time_ns, told=True)
        self._snapshot.add(event.process, event.boot_time_ns)

    def end_snapshot(self) -> int | None:
        """All were shown; since when (CLOCK_BOOTTIME), or None if it had no process.

        Ends of processes it did not show any more follow right behind it, so it is compared a little later.
        """
        if self._snapshot is None:
            return None
        self._after_settling(self._finish_snapshot)
        return self._snapshot.began_ns

    def abandon_snapshot(self) -> None:
        """The stream ended; a snapshot that was not complete says nothing of what it did not show."""
        if self._timer is None:
            self._snapshot = None

    def swept(self, report: SweepReport) -> None:
        """A sweep is complete; it is compared once the events that were under way have arrived: a while
        later, or, as long as events come that are older than the sweep's end, when they no longer are.
        """
        # A snapshot that is under way says the same.
        if report.inventory.weak or self._snapshot is not None:
            return
        self._heard = False
        self._after_settling(partial(self._compare, report, self._clock().boot_ns))

    def stop(self) -> None:
        """Nothing happens later any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _after_settling(self, action: Callable[[], None]) -> None:
        self.stop()
        self._timer = asyncio.get_running_loop().call_later(EVENT_SETTLE_S, action)

    def _finish_snapshot(self) -> None:
        self.stop()
        snapshot, self._snapshot = self._snapshot, None
        if snapshot is not None:
            self._note(snapshot.finish(), "snapshot", snapshot.began_ns)

    def _compare(self, report: SweepReport, ended_ns: int) -> None:
        self._timer = None
        if self._heard and self._told_ns < ended_ns:
            self._heard = False
            self._after_settling(partial(self._compare, report, ended_ns))
            return
        repairs = reconcile(self.table, report.answer.processes, began_ns=report.began_ns)
        self._note(repairs, "sweep", report.began_ns)

    def _note(self, repairs: Repairs, found_by: str, began_ns: int) -> None:
        since_ns, self.compared_ns = self.compared_ns, began_ns
        confessed = bool(self.confession) and repairs.credentials_only
        explained = self._intervals.explains() or confessed or not repairs.number
        # What makes the table complete for the first time repairs nothing.
        if self._complete:
            self._count(repairs, explained=explained)
            if repairs.number:
                self._log(repairs, found_by, explained=explained)
            if not explained:
                self._intervals.add(
                    Gap(
                        reason=UNEXPLAINED,
                        count=repairs.number,
                        from_boot_time_ns=since_ns,
                        to_boot_time_ns=began_ns,
                    ),
                    self._clock(),
                )
        self._complete = True
        self._intervals.repair(began_ns)

    def _count(self, repairs: Repairs, *, explained: bool) -> None:
        self.last = Repair(
            time_ms=self._clock().wall_ms,
            started=len(repairs.started),
            ended=len(repairs.ended) + repairs.superseded,
            changed=len(repairs.changed),
            explained=explained,
        )
        self.repairs += repairs.number
        self.unexplained += 0 if explained else repairs.number

    def _log(self, repairs: Repairs, found_by: str, *, explained: bool) -> None:
        if self.log_execs:
            ran = [change.after for change in repairs.changed if "image" in change.what]
            for record in (*repairs.started, *ran):
                parent = self.table.known((record.ppid or 0, record.parent_start_ticks or 0))
                _log.info("exec_found", found_by=found_by, **exec_entry(record, parent))
        (_log.info if explained else _log.warning)(
            "table_repaired",
            found_by=found_by,
            explained=explained,
            started=len(repairs.started),
            ended=len(repairs.ended),
            changed=len(repairs.changed),
            superseded=repairs.superseded,
            started_pids=_listed(repairs.started),
            ended_pids=_listed(repairs.ended),
            changed_pids=_listed(tuple(change.after for change in repairs.changed)),
        )


def _listed(records: tuple[ProcessRecord, ...]) -> list[str]:
    """The first of them, each in a few words; names are at most 15 bytes."""
    return [f"{record.pid} {record.name}" for record in records[:MAX_REPAIRS_LISTED]]

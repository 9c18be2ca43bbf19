"""Facts read afterwards: whose they are."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

import pytest

from common.messages import ProcessEventKind, Provenance
from procmond.collect.sighting import Collector
from procmond.collect.users import Users
from procmond.events import connector_wire as wire
from procmond.events import found
from procmond.events.event import Event
from procmond.events.found import FoundEnricher
from procmond.events.proof import Prover
from procmond.events.table import ProcessTable
from tests.support.events import decoded

PID = 4242


class Looker:
    """Finds whoever has the number by the time of the look."""

    def __init__(self, start_ticks: int) -> None:
        self.sighting = SimpleNamespace(
            pid=PID,
            start_ticks=start_ticks,
            image=object(),
            name="later",
            executable_path="/bin/later",
            payload=b"",
        )

    def sweep(self, _wanted: object, _pids: object) -> Iterator[object]:
        yield self.sighting


def test_who_got_the_number_after_the_message_is_not_who_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(found, "read_stat", lambda _pid: None)  # gone when its fork is read
    told: list[Event] = []
    now_ns = time.monotonic_ns()
    next_holder = Looker(start_ticks=1 << 60)
    enricher = FoundEnricher(
        table=ProcessTable(),
        prover=cast(Prover, None),
        deliver=told.append,
        looker=cast(Collector, next_holder),
        users=Users(),
    )
    messages = [wire.Forked(0, 1, now_ns, PID, PID, 1), wire.Execed(0, 2, now_ns, PID, PID)]
    for step in enricher.prepare(messages, 0):
        step()
    _, ran = decoded([event.body for event in told])
    assert ran.kind is ProcessEventKind.EXEC
    assert ran.process is not None
    assert (ran.process.name, ran.process.executable_path, ran.process.command_line) == ("", None, ())
    assert {one.provenance for one in ran.process.exceptions} == {Provenance.MISSING}


@pytest.mark.parametrize("of_groups", [False, True])
def test_changed_ids_are_the_messages_though_the_process_is_gone(
    of_groups: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(found, "read_stat", lambda _pid: None)
    told: list[Event] = []
    enricher = FoundEnricher(
        table=ProcessTable(),
        prover=cast(Prover, None),
        deliver=told.append,
        looker=cast(Collector, Looker(start_ticks=1 << 60)),
        users=Users(),
    )
    enricher.beside(wire.ChangedIds(0, 1, time.monotonic_ns(), PID, PID, of_groups, 7, 8), 0)()
    (changed,) = decoded([event.body for event in told])
    record = changed.process
    assert record is not None
    if of_groups:
        assert (record.real_gid, record.effective_gid, record.user_id) == (7, 8, None)
    else:
        assert (record.real_uid, record.effective_uid, record.user_id) == (7, 8, "7")
    kernel = {one.field for one in record.exceptions if one.provenance is Provenance.KERNEL}
    missing = {one.field for one in record.exceptions if one.provenance is Provenance.MISSING}
    assert (kernel, missing) == (({107, 108}, {105}) if of_groups else ({105, 106}, {107}))

"""When a sweep is compared with what events told."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agent.answer import Answer
from agent.blind import BlindLog, Moment
from agent.inventory import Counts, SweepReport, take_inventory
from agent.keeper import Keeper
from tests.support import stories

SWEPT_NS = 10**10  # long after the process began


class Settled:
    """A sweep has ended at SWEPT_NS; `later` is what happens a while after."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.later: list[Callable[[], None]] = []
        monkeypatch.setattr(Keeper, "_after_settling", lambda _, action: self.later.append(action))
        self.keeper = Keeper(BlindLog(), lambda: Moment(SWEPT_NS, 0), log_execs=False)
        answer = Answer(processes=(stories.process(7),), boot_id=stories.BOOT_ID)
        self.keeper.swept(
            SweepReport(
                inventory=take_inventory(answer),
                answer=answer,
                counts=Counts(processes=1, new=1, gone=0, executables=1, hashed=1, inaccessible=0),
                duration_s=0.0,
                began_ns=SWEPT_NS - 500,
            )
        )

    def wait(self) -> bool:
        """A while passes; whether the sweep has been compared."""
        self.later.pop()()
        return len(self.keeper.table) == 1


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> Settled:
    return Settled(monkeypatch)


def test_where_no_events_come_none_are_waited_for(settled: Settled) -> None:
    assert settled.wait()
    assert not settled.later


def test_events_that_are_behind_the_sweep_are_waited_for(settled: Settled) -> None:
    for told_ns in range(SWEPT_NS - 300, SWEPT_NS - 290):
        settled.keeper.heard(told_ns)
        assert not settled.wait()
    settled.keeper.heard(SWEPT_NS)
    assert settled.wait()


def test_events_that_stop_coming_are_waited_for_no_longer(settled: Settled) -> None:
    settled.keeper.heard(SWEPT_NS - 300)
    assert not settled.wait()
    assert settled.wait()

"""Which sources are taken, in which order, and what is said of those that are not to be had."""

from __future__ import annotations

import pytest

from common.errors import ConfigError
from common.messages import EventSource
from procmond.events import choice, ebpf
from procmond.events.choice import CHOICES, open_sources
from procmond.events.ebpf import Reason, Unavailable

EBPF, CONNECTOR, POLLING = EventSource.EBPF, EventSource.PROCESS_CONNECTOR, EventSource.POLLING


@pytest.fixture(autouse=True)
def nothing_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ebpf, "load", lambda: Unavailable(Reason.NO_BTF, "no BTF"))
    monkeypatch.setattr(choice, "open_connector", lambda _passed, **_: "no acknowledgement")


def test_where_nothing_works_polling_does_and_says_why() -> None:
    opened = open_sources("auto")
    assert opened.chain == (POLLING,)
    assert opened.reason == "no eBPF: no BTF; no process connector: no acknowledgement"


@pytest.mark.parametrize("named", ["ebpf", "connector"])
def test_what_was_named_and_does_not_work_is_no_start(named: str) -> None:
    with pytest.raises(ConfigError, match=f"event_source: {named} does not work here: no"):
        open_sources(named)


def test_polling_that_was_named_needs_nothing() -> None:
    opened = open_sources("polling")
    assert (opened.chain, opened.reason) == ((POLLING,), "event_source is set to polling")


def test_every_choice_ends_with_what_always_works() -> None:
    assert {chain[-1] for chain in CHOICES.values()} == {POLLING}
    assert CHOICES["auto"] == tuple(sorted(CHOICES["auto"])) == (EBPF, CONNECTOR, POLLING)

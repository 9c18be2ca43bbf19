"""Which sources are taken, in which order, and what is said of those that are not to be had."""

from __future__ import annotations

import mmap
import socket

import pytest

from common.errors import ConfigError
from common.messages import EventSource
from procmond.events import choice, ebpf
from procmond.events.choice import CHOICES, open_sources
from procmond.events.connector import Connection
from procmond.events.ebpf import Programs, Reason, Unavailable
from procmond.events.libbpf import Libbpf

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


@pytest.mark.parametrize("named", ["auto", "ebpf"])
def test_credentials_that_ebpf_does_not_see_come_from_the_connector(
    named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = {"credentials": Unavailable(Reason.DENIED, "not permitted; libbpf says more")}
    with mmap.mmap(-1, mmap.PAGESIZE) as ledger:
        programs = Programs(Libbpf(), 0, 0, None, {}, (), missing, ledger)
        monkeypatch.setattr(ebpf, "load", lambda: programs)
        opened = open_sources(named)
        assert opened.reason.endswith("changes of credentials are not seen: not permitted")
        ours, theirs = socket.socketpair()
        asked: list[dict[str, bool]] = []

        def open_connector(_passed: object, **how: bool) -> Connection:
            asked.append(how)
            return Connection(ours, ledger, joined=True, narrowed=True)

        monkeypatch.setattr(choice, "open_connector", open_connector)
        opened = open_sources(named)
        assert opened.reason == "changes of credentials come from the process connector: not permitted"
        assert opened.chain == tuple(one for one in CHOICES[named])
        assert opened.connection is not None
        assert asked == [{"standby": True, "narrowed": True}]
        for each in (ours, theirs):
            each.close()


def test_every_choice_ends_with_what_always_works() -> None:
    assert {chain[-1] for chain in CHOICES.values()} == {POLLING}
    assert CHOICES["auto"] == tuple(sorted(CHOICES["auto"])) == (EBPF, CONNECTOR, POLLING)

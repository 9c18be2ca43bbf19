"""One procmond for the tests that only ask; tests that break something start their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.daemons import Client, Procmond
from tests.support.tracepoints import Tracepoints, tracepoints


@pytest.fixture(scope="package")
def procmond() -> Iterator[Procmond]:
    with Procmond() as running:
        yield running


@pytest.fixture
def client(procmond: Procmond) -> Iterator[Client]:
    with procmond.connect() as connected:
        yield connected


@pytest.fixture(scope="package")
def counters() -> Iterator[Tracepoints]:
    """What processes do, by the kernel's count."""
    with tracepoints() as found:
        yield found

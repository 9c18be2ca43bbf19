"""Programs in the kernel for the tests that need them; elsewhere these are skipped with the reason."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from procmond.events import ebpf


@pytest.fixture(scope="session")
def programs() -> Iterator[ebpf.Programs]:
    """The programs, loaded once; the test is skipped where this machine allows none."""
    if os.geteuid() != 0:
        pytest.skip("needs root: loading eBPF programs takes CAP_BPF and CAP_PERFMON")
    loaded = ebpf.load()
    if isinstance(loaded, ebpf.Unavailable):
        pytest.skip(f"no eBPF here: {loaded.reason}: {loaded.detail}")
    yield loaded
    loaded.close()

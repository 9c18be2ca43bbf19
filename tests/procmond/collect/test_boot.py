"""Which boot this is."""

from __future__ import annotations

from pathlib import Path

import psutil

from procmond.collect.boot import read_boot_id, read_boot_time


def test_the_boot_is_the_kernels() -> None:
    assert read_boot_id() == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert abs(read_boot_time() - psutil.boot_time()) <= 1


def test_where_proc_hides_it_there_is_no_id(tmp_path: Path) -> None:
    assert read_boot_id(str(tmp_path)) == ""

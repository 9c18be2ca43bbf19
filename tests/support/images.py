"""Real executables to run, replace and delete. One rule: every process made here is ended here."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

SLEEP = Path("/bin/sleep").resolve()


def copy_of_sleep(folder: Path, name: str = "sleeper") -> Path:
    """A copy of /bin/sleep with its execute bits."""
    target = folder / name
    shutil.copy(SLEEP, target)
    return target


@contextlib.contextmanager
def running(executable: Path | str, *, user: int | None = None) -> Iterator[int]:
    """The pid of a process that runs `executable` (a copy of sleep) until the block ends.

    `Popen` returns after the exec, so its image is there.
    """
    process = subprocess.Popen([str(executable), "300"], user=user)
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()

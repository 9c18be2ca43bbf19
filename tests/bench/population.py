"""Extra processes of mixed kinds. One rule: every process made here is ended here."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Final

COPIES: Final = 24
"""Distinct executables among them."""
_LONG: Final = ["--option", "x" * 40] * 25
_BATCH: Final = 500


def _spawn(count: int, folder: str) -> None:
    """In a helper process: start `count` mixed children, say so, wait for the end of input, end them."""
    executables = sorted(f"{folder}/{name}" for name in os.listdir(folder))
    children: list[subprocess.Popen[bytes] | int] = []
    for number in range(count):
        kind = number % 10
        executable = executables[number % len(executables)]
        if kind < 4:  # forked, not executed: as workers of a server
            pid = os.fork()
            if pid == 0:
                signal.pause()
                os._exit(0)
            children.append(pid)
            continue
        arguments = ["86400"]
        user = None
        if kind == 8:
            # sleep adds up its arguments; a shell that waits takes any
            executable, arguments = "/bin/sh", ["-c", "read line", *_LONG]
        elif kind == 9 and os.geteuid() == 0:
            user = 60_000 + number % 50
        children.append(
            subprocess.Popen(
                [executable, *arguments],
                stdin=subprocess.PIPE if kind == 8 else subprocess.DEVNULL,
                user=user,
                close_fds=False,
            )
        )
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()
    for child in children:
        os.kill(child if isinstance(child, int) else child.pid, signal.SIGKILL)
    os._exit(0)


@contextlib.contextmanager
def population(count: int) -> Iterator[None]:
    """`count` extra processes until the block ends."""
    folder = tempfile.mkdtemp(prefix="daemoneye-bench-")
    os.chmod(folder, 0o755)
    for number in range(COPIES):
        shutil.copy("/bin/sleep", f"{folder}/worker-{number:02}")
    # Several helpers, because each pipe to a shell costs a descriptor.
    helpers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.bench.population", str(min(_BATCH, count - start)), folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for start in range(0, count, _BATCH)
    ]
    try:
        for helper in helpers:
            assert helper.stdout is not None
            assert helper.stdout.readline() == "ready\n"
        yield
    finally:
        for helper in helpers:
            assert helper.stdin is not None
            assert helper.stdout is not None
            helper.stdin.close()
            helper.wait()
            helper.stdout.close()
        shutil.rmtree(folder)


if __name__ == "__main__":
    _spawn(int(sys.argv[1]), sys.argv[2])

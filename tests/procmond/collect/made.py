"""Processes made to be difficult. One rule: each says when it is ready, so no test sleeps to be right."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

from common.pb import ipc_pb2 as pb
from procmond.collect.handles import read_file
from procmond.collect.sighting import Collector, Sighting, Wanted
from tests.support.children import wait_until

_PRELUDE = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def must(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
def ready():
    os.write(1, b"r")
    os.read(0, 1)
"""

DESCEND = """
os.chdir(sys.argv[1])
for _ in range(30):
    os.mkdir("d" * 200)
    os.chdir("d" * 200)
"""
"""Goes where the kernel no longer tells the path: deeper than PATH_MAX."""


class Made:
    """A process that stands still at `ready()`."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.pid = process.pid

    def go_on(self) -> None:
        """Let it run to its next `ready()`."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"g")
        self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until it stands still."""
        assert self.process.stdout is not None
        assert self.process.stdout.read(1) == b"r", "the process ended before it was ready"


@contextlib.contextmanager
def started(arguments: list[str], executable: str | None = None) -> Iterator[Made]:
    """A program that runs already; ended with the block."""
    process = subprocess.Popen(
        arguments, executable=executable, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    )
    try:
        yield Made(process)
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def made(code: str, *arguments: str) -> Iterator[Made]:
    """A Python process that runs `code` and stands at the first `ready()` in it."""
    whole = _PRELUDE + textwrap.dedent(code)
    with started([sys.executable, "-I", "-S", "-c", whole, *arguments]) as process:
        process.wait_ready()
        yield process


@contextlib.contextmanager
def leaderless(code: str = "", *arguments: str, first: str = "") -> Iterator[Made]:
    """A Python process whose first thread ran `first` and has ended; another ran `code` and stands still."""
    whole = f"""
{textwrap.dedent(first)}
import threading
def live():
{textwrap.indent(textwrap.dedent(code), "    ")}
    ready()
threading.Thread(target=live).start()
libc.pthread_exit(None)
"""
    with made(whole, *arguments) as process:
        wait_until(lambda: b") Z " in read_file(b"/proc/%d/stat" % process.pid), "the first thread's end")
        yield process


@contextlib.contextmanager
def deep_image(folder: Path, program: Path) -> Iterator[Made]:
    """A process that runs `program` by a name deeper in `folder` than the kernel tells."""
    code = 'os.link(sys.argv[2], "program"); ready(); os.execv("./program", ["program", "300"])'
    with made(DESCEND + code, str(folder), str(program)) as process:
        assert process.process.stdin is not None
        process.process.stdin.write(b"g")
        while os.stat(f"/proc/{process.pid}/exe").st_ino != program.stat().st_ino:
            pass
        yield process


def seen(collector: Collector, pid: int, wanted: Wanted | None = None) -> Sighting:
    """The one sighting of `pid` in a whole sweep."""
    (sighting,) = [s for s in collector.sweep(wanted or Wanted(full=True), None) if s and s.pid == pid]
    return sighting


def record_of(sighting: Sighting) -> pb.ProcessRecord:
    """What a client decodes."""
    return pb.ProcessRecord.FromString(sighting.payload)


def look(collector: Collector, pid: int, wanted: Wanted | None = None) -> pb.ProcessRecord:
    """The record of `pid` in a whole sweep."""
    return record_of(seen(collector, pid, wanted))

"""The real procmond for tests: started as a process of its own, observed through /proc and its socket."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from common import codec, framing
from common.messages import DetectionResult, DetectionTask

T = TypeVar("T")
LET_US_IN = () if os.geteuid() == 0 else ("--allow-user", "root", str(os.geteuid()))
"""By default procmond answers root; a flag given after this one replaces it."""
WRAPPER = shlex.split(os.environ.get("DAEMONEYE_TEST_WRAPPER", ""))
"""A command that runs procmond's, such as a tracer, and stays neither its parent nor in its place."""
START_TIMEOUT_S = 20.0
ANSWER_TIMEOUT_S = 20.0


def public_directory() -> str:
    """A new directory of ours that other users may enter but not write to."""
    path = tempfile.mkdtemp(prefix="daemoneye-test-")
    os.chmod(path, 0o755)
    return path


class Procmond:
    """One procmond on a socket of its own."""

    program: tuple[str, ...] = ("-m", "procmond.main")
    """What the interpreter runs."""

    def __init__(self, *arguments: str, environment: dict[str, str] | None = None) -> None:
        self.directory = public_directory()
        self.socket = f"{self.directory}/procmond.sock"
        self._log = f"{self.directory}/log"
        self._arguments = arguments
        self._environment = environment or {}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Start it and wait until it says that it is ready."""
        notify = f"{self.directory}/notify"
        arguments = ["--socket", self.socket, *LET_US_IN, *self._arguments]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
            listener.bind(notify)
            listener.settimeout(START_TIMEOUT_S)
            with open(self._log, "ab") as log:
                self.process = subprocess.Popen(
                    [*WRAPPER, sys.executable, *self.program, *arguments],
                    stderr=log,
                    env={**os.environ, **self._environment, "NOTIFY_SOCKET": notify},
                )
            try:
                while b"READY=1" not in listener.recv(4096):
                    pass
            except TimeoutError:
                raise AssertionError(f"procmond did not start:\n{self.log_text()}") from None
            finally:
                os.unlink(notify)
        return self

    def stop(self) -> int:
        """SIGTERM, and its exit status; it promises to be gone within 5 s."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(timeout=10)

    def close(self) -> None:
        """Whatever state it is in, nothing of it is left."""
        if self.process is not None:
            children = self.children() if self.process.poll() is None else {}
            if self.process.poll() is None:
                self.process.terminate()
                try:
                    self.process.wait(timeout=10)
                except subprocess.TimeoutExpired:
                    self.process.kill()
                    self.process.wait()
            for pid in children.values():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Of the supervisor."""
        assert self.process is not None
        return self.process.pid

    def log_text(self) -> str:
        """Everything it logged so far."""
        return Path(self._log).read_text()

    def log(self, event: str) -> list[dict[str, Any]]:
        """The log lines of one event so far."""
        lines = [json.loads(line) for line in self.log_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    def children(self) -> dict[str, int]:
        """Pids of the children now, by name."""
        newest: dict[str, int] = {}
        for line in self.log("child_started"):
            newest[line["child"]] = line["pid"]
        return {name: pid for name, pid in newest.items() if os.path.exists(f"/proc/{pid}")}

    def memory_kib(self) -> int:
        """Proportional share of all its processes, KiB."""
        return sum(_pss_kib(pid) for pid in (self.pid, *self.children().values()))

    def connect(self) -> Client:
        """A raw connection."""
        return Client(self.socket)


def _pss_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise AssertionError("no Pss line")


class Client:
    """A blocking peer that can also misbehave."""

    def __init__(self, path: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(ANSWER_TIMEOUT_S)
        self.sock.connect(path)
        self._decoder = framing.FrameDecoder()
        self._waiting: list[bytes] = []

    def send(self, *tasks: DetectionTask) -> None:
        """Send tasks, in one write."""
        self.sock.sendall(b"".join(framing.encode_frame(codec.encode_task(task)) for task in tasks))

    def receive(self) -> DetectionResult | None:
        """The next result; None at the end of the stream."""
        while not self._waiting:
            try:
                data = self.sock.recv(1 << 16)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self._waiting += self._decoder.feed(data)
        return codec.decode_result(self._waiting.pop(0))

    def answer(self) -> list[DetectionResult]:
        """All frames of the next answer, when only one is under way."""
        frames: list[DetectionResult] = []
        while True:
            frame = self.receive()
            assert frame is not None, f"the connection ended after {len(frames)} frames"
            frames.append(frame)
            if not frame.more:
                return frames

    def ask(self, task: DetectionTask) -> list[DetectionResult]:
        """Send one task and take its whole answer."""
        self.send(task)
        return self.answer()

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def as_user(uid: int, gid: int, work: Callable[[], T], groups: tuple[int, ...] = ()) -> T:
    """Run `work` in a forked child with these ids, and return what it returns (or raise what it raises).

    A fork, because another user may not be able to read the interpreter's files: import first.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reader)
            os.setgroups(list(groups))
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            try:
                result: object = (True, work())
            except BaseException as error:
                result = (False, error)
            with os.fdopen(writer, "wb") as stream:
                stream.write(pickle.dumps(result))
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        data = stream.read()
    _, ended = os.waitpid(pid, 0)
    assert data, f"the child said nothing; wait status {ended}"
    done, value = pickle.loads(data)
    if not done:
        raise value
    result_value: T = value
    return result_value


def eventually(check: Callable[[], T], timeout_s: float = 10.0) -> T:
    """Poll until `check` returns something true. For what happens in other processes only."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = check()
        if value:
            return value
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


_SLEEPERS: Final = """
import os, sys
pids = []
for _ in range(int(sys.argv[1])):
    pid = os.fork()
    if not pid:
        os.close(1)
        os.read(0, 1)
        os._exit(0)
    pids.append(pid)
os.write(1, b"%d\\n" % len(pids))
os.write(1, "".join(f"{pid}\\n" for pid in pids).encode())
os.read(0, 1)
for pid in pids:
    os.waitpid(pid, 0)
"""
"""Forks from a small process: a test runner with its coverage would take minutes to fork thousands."""


@contextlib.contextmanager
def sleepers(count: int) -> Iterator[list[int]]:
    """`count` extra processes that sleep until the end of the block, forked cheaply."""
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _SLEEPERS, str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        try:
            assert int(parent.stdout.readline()) == count
            yield [int(parent.stdout.readline()) for _ in range(count)]
        finally:
            parent.stdin.close()
            parent.wait()

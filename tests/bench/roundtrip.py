"""A small task there and back, against a bare uvloop echo between two processes over a Unix socket."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import uvloop

from common import codec, limits
from common.framing import encode_frame
from common.messages import HashCheck, new_hash_check_task
from tests.bench.measure import Figure, Report, percentile
from tests.support.daemons import Client, Procmond, public_directory

_BATCH: Final = 200
"""Round trips of one contender before the other's turn."""
_TARGET: Final = os.path.realpath("/bin/true")
_PIPELINED: Final = 16
_HEADER: Final = limits.FRAME_HEADER_BYTES


class _Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(data)  # type: ignore[attr-defined]  # a transport that writes


@contextmanager
def _echo_server() -> Iterator[tuple[str, int]]:
    path = f"{public_directory()}/echo.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    pid = os.fork()
    if pid == 0:

        async def serve() -> None:
            server = await asyncio.get_running_loop().create_unix_server(_Echo, sock=listener)
            await server.serve_forever()

        uvloop.run(serve())
        os._exit(0)
    listener.close()
    try:
        yield path, pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _there_and_back(sock: socket.socket, frame: bytes) -> bytes:
    """One frame out, one whole frame back; its payload. All that a client of either contender has to do."""
    sock.sendall(frame)
    data = sock.recv(65536)
    while len(data) < _HEADER or len(data) < _HEADER + int.from_bytes(data[:4], "little"):
        data += sock.recv(65536)
    return data[_HEADER:]


def _timed(trip: Callable[[], None]) -> list[float]:
    times = []
    for _ in range(_BATCH):
        began = time.perf_counter()
        trip()
        times.append(time.perf_counter() - began)
    return times


class _Contenders:
    """The same frame to both, on connections that stay open."""

    def __init__(self, echo: socket.socket, echo_pid: int, procmond: Procmond) -> None:
        self.echo = echo
        self.echo_pid = echo_pid
        self.procmond = procmond
        self.client: Client = procmond.connect()
        self.task = new_hash_check_task("task-0001", HashCheck(executable_path=_TARGET))
        self.frame = encode_frame(codec.encode_task(self.task))
        self.answered: list[bytes] = []

    def bare(self) -> None:
        _there_and_back(self.echo, self.frame)

    def ours(self) -> None:
        self.answered.append(_there_and_back(self.client.sock, self.frame))

    def decoded(self) -> None:
        assert self.client.ask(self.task)[0].success

    def pipelined(self) -> None:
        self.client.send(
            *(
                new_hash_check_task(f"p{number}", HashCheck(executable_path=_TARGET))
                for number in range(_PIPELINED)
            )
        )
        for _ in range(_PIPELINED):
            result = self.client.receive()
            assert result is not None
            assert result.success

    def place(self, home: set[int], away: set[int]) -> None:
        """Where each process runs; one that waits for another on a different processor waits longer."""
        children = self.procmond.children()
        for pid, where in (
            (os.getpid(), home),
            (self.echo_pid, away),
            (children["front"], away),
            (children["collector"], home),
        ):
            os.sched_setaffinity(pid, where)

    def rounds(self, count: int, *names: str) -> dict[str, list[float]]:
        """Seconds of each trip, by contender; one round more than `count` is run first, for nothing."""
        times: dict[str, list[float]] = {name: [] for name in names}
        for number in range(count + 1):
            for name in names:
                taken = _timed(getattr(self, name))
                if number:
                    times[name] += taken
            assert all(codec.decode_result(payload).success for payload in self.answered)
            self.answered.clear()
        return times


def measure(_processes: int, rounds: int) -> list[Report]:
    """p50 and p99 of both, on one processor and across two, and tasks a second when pipelined."""
    everywhere = os.sched_getaffinity(0)
    home, away = min(everywhere), max(everywhere)
    with (
        _echo_server() as (path, echo_pid),
        socket.socket(socket.AF_UNIX) as echo,
        Procmond() as procmond,
    ):
        echo.connect(path)
        contenders = _Contenders(echo, echo_pid, procmond)
        try:
            contenders.place({home}, {home})
            near = contenders.rounds(rounds, "bare", "ours", "decoded")
            contenders.place({home}, {away})
            far = contenders.rounds(rounds, "bare", "ours")
        finally:
            contenders.place(everywhere, everywhere)
        free = contenders.rounds(rounds, "bare", "ours", "pipelined")
        contenders.client.close()
    return [
        Report(
            "round trip of a cached hash check",
            (
                *_figures("on one processor", near, 12),
                *_figures("every hop to another processor", far, 12),
                *_figures("left to the scheduler", free, None),
                Figure(
                    "with the client's codec, on one processor / echo",
                    _half(near["decoded"], near["bare"]),
                    "ratio",
                ),
                Figure(
                    f"tasks a second, {_PIPELINED} in flight",
                    _PIPELINED / percentile(free["pipelined"], 50),
                    "1/s",
                ),
            ),
        )
    ]


def _half(ours: list[float], bare: list[float]) -> float:
    return percentile(ours, 50) / percentile(bare, 50)


def _figures(where: str, times: dict[str, list[float]], target: float | None) -> Iterator[Figure]:
    ours, bare = times["ours"], times["bare"]
    yield Figure(f"p50, {where}: procmond / echo", _half(ours, bare), "ratio", target)
    yield Figure(f"p99, {where}: procmond / echo", percentile(ours, 99) / percentile(bare, 99), "ratio")
    for name, taken in (("procmond", ours), ("echo", bare)):
        yield Figure(f"p50, {where}: {name}", percentile(taken, 50) * 1e6, "us")

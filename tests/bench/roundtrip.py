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
def _echo_server() -> Iterator[str]:
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
        yield path
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


def measure(_processes: int, rounds: int) -> list[Report]:
    """p50 and p99 of both, and tasks a second when pipelined."""
    with _echo_server() as path, socket.socket(socket.AF_UNIX) as echo, Procmond() as procmond:
        echo.connect(path)
        client: Client = procmond.connect()
        task = new_hash_check_task("task-0001", HashCheck(executable_path=_TARGET))
        frame = encode_frame(codec.encode_task(task))

        def bare() -> None:
            _there_and_back(echo, frame)

        def ours() -> None:
            answered.append(_there_and_back(client.sock, frame))

        def decoded() -> None:
            assert client.ask(task)[0].success

        def pipelined() -> None:
            client.send(
                *(
                    new_hash_check_task(f"p{number}", HashCheck(executable_path=_TARGET))
                    for number in range(_PIPELINED)
                )
            )
            for _ in range(_PIPELINED):
                result = client.receive()
                assert result is not None
                assert result.success

        answered: list[bytes] = []
        times: dict[str, list[float]] = {"echo": [], "procmond": [], "decoded": [], "pipelined": []}
        for number in range(rounds + 1):
            found = {
                "echo": _timed(bare),
                "procmond": _timed(ours),
                "decoded": _timed(decoded),
                "pipelined": _timed(pipelined),
            }
            assert all(codec.decode_result(payload).success for payload in answered)
            answered.clear()
            if number:
                for name, taken in found.items():
                    times[name] += taken
        client.close()
    half = {name: percentile(taken, 50) for name, taken in times.items()}
    tail = {name: percentile(taken, 99) for name, taken in times.items()}
    return [
        Report(
            "round trip of a cached hash check",
            (
                Figure("p50, procmond / echo", half["procmond"] / half["echo"], "ratio", 12),
                Figure("p99, procmond / echo", tail["procmond"] / tail["echo"], "ratio"),
                Figure("p50, with the client's codec / echo", half["decoded"] / half["echo"], "ratio"),
                Figure("p50, procmond", half["procmond"] * 1e6, "us"),
                Figure("p99, procmond", tail["procmond"] * 1e6, "us"),
                Figure("p50, echo", half["echo"] * 1e6, "us"),
                Figure("p99, echo", tail["echo"] * 1e6, "us"),
                Figure(f"tasks a second, {_PIPELINED} in flight", _PIPELINED / half["pipelined"], "1/s"),
            ),
        )
    ]

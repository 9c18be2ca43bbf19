"""Where the time of an enumeration goes. One rule: each step is the difference of two measured runs.

The steps are nested: the same reads in Python, then the collector's whole sweep (reads, parsing, building
records), then the answer's frames as the collector sends them, then the way through the front to a client
that takes bytes, then the client's decoding.
"""

from __future__ import annotations

import asyncio
import os

from common import codec, framing
from common.messages import new_enumerate_task
from procmond.collect.guard import Guard
from procmond.collect.known_answers import KnownAnswers
from procmond.collect.lanes import HashLanes, make_lanes
from procmond.collect.mounts import find_memory_device
from procmond.collect.procfs import ProcfsCollector
from procmond.collect.redaction import redact
from procmond.collect.request import Request
from procmond.collect.sighting import Wanted
from procmond.collect.sweep import Tools, enumerate_processes
from procmond.link import Kind
from tests.bench.measure import Figure, Report, alternate
from tests.bench.population import population
from tests.support.daemons import Procmond
from tests.support.feeds import make_feed

_TASK = new_enumerate_task("split", stream=True)


def _read_all() -> None:
    """stat, status, cmdline and the image of every process, by path, nothing kept."""
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        try:
            for file in ("stat", "status", "cmdline"):
                descriptor = os.open(f"/proc/{name}/{file}", os.O_RDONLY | os.O_CLOEXEC)
                os.read(descriptor, 65536)
                os.close(descriptor)
            os.readlink(f"/proc/{name}/exe")
            os.stat(f"/proc/{name}/exe")
        except OSError:
            continue


def measure(processes: int, rounds: int) -> list[Report]:
    """Milliseconds of each step, warm."""
    collector = ProcfsCollector(redact)
    with population(processes), Procmond("--collector", "procfs") as procmond, asyncio.Runner() as runner:

        async def make_engine() -> HashLanes:
            return make_lanes(
                workers=2,
                max_file_bytes=2**29,
                file_deadline_s=20.0,
                cache_entries=1024,
                memory_device=find_memory_device(),
            )

        engine = runner.run(make_engine())
        tools = Tools(collector, engine, Guard(), 5.0, make_feed(engine), KnownAnswers())

        def sweep() -> None:
            for _ in collector.sweep(Wanted(), None):
                pass

        def frames() -> None:
            sent: list[bytes] = []

            def write(kind: Kind, number: int, body: bytes) -> None:
                sent.append(body)
                request.grant()

            request = Request(1, _TASK, administrator=True, frame_limit=2**20 - 256, write=write)
            runner.run(enumerate_processes(request, tools))

        with procmond.connect() as client:

            def take(decode: bool) -> None:
                client.sock.sendall(framing.encode_frame(codec.encode_task(_TASK)))
                decoder = framing.FrameDecoder()
                more = True
                while more:
                    for payload in decoder.feed(client.sock.recv(1 << 20)):
                        # The front's own fields stand at the end: sequence, then `more` if it is set.
                        more = payload.endswith(b"\xa0\x06\x01") or b"\xa0\x06\x01" in payload[-8:]
                        if decode:
                            codec.decode_result(payload)

            series = alternate(
                {
                    "reads in Python": _read_all,
                    "sweep": sweep,
                    "frames": frames,
                    "bytes at the client": lambda: take(False),
                    "decoded": lambda: take(True),
                },
                rounds,
            )
    runner.close()
    half = {name: one.median * 1e3 for name, one in series.items()}
    return [
        Report(
            f"where an enumeration's time goes, {processes} extra processes, the specification's facts",
            (
                Figure("the plain reads, in Python", half["reads in Python"], "ms", note="for comparison"),
                Figure("sweep: read, parse, build", half["sweep"], "ms"),
                Figure("frames: hashes, encode", half["frames"] - half["sweep"], "ms"),
                Figure("relay and sockets", half["bytes at the client"] - half["frames"], "ms"),
                Figure("decode", half["decoded"] - half["bytes at the client"], "ms"),
                Figure("end to end", half["decoded"], "ms"),
            ),
        )
    ]

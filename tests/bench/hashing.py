"""Hashing every executable there is, against `openssl dgst -sha256` over the same files."""

from __future__ import annotations

import asyncio
import functools
import os
import stat
import subprocess

from procmond.collect.digest import READ_ONLY, identity_of
from procmond.collect.hashing import HashEngine
from tests.bench.measure import Figure, Report, alternate


def _files() -> list[str]:
    """What runs and everything in /usr/bin, each file once."""
    names = [f"/usr/bin/{name}" for name in os.listdir("/usr/bin")]
    names += [f"/proc/{name}/exe" for name in os.listdir("/proc") if name.isdecimal()]
    found: dict[tuple[int, int], str] = {}
    for name in names:
        try:
            status = os.stat(name)
            path = os.path.realpath(name)
            same = os.stat(path)
        except OSError:
            continue
        if stat.S_ISREG(status.st_mode) and (same.st_dev, same.st_ino) == (status.st_dev, status.st_ino):
            found[(status.st_dev, status.st_ino)] = path
    return sorted(found.values())


async def _hash_all(engine: HashEngine, files: list[str]) -> None:
    reads = [
        engine.submit(functools.partial(os.open, name, READ_ONLY), identity_of(os.stat(name)))
        for name in files
    ]
    for outcome in await asyncio.gather(*reads):
        assert outcome.digests


def measure(_processes: int, rounds: int) -> list[Report]:
    """Cold (nothing remembered; the page cache is warm for both) and warm (not one byte read)."""
    files = _files()

    def cold() -> None:
        async def run() -> None:
            engine = HashEngine()
            await _hash_all(engine, files)
            await engine.close()

        asyncio.run(run())

    def openssl() -> None:
        subprocess.run(["openssl", "dgst", "-sha256", *files], stdout=subprocess.DEVNULL, check=True)

    async def warm() -> int:
        engine = HashEngine()
        await _hash_all(engine, files)
        before = engine.counters().bytes_read
        await _hash_all(engine, files)
        again = engine.counters().bytes_read - before
        await engine.close()
        return again

    series = alternate({"procmond's engine": cold, "openssl": openssl}, rounds)
    mine, other = series["procmond's engine"].median, series["openssl"].median
    size = sum(os.stat(name).st_size for name in files)
    return [
        Report(
            f"hashing {len(files)} executables, {size / 2**20:.0f} MiB, {rounds} rounds",
            (
                Figure("cold, procmond's engine / openssl", mine / other, "ratio", 0.7),
                Figure("warm, bytes read", asyncio.run(warm()), "B", 0),
                Figure("procmond's engine", mine * 1e3, "ms"),
                Figure("openssl", other * 1e3, "ms"),
            ),
        )
    ]

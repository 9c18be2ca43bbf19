"""Fuzz each target for some seconds. One rule: a run can be repeated by the seed it printed.

    python -m tests.fuzz.run --seconds 10 [--seed N] [target...]

Every module tests/fuzz/fuzz_NAME.py has `target(data)`, which raises nothing but on a defect, and may have
`SEEDS`, valid inputs that are mutated. An input that crashes is written below --output, its path and error
are printed, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import pkgutil
import random
import secrets
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import tests.fuzz

_PREFIX: Final = "fuzz_"
_MOST_MUTATIONS: Final = 8
_LONGEST: Final = 64 * 1024
"""Bytes of an input: lengths beyond it are written into headers, not made."""
_PURE_NOISE: Final = 0.1
"""Share of inputs that are not made from a seed."""
_EDGES: Final = (b"\x00", b"\x01", b"\x7f", b"\x80", b"\xff", b"\xff\xff\xff\xff", b"\x00\x00\x10\x00", b"\n")
"""What readers of lengths, signs and lines get wrong."""


class Target(NamedTuple):
    """One module to fuzz."""

    name: str
    function: Callable[[bytes], None]
    seeds: Sequence[bytes]


class Crash(Exception):
    """A target raised what it should not; the cause is that error."""

    def __init__(self, data: bytes, runs: int) -> None:
        super().__init__(f"after {runs} inputs, on {len(data)} bytes")
        self.data = data


def discover() -> dict[str, Target]:
    """Every target by name."""
    found = {}
    for module in pkgutil.iter_modules(tests.fuzz.__path__):
        if module.name.startswith(_PREFIX):
            loaded = importlib.import_module(f"tests.fuzz.{module.name}")
            name = module.name.removeprefix(_PREFIX)
            found[name] = Target(name, loaded.target, tuple(getattr(loaded, "SEEDS", ())) or (b"",))
    return found


def inputs(seeds: Sequence[bytes], source: random.Random) -> Iterator[bytes]:
    """The seeds as they are, then mutations of them without end."""
    yield from seeds
    while True:
        if source.random() < _PURE_NOISE:
            yield source.randbytes(source.randrange(64))
            continue
        data = bytearray(source.choice(seeds))
        for _ in range(source.randint(1, _MOST_MUTATIONS)):
            _mutate(data, seeds, source)
        yield bytes(data[:_LONGEST])


def _mutate(data: bytearray, seeds: Sequence[bytes], source: random.Random) -> None:
    start = source.randint(0, len(data))
    end = min(len(data), start + source.randint(0, 16))
    choice = source.randrange(7)
    if choice == 0 and start < len(data):
        data[start] ^= 1 << source.randrange(8)
    elif choice == 1:
        edge = source.choice(_EDGES)
        data[start : start + len(edge)] = edge
    elif choice == 2:
        del data[start:end]
    elif choice == 3:
        data[start:start] = data[start:end] * source.choice((1, 2, 100))
    elif choice == 4:
        data[start:start] = source.randbytes(source.randint(1, 8))
    elif choice == 5:
        del data[start:]
    else:
        other = source.choice(seeds)
        data[start:] = other[source.randint(0, len(other)) :]


def run(target: Target, seed: int, *, seconds: float | None = None, runs: int | None = None) -> int:
    """Fuzz until the time or the number of inputs is reached; the number of inputs tried.

    Raises: Crash on the first defect.
    """
    until = None if seconds is None else time.monotonic() + seconds
    # Its own source per target: the same seed gives a target the same inputs whoever else runs.
    source = random.Random(f"{seed} {target.name}")
    done = 0
    for data in inputs(target.seeds, source):
        if done == runs or (until is not None and time.monotonic() >= until):
            break
        done += 1
        try:
            target.function(data)
        except Exception as error:
            raise Crash(data, done) from error
    return done


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    targets = discover()
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz.run", description="Fuzz each target for some seconds."
    )
    parser.add_argument("--seconds", type=float, default=10.0, help="for each target (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=secrets.randbits(32), help="default: a new one")
    parser.add_argument("--output", type=Path, default=Path("build/fuzz"), help="for inputs that crash")
    parser.add_argument("targets", nargs="*", metavar="target", help=f"of {', '.join(targets)}; default: all")
    options = parser.parse_args(arguments)
    if unknown := set(options.targets) - targets.keys():
        parser.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(targets)}")
    status = 0
    for name in options.targets or targets:
        began = time.monotonic()
        try:
            runs = run(targets[name], options.seed, seconds=options.seconds)
        except Crash as crash:
            path = options.output / f"{name}-{hashlib.sha256(crash.data).hexdigest()[:12]}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(crash.data)
            traceback.print_exception(crash.__cause__)
            print(f"{name}: CRASH {crash}, seed {options.seed}; written to {path}", flush=True)
            status = 1
        else:
            took = time.monotonic() - began
            print(f"{name}: {runs} inputs, {took:.1f} s, seed {options.seed}", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())

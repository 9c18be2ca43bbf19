"""`python -m tests.bench.run [NAME...]`: run benchmarks, print tables, write JSON."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Callable
from typing import Final

import msgspec

from tests.bench import (
    cold,
    confinement,
    enumeration,
    events,
    fairness,
    hashing,
    roundtrip,
    split,
    steady,
)
from tests.bench.measure import Report, render

BENCHMARKS: Final[dict[str, Callable[[int, int], list[Report]]]] = {
    "enumeration": enumeration.measure,
    "split": split.measure,
    "roundtrip": roundtrip.measure,
    "confinement": confinement.measure,
    "fairness": fairness.measure,
    "memory": steady.measure_memory,
    "steady": steady.measure_share,
    "hashing": hashing.measure,
    "cold": cold.measure,
    "events": events.measure_share,
    "latency": events.measure_latency,
}


def main() -> int:
    """Exit status 0; a missed target is in the report, not in the status."""
    parser = argparse.ArgumentParser(prog="make bench ARGS=", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; default all")
    parser.add_argument("--processes", type=int, default=5000, help="extra processes (default 5000)")
    parser.add_argument("--rounds", type=int, default=9, help="counted rounds (default 9)")
    parser.add_argument("--json", metavar="FILE", default="bench.json", help="default bench.json")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}")
    if os.geteuid() != 0:
        print(
            "not root: other users' executables are not seen, the figures are not comparable", file=sys.stderr
        )
    reports: list[Report] = []
    for name in arguments.names or BENCHMARKS:
        for report in BENCHMARKS[name](arguments.processes, arguments.rounds):
            print(render(report), end="\n\n", flush=True)
            reports.append(report)
    machine = {"kernel": platform.release(), "python": platform.python_version(), "cpus": os.cpu_count()}
    with open(arguments.json, "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode({"machine": machine, "reports": reports})))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Which boot this is and when it began. One rule: asked once, so that no start_time ever jitters.

The kernel computes `btime` anew at each reading, from clocks that are stepped and slewed; two readings may
differ by a second. A server asks once and hands the answer to every collector it starts.
"""

from __future__ import annotations

import time

from procmond.collect.text import text


def read_boot_id(proc: str = "/proc") -> str:
    """The kernel's random id of this boot; empty where /proc hides it (`ProcSubset=pid`)."""
    try:
        with open(f"{proc}/sys/kernel/random/boot_id", "rb") as file:
            return text(file.read().strip())
    except OSError:
        return ""


def read_boot_time() -> int:
    """Unix seconds at which this boot began, to the nearest second, from the clocks (clock_gettime(2)).

    Not from /proc/stat, which truncates and may be hidden; the two agree within a second.
    """
    before = time.time_ns()
    since_boot = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    return round((before - since_boot) / 1e9)

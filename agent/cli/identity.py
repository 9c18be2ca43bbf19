"""A uid that nobody uses. One rule: it belongs to no account and to no process, so it can touch nothing.

The range is the one systemd reserves for DynamicUser=, for services that need a user only while they run
(https://systemd.io/UIDS-GIDS/): no account is made in it, and it fits into containers with 65,536 uids.
"""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Callable, Collection, Sequence
from typing import Final

from common.errors import ConfigError

TRANSIENT_IDS: Final = range(61184, 65520)


def pick_id(taken: Collection[int], choose: Callable[[Sequence[int]], int]) -> int:
    """One of TRANSIENT_IDS that is not `taken`, by `choose`: at random, so that two who pick at once differ.

    Pure but for `choose`. Raises: ConfigError when all are taken.
    """
    free = [number for number in TRANSIENT_IDS if number not in taken]
    if not free:
        raise ConfigError(f"every uid from {TRANSIENT_IDS[0]} to {TRANSIENT_IDS[-1]} is in use")
    return choose(free)


def ids_of_status(status: str) -> set[int]:
    """All uids and gids in /proc/PID/status: real, effective, saved, file system, supplementary."""
    found: set[int] = set()
    for line in status.splitlines():
        label, _, values = line.partition(":")
        if label in ("Uid", "Gid", "Groups"):
            found.update(int(value) for value in values.split())
    return found


def taken_ids() -> set[int]:
    """Every number that an account, a group or a running process has, uids and gids alike."""
    taken = {entry.pw_uid for entry in pwd.getpwall()} | {entry.gr_gid for entry in grp.getgrall()}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/status", encoding="utf-8", errors="replace") as stream:
                    taken |= ids_of_status(stream.read())
            except OSError:  # it ended meanwhile
                continue
    # Accounts that are looked up by number only (DynamicUser= through nss-systemd) are not listed above.
    return taken | {number for number in TRANSIENT_IDS if _has_account(number)}


def _has_account(number: int) -> bool:
    for lookup in (pwd.getpwuid, grp.getgrgid):
        try:
            lookup(number)
        except KeyError:
            continue
        return True
    return False

"""Users and groups of the system, from name or number to number. One rule: a number is a number.

Digits are never looked up as a name, so `1000` means the same on every host. Reads the account database
(pwd, grp), which may load whatever nsswitch.conf names: call it at start, before rights are dropped.
"""

from __future__ import annotations

import grp
import pwd
from typing import Final, NamedTuple

MAX_ID: Final = 2**32 - 2
"""Of a uid or gid; 2^32 - 1 is (uid_t) -1, which means "leave unchanged" to chown(2) and setresuid(2)."""


class Identity(NamedTuple):
    """Whom a process runs as."""

    uid: int
    gid: int


def is_account(value: str | int) -> bool:
    """Whether `value` may name a user or group: a number in range, or a name without spaces, `:` and `,`."""
    if (number := as_number(value)) is not None:
        return 0 <= number <= MAX_ID
    return isinstance(value, str) and not set(value) & set(" :,/")


def are_accounts(values: tuple[str | int, ...]) -> bool:
    """Whether each of `values` is one."""
    return all(map(is_account, values))


def as_number(value: str | int) -> int | None:
    """The number `value` is or spells in decimal digits; None for a name."""
    if isinstance(value, int):
        return value
    return int(value) if value.isascii() and value.isdigit() and len(value) <= len(str(MAX_ID)) else None


def find_user(value: str | int) -> Identity | None:
    """The user's uid and primary gid; None if no user has this name.

    A number nobody has an account for is valid; its gid is then the same number.
    """
    number = as_number(value)
    try:
        entry = pwd.getpwnam(str(value)) if number is None else pwd.getpwuid(number)
    except KeyError:
        return None if number is None else Identity(number, number)
    return Identity(entry.pw_uid, entry.pw_gid)


def find_group(value: str | int) -> int | None:
    """The group's gid; None if no group has this name."""
    number = as_number(value)
    if number is not None:
        return number
    try:
        return grp.getgrnam(str(value)).gr_gid
    except KeyError:
        return None

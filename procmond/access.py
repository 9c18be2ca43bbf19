"""Who may ask, looked up in the account database. One rule: a name that was given exists, or nothing starts.

For the supervisor, once, at start: later no process of procmond may read what the lookup needs.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import msgspec

from common.accounts import Identity, find_group, find_user
from common.config import Resolved
from procmond.config import Accounts, ProcmondConfig


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """Who may ask, as the kernel names peers: numbers only."""

    uids: frozenset[int]
    gids: frozenset[int]
    admin_uids: frozenset[int]
    socket_gid: int
    """The group that owns the socket: the first one allowed; else root's, or ours if we are not root."""
    front: Identity | None
    """Whom the front becomes; None: it keeps its uid and gid."""
    warnings: tuple[str, ...]
    """A sentence for each default name that does not exist here."""


def resolve_access(resolved: Resolved[ProcmondConfig]) -> Access:
    """Look up the configured names; the supervisor does it once, at start.

    A default name that does not exist is left out with a warning. Raises: ConfigError for a name that was
    given and does not exist, and for a front_user that is root.
    """
    config = resolved.value
    warnings: list[str] = []

    def numbers(key: str, values: Accounts, noun: str, find: Callable[[str | int], int | None]) -> list[int]:
        found: list[int] = []
        for value in values:
            if (number := find(value)) is not None:
                found.append(number)
            elif resolved.is_default(key):
                warnings.append(
                    f"{key}: there is no {noun} {value}, named by default; nobody is let in for it"
                )
            else:
                raise resolved.error(key, f"expected the name or number of a {noun}; there is no {value!r}")
        return found

    gids = numbers("allow_groups", config.allow_groups, "group", find_group)
    return Access(
        uids=frozenset(numbers("allow_users", config.allow_users, "user", find_uid)),
        gids=frozenset(gids),
        admin_uids=frozenset(numbers("admin_users", config.admin_users, "user", find_uid)),
        socket_gid=gids[0] if gids else _own_group(),
        front=_front_identity(resolved),
        warnings=tuple(warnings),
    )


def find_uid(value: str | int) -> int | None:
    """The user's uid; None if no user has this name."""
    user = find_user(value)
    return None if user is None else user.uid


def _own_group() -> int:
    """Root's for root, whatever group it runs with; no other user could give a socket away to it."""
    return 0 if os.geteuid() == 0 else os.getegid()


def _front_identity(resolved: Resolved[ProcmondConfig]) -> Identity | None:
    name = resolved.value.front_user
    if name is None:
        return None
    user = find_user(name)
    if user is None or user.uid == 0:
        raise resolved.error("front_user", f"expected an existing user other than root, not {name!r}")
    return user

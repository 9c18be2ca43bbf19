"""What a process has given up, as the kernel says. One rule: a plain value, which any part may hold."""

from __future__ import annotations

from typing import Final, NamedTuple


class Confinement(NamedTuple):
    """What is in force in one process."""

    capabilities: tuple[str, ...]
    """The permitted set, `CAP_...`; smaller than the role's where the process never had more."""
    filtered: bool
    """The system call filter is in force, and refused what it was tried with."""
    no_new_privs: bool
    missing: tuple[str, ...] = ()
    """What is not in force, one sentence each; empty unless the caller said `required=False`."""


NOT_CONFINED: Final = Confinement((), filtered=False, no_new_privs=False)
"""Before anything is given up."""

"""A process group only one's own children can be in. One rule: its number is never anybody else's.

The supervisor must be able to end a collector that hangs, and its filter must say whom it may kill before
that collector exists. A pid cannot be known by then; a process group can: one made beforehand, whose
number the kernel cannot give away because a child that ended at once, and is never reaped, still is in it.
"""

from __future__ import annotations

import os


def reserve_process_group() -> int:
    """Make a process group with no running process in it, for `confine_supervisor(killable_groups=...)`.

    A child joins with `os.setpgid(0, group)`; `os.killpg(group, SIGKILL)` then ends it. One defunct process
    stands for the group as long as the caller lives and does not wait for it: SIGCHLD must not be ignored,
    and children are waited for by pid. Raises: OSError if it cannot fork.
    """
    placeholder = os.fork()
    if placeholder == 0:
        os._exit(0)
    os.setpgid(placeholder, placeholder)
    os.waitid(os.P_PID, placeholder, os.WEXITED | os.WNOWAIT)
    return placeholder

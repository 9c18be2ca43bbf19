"""Images of which only the pid is known. One rule: what a sweep leaves alone is left alone here too."""

from __future__ import annotations

from procmond.collect.guard import Guard
from procmond.collect.handles import read_file
from procmond.collect.procfs_parse import NO_STAT, MalformedProc, parse_ids, parse_stat
from procmond.pulse import Stage


def blocks_image(guard: Guard, pid: int) -> bool:
    """Whether the image of `pid` is not to be looked at; if it is, the pulse says so until `leave`."""
    if not guard.active:
        guard.enter(Stage.IMAGE, pid, 0)  # which process that is the supervisor finds out, should it stall
        return False
    stat, uid = NO_STAT, None
    try:
        stat = parse_stat(read_file(b"/proc/%d/stat" % pid))
        if guard.users_matter:
            uid = parse_ids(read_file(b"/proc/%d/status" % pid))[0].real_uid
    except (OSError, MalformedProc):
        pass  # it has ended; whoever looks at it will say so
    if guard.withholds(Stage.IMAGE, pid, stat.start_ticks, face=(stat.name, None), uid=uid):
        return True
    guard.enter(Stage.IMAGE, pid, stat.start_ticks)
    return False

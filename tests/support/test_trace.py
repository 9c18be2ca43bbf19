"""What is read from a trace, judged on one written by hand."""

from __future__ import annotations

from pathlib import Path

from procmond.confine.machine import X86_64
from tests.support.trace import Call, Run, parse

SUPERVISOR = """\
execve(0x7ffd, 0x7ffe, 0x7fff) = 0
socket(0x1, 0x1, 0) = 3
clone(0x1200011, 0, 0, 0, 0x7f) = 11
setpgid(0xb, 0xb) = 0
clone(0x1200011, 0, 0, 0, 0x7f) = 12
setpgid(0xc, 0xc) = 0
seccomp(0x1, 0x1, 0x7ff) = 0
unshare(0) = -1 EPERM (Operation not permitted)
clone(0x1200011, 0, 0, 0, 0x7f) = 13
clone(0x1200011, 0, 0, 0, 0x7f) = 14
kill(0xfffffff4, 0x9) = 0
exit_group(0) = ?
"""
FRONT = """\
setpgid(0, 0xb) = 0
capset(0x7f, 0x7e) = 0
seccomp(0x1, 0x1, 0x7ff) = 0
accept4(0x3, 0, 0, 0x800) = -1 EAGAIN (Resource temporarily unavailable)
openat(0xffffff9c, 0x7f, 0x80000, 0) = -1 EPERM (Operation not permitted)
"""
COLLECTOR = """\
setpgid(0, 0xc) = 0
seccomp(0x1, 0x1, 0x7ff) = 0
openat(0xffffff9c, 0x7f, 0x80000, 0) = 5
openat(0xffffff9c, 0x7f, 0x80000, 0) = -1 EPERM (Operation not permitted)
clone3(0x7f, 0x58) = -1 ENOSYS (Function not implemented)
clone(0x3d0f00, 0x7f, 0x7f, 0x7f, 0x7f) = 15
"""
THREAD = """\
rseq(0x7f, 0x20, 0, 0x53053053) = 0
exit(0) = ?
"""


def test_a_line_is_a_call_with_its_numbers_and_its_error() -> None:
    lines = ["read(0x3, 0x7f, 0x10) = 16", "--- SIGCHLD ---", "access(0x7f, 0x4) = -1 ENOENT (No such file)"]
    assert list(parse(lines)) == [Call("read", (3, 0x7F, 16), 16, 0), Call("access", (0x7F, 4), -1, 2)]


def test_each_call_counts_for_the_filter_it_was_made_under(tmp_path: Path) -> None:
    for pid, text in {10: SUPERVISOR, 11: "", 12: "", 13: FRONT, 14: COLLECTOR, 15: THREAD}.items():
        (tmp_path / f"trace.{pid}").write_text(text)
    done: dict[str, dict[str, int]] = {}
    refused: dict[str, dict[str, int]] = {}
    for role, use in Run(tmp_path).uses(X86_64):
        for counts, found in ((done, use.done), (refused, use.refused)):
            for name, count in found.items():
                of_role = counts.setdefault(role, {})
                of_role[name] = of_role.get(name, 0) + count
    assert done == {
        "front": {"accept4": 1},
        "collector": {"openat": 2, "clone": 1, "rseq": 1, "exit": 1},
        "supervisor": {"clone": 2, "kill": 1, "exit_group": 1, "setpgid": 2, "capset": 1, "seccomp": 2},
    }, "what came before the first filter is nobody's; a refusal by the file is none by the filter"
    assert refused == {
        "front": {"openat": 1},
        "collector": {"clone3": 1},
        "supervisor": {"unshare": 1},
    }

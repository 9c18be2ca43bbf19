"""`make syscalls`: which system calls procmond's processes make over the system tests, against their tables.

One rule: who a process is, and from when its filter holds, is read from the calls themselves. The supervisor
is the one that was executed; it makes the front's process group, then the collector's; each child joins one.
What a process does before its own seccomp(2) succeeds is done under the filter it inherited.
"""

from __future__ import annotations

import argparse
import errno
import itertools
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from procmond.confine.machine import Machine, number, this_machine
from procmond.confine.policy import collector_rules, front_rules, supervisor_rules
from procmond.confine.seccomp import ALLOW, Rule, assemble
from tests.support.bpf_machine import run

WRAPPER: Final = "DAEMONEYE_TEST_WRAPPER"
"""Environment variable: a command that `tests.support.daemons` puts before procmond's own."""
TESTS: Final = tuple(
    f"tests/system/test_{name}.py"
    for name in (
        "admission",
        "conversation",
        "events",
        "hostile_peers",
        "hostile_processes",
        "inventory",
        "losses",
        "start",
    )
)
"""All that drive a procmond of their own by its command, but for the attacks, which would fill the table."""

ROLES: Final = ("front", "collector", "supervisor")
# Numbers, not names, so that a refused call can be judged by the filter; strings and structures not at all.
STRACE: Final = ("strace", "-D", "-ff", "-qq", "-e", "raw=all", "-e", "signal=none")

_HEAD: Final = """\
# System calls, made and allowed

Made by `make -s syscalls > docs/syscalls.md`: the system tests with every procmond under strace, {count}
starts, on {machine}, {versions}.
strace slows what it traces, so single tests may fail under it for time.

What a child does before its own filter is in force counts for the supervisor, whose filter it is under. A
number is how often a call was made; 0: it is allowed and was not needed here; nothing: it is refused. What
was not needed is kept where another C library (musl), another version of it or of Python, or a rarer path
needs it; each call has its reason, and none changes a file.
"""
_REFUSED: Final = """
Refused, and each asker goes on without: `unshare` and one `openat` of every process are its own proof that
the filter holds; further `openat` are uvloop's, for /dev/null; libuv tries `io_uring_setup`, the C library
`clone3` before `clone`, psutil `kill` with signal 0.
"""
_CALL: Final = re.compile(r"(\w+)\((.*)\) += (-?\w+|\?)(?: (E\w+))?")
_TRACE: Final = "trace."


class Call(NamedTuple):
    """One line of a trace."""

    name: str
    arguments: tuple[int, ...]
    result: int
    error: int
    """An errno; 0: it did not fail."""


_NOTHING: Final = Call("", (), 0, 0)


class Use(NamedTuple):
    """What was seen of one process, or of all of one role."""

    done: Counter[str]
    refused: Counter[str]
    """By the filter."""


def parse(lines: Iterable[str]) -> Iterator[Call]:
    """The calls that returned; pure. An exit returns nothing."""
    for line in lines:
        match = _CALL.match(line)
        if match is None:
            continue
        arguments = tuple(
            int(word, 16) for word in match[2].split(", ") if word.startswith("0x") or word == "0"
        )
        number_of_error = getattr(errno, match[4], -1) if match[4] else 0
        result = 0 if match[3] == "?" else int(match[3], 0)
        yield Call(match[1], arguments, result, number_of_error)


class Run:
    """The traces of one procmond: files named by thread, in one directory."""

    def __init__(self, directory: Path) -> None:
        self._paths = {int(path.name.removeprefix(_TRACE)): path for path in directory.iterdir()}

    def uses(self, machine: Machine) -> Iterator[tuple[str, Use]]:
        """Role and use, of each thread's confined life."""
        for root in self._paths:
            if next(self._calls(root), _NOTHING).name == "execve":
                joined = (one.arguments[0] for one in self._calls(root) if one.name == "setpgid")
                yield from self._of(root, "", tuple(itertools.islice(joined, 2)), machine)

    def _calls(self, pid: int) -> Iterator[Call]:
        if pid in self._paths:
            with open(self._paths[pid], errors="replace") as lines:
                yield from parse(lines)

    def _of(
        self, pid: int, inherited: str, groups: tuple[int, ...], machine: Machine
    ) -> Iterator[tuple[str, Use]]:
        """A thread under the filter of `inherited` ("": none), then under its own, and all it started."""
        role = inherited
        uses: dict[str, Use] = {}
        becomes = "" if inherited else "supervisor"
        for call in self._calls(pid):
            if inherited == "supervisor" and call.name == "setpgid" and call.arguments[0] == 0:
                becomes = ROLES[groups.index(call.arguments[1])]
            if role:
                use = uses.setdefault(role, Use(Counter(), Counter()))
                counts = use.refused if self._is_refused(call, role, pid, groups, machine) else use.done
                counts[call.name] += 1
            if call.name == "seccomp" and not call.error and becomes:
                role, becomes = becomes, ""
            if call.name in {"clone", "fork", "vfork"} and call.result > 0:
                yield from self._of(call.result, role, groups, machine)
        yield from uses.items()

    @staticmethod
    def _is_refused(call: Call, role: str, pid: int, groups: tuple[int, ...], machine: Machine) -> bool:
        """Whether the filter, and not what the call would have done, made it fail."""
        if call.error not in {errno.EPERM, errno.ENOSYS}:
            return False
        try:
            nr = number(machine, call.name)
        except KeyError:
            return True  # in no table
        rules = tables(machine, pid, groups)[role]
        assert nr is not None
        program = assemble(tuple(rules.values()), machine)
        return run(program, machine.audit_architecture, nr, call.arguments) != ALLOW


def tables(machine: Machine, pid: int = 1, groups: tuple[int, ...] = (2, 3)) -> dict[str, dict[str, Rule]]:
    """The rules of each role, by call, as far as `machine` has the call."""
    of_role = {
        "front": front_rules(pid),
        "collector": collector_rules(pid, machine),
        "supervisor": supervisor_rules(pid, machine, None, groups),
    }
    return {
        role: {rule.name: rule for rule in rules if number(machine, rule.name) is not None}
        for role, rules in of_role.items()
    }


def render(uses: dict[str, Use], machine: Machine) -> str:
    """The table, in Markdown; pure."""
    allowed = tables(machine)
    rules = {
        name: rule for role in reversed(ROLES) for name, rule in allowed[role].items() if rule.refusal is None
    }
    lines = ["| call | front | collector | supervisor | why it is allowed |", "|---|---:|---:|---:|---|"]
    for name in sorted(rules):
        cells = [
            f"{uses[role].done[name]:,}"
            if name in allowed[role]
            else ("**!**" if uses[role].done[name] else "")
            for role in ROLES
        ]
        lines.append(f"| {name} | {' | '.join(cells)} | {rules[name].reason} |")
    lines += [_REFUSED, "| refused | front | collector | supervisor |", "|---|---:|---:|---:|"]
    for name in sorted({name for role in ROLES for name in uses[role].refused}):
        cells = [f"{uses[role].refused[name]:,}" if uses[role].refused[name] else "" for role in ROLES]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    unused = {role: [n for n in sorted(allowed[role]) if not uses[role].done[n]] for role in ROLES}
    lines.append("")
    for role in ROLES:
        names = [name for name in unused[role] if allowed[role][name].refusal is None]
        lines.append(
            f"- {role}: {len(allowed[role])} calls in its table; allowed and not used: {', '.join(names)}."
        )
    return "\n".join(lines)


def trace(directory: Path, arguments: list[str]) -> int:
    """Run the tests with every procmond under strace; pytest's exit status."""
    script = directory / "wrapper.sh"
    strace = shlex.join(STRACE)
    script.write_text(
        f'exec {strace} -o "$(mktemp -d {shlex.quote(str(directory))}/run.XXXXXX)/{_TRACE[:-1]}" "$@"\n'
    )
    environment = {**os.environ, WRAPPER: f"sh {script}"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(arguments or TESTS)]
    return subprocess.run(command, env=environment, check=False, stdout=sys.stderr).returncode


def collect(directory: Path, machine: Machine) -> tuple[int, dict[str, Use]]:
    """How many procmonds were traced, and what each role did in all of them."""
    uses = {role: Use(Counter(), Counter()) for role in ROLES}
    runs = sorted(directory.glob("run.*"))
    for path in runs:
        for role, use in Run(path).uses(machine):
            uses[role].done.update(use.done)
            uses[role].refused.update(use.refused)
    return len(runs), uses


def main() -> int:
    """Exit status: pytest's; 2 where there is no strace or no filter."""
    parser = argparse.ArgumentParser(prog="make syscalls ARGS=", description=__doc__)
    parser.add_argument(
        "tests", nargs="*", help="what pytest runs; default: the system tests but for attacks"
    )
    arguments = parser.parse_args()
    machine = this_machine()
    if machine is None or shutil.which("strace") is None:
        print("make syscalls needs strace, and a processor a filter is known for", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="daemoneye-trace-") as name:
        status = trace(Path(name), arguments.tests)
        count, uses = collect(Path(name), machine)
    libc, version = platform.libc_ver()
    versions = f"Linux {platform.release()}, {libc} {version}, Python {platform.python_version()}"
    print(_HEAD.format(count=count, machine=machine.name, versions=versions))
    print(render(uses, machine))
    return status


if __name__ == "__main__":
    sys.exit(main())

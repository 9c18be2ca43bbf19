"""Every hostile process is what it says it is, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from tests.support import hostile
from tests.support.attacks import NOBODY
from tests.support.children import child_of, reap, running, wait_until
from tests.support.fuse_server import Stall
from tests.support.privilege import needs_root

pytestmark = [
    needs_root,
    pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="needs FUSE: no /dev/fuse here"),
]

PATIENCE_S = 0.3
"""How long a reader is watched before it is called stuck; one that is not takes microseconds."""


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    def children() -> set[str]:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return set(file.read().split())

    def mounts() -> list[str]:
        with open("/proc/self/mountinfo") as file:
            return [line for line in file if "daemoneye" in line]

    before = children()
    yield
    assert children() == before
    assert mounts() == []


def read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


@contextlib.contextmanager
def reader_of(path: str) -> Iterator[int]:
    """A child that reads `path`; the caller waits for it."""
    pid = child_of(lambda: read(path))
    yield pid
    with contextlib.suppress(ChildProcessError):
        reap(pid)


def finished(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def stuck(pid: int) -> bool:
    """Not done within `PATIENCE_S`."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if finished(pid):
            return False
        time.sleep(0.005)
    return True


@pytest.mark.parametrize("uid", [NOBODY, 0])
def test_command_line_blocks_its_reader_until_the_reader_is_killed(uid: int) -> None:
    with hostile.blocked_command_line(uid) as pid:
        for name in ("stat", "status", "cgroup"):  # these answer
            assert read(f"/proc/{pid}/{name}")
        assert os.readlink(f"/proc/{pid}/exe")
        with reader_of(f"/proc/{pid}/cmdline") as reader:
            assert stuck(reader)
            assert hostile.state_of(reader) == "D"
            os.kill(reader, signal.SIGKILL)
            assert reap(reader) == signal.SIGKILL


def test_command_line_answers_once_the_server_is_gone() -> None:
    with hostile.blocked_command_line() as pid, contextlib.ExitStack() as stack:
        reader = stack.enter_context(reader_of(f"/proc/{pid}/cmdline"))
        assert stuck(reader)
        stack.pop_all()
    assert reap(reader) in (0, 256)  # the answer, or that the process is no more


def test_many_blocked_command_lines_come_and_go() -> None:
    with contextlib.ExitStack() as stack:
        pids = [stack.enter_context(hostile.blocked_command_line()) for _ in range(8)]
        assert len(set(pids)) == 8


@pytest.mark.parametrize(
    ("stall", "asynchronous", "survives_sigkill"),
    [(Stall.READ, True, False), (Stall.READ, False, True), (Stall.OPEN, True, True)],
    ids=["asynchronous read", "synchronous read", "open"],
)
def test_silent_executable_holds_who_hashes_it(
    stall: Stall, asynchronous: bool, survives_sigkill: bool
) -> None:
    with hostile.silent_executable(stall, asynchronous=asynchronous) as silent:
        reader = child_of(functools.partial(read, f"/proc/{silent.pid}/exe"))
        wait_until(lambda: silent.mounted.switch.unanswered > 0, "the reader's request")
        os.kill(reader, signal.SIGKILL)
        assert stuck(reader) is survives_sigkill
    assert reap(reader) == signal.SIGKILL


@pytest.mark.parametrize(("stall", "reads"), [(Stall.OPEN, read), (Stall.GETATTR, os.stat)])
def test_stacked_executable_holds_who_looks_at_it(stall: Stall, reads: Callable[[str], object]) -> None:
    with hostile.stacked_executable(stall) as stacked:
        reader = child_of(functools.partial(reads, f"/proc/{stacked.pid}/exe"))
        wait_until(lambda: stacked.mounted.switch.unanswered > 0, "the reader's request")
        os.kill(reader, signal.SIGKILL)
        assert stuck(reader)
    assert reap(reader) == signal.SIGKILL


def test_reexecuting_process_keeps_its_pid_and_changes_its_arguments() -> None:
    with hostile.reexecuting() as pid:
        first = read(f"/proc/{pid}/cmdline")
        wait_until(lambda: read(f"/proc/{pid}/cmdline") not in (b"", first), "another execution")


def test_arguments_are_rewritten_in_place() -> None:
    with hostile.rewriting_arguments() as pid:
        seen: set[int] = set()

        def both() -> bool:
            seen.update(read(f"/proc/{pid}/cmdline"))
            return {ord("a"), ord("b")} <= seen

        wait_until(both, "both letters")


def test_threads_are_there() -> None:
    with hostile.many_threads() as pid:
        assert len(os.listdir(f"/proc/{pid}/task")) == 4096


@pytest.mark.parametrize("count", [10_000, 100_000])
def test_descriptors_are_there(count: int) -> None:
    if count + 100 > hostile.most_descriptors():
        pytest.skip(
            f"at most {hostile.most_descriptors()} descriptors here, and no CAP_SYS_RESOURCE to have more"
        )
    with hostile.many_descriptors(count) as pid:
        assert len(os.listdir(f"/proc/{pid}/fd")) >= count


def test_stopped_process_is_stopped() -> None:
    with hostile.stopped() as pid:
        assert hostile.state_of(pid) == "T"


def test_namespaces_are_deep() -> None:
    with hostile.deep_namespaces() as pid:
        (line,) = [line for line in read(f"/proc/{pid}/status").splitlines() if line.startswith(b"NSpid:")]
        assert len(line.split()) == 1 + 31
        assert line.split()[-1] == b"1"


def test_control_characters_reach_proc() -> None:
    with hostile.control_characters() as pid:
        assert read(f"/proc/{pid}/comm") == hostile.CONTROL_NAME + b"\n"
        assert read(f"/proc/{pid}/cmdline") == b"\0".join(hostile.CONTROL_ARGUMENTS) + b"\0"


def test_child_that_is_never_ready_is_an_error() -> None:
    def end(_ready: Callable[[], None]) -> None:
        return

    with pytest.raises(RuntimeError, match="before it was ready"), running(end):
        pass

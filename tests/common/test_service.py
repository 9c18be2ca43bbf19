"""common.service, with real signals, sockets, descriptors and processes."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.errors import AlreadyRunning, ConfigError
from common.service import InstanceLock, Notifier, listen_fds, notify, run, watchdog_interval


@contextmanager
def child(code: str) -> Iterator[subprocess.Popen[str]]:
    """A process running `code` that has written its first line."""
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


DAEMON = """
    import asyncio, sys
    from common.service import run

    async def main(stop):
        print("ready", flush=True)
        await stop.wait()
        print(type(asyncio.get_running_loop()).__module__)
        return 7

    sys.exit(run(main, reload=lambda: print("reloaded", flush=True)))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_daemon_in_its_own_time_on_uvloop(number: signal.Signals) -> None:
    pytest.importorskip("uvloop")
    with child(DAEMON) as process:
        process.send_signal(number)
        output, _ = process.communicate(timeout=10)
    assert (process.returncode, output) == (7, "uvloop\n")


def test_without_uvloop_the_standard_loop_runs() -> None:
    with child("import sys; sys.modules['uvloop'] = None" + textwrap.dedent(DAEMON)) as process:
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=10)
    assert (process.returncode, output) == (7, "asyncio.unix_events\n")


def test_sighup_reloads_and_does_not_stop() -> None:
    with child(DAEMON) as process:
        assert process.stdout
        for _ in range(2):
            process.send_signal(signal.SIGHUP)
            assert process.stdout.readline() == "reloaded\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 7


def test_an_exception_of_main_reaches_the_caller() -> None:
    async def main(_stop: asyncio.Event) -> int:
        raise ConfigError("no")

    with pytest.raises(ConfigError, match=r"^no$"):
        run(main)


@pytest.mark.parametrize("abstract", [False, True])
def test_notify_reaches_a_path_and_an_abstract_name(abstract: bool, tmp_path: Path) -> None:
    name = f"@daemoneye-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:] if abstract else name)
        assert notify("READY=1\nSTATUS=up", {"NOTIFY_SOCKET": name})
        assert manager.recv(100) == b"READY=1\nSTATUS=up"


def test_notify_reads_the_real_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify("READY=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "n"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "n"))
        assert notify("READY=1")


def test_a_notifier_goes_on_where_connecting_has_become_impossible(tmp_path: Path) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        notifier = Notifier({"NOTIFY_SOCKET": str(path)})
        path.unlink()
        assert notifier.connected
        assert notifier.send("READY=1")
        assert manager.recv(100) == b"READY=1"
    assert not notifier.send("the manager is gone")
    notifier.close()
    assert not notifier.connected


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "9" * 5000}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_ours_or_not_there(environment: dict[str, str], expected: float | None) -> None:
    assert watchdog_interval(environment) == expected


@pytest.mark.parametrize(
    "address", ["", "/nonexistent/notify", "relative", "vsock:2:1234", "/" + "x" * 200, "@"]
)
def test_notify_never_raises_when_nobody_listens(address: str) -> None:
    assert not notify("READY=1", {"NOTIFY_SOCKET": address})


LISTENER = """
    import fcntl, os, sys
    from common.errors import ConfigError
    from common.service import listen_fds
    os.environ["LISTEN_PID"] = {pid}
    try:
        found = listen_fds()
    except ConfigError as error:
        print("ready", error, sep="\\n")
    else:
        print("ready", [(*one, fcntl.fcntl(one.descriptor, fcntl.F_GETFD)) for one in found], sep="\\n")
    print([name for name in os.environ if name.startswith("LISTEN_")])
"""


def inherit(count: int, pid: str = "str(os.getpid())", **variables: str) -> str:
    """What a process says that inherits `count` sockets as descriptors 3 and up, and the variables."""
    # In a child of its own, which may place descriptors as it likes without closing pytest's.
    placer = (
        "import os, socket, sys\n"
        "os.closerange(3, 64)\n"
        f"sockets = [socket.socket(socket.AF_UNIX) for _ in range({count})]\n"
        "for one in sockets: os.set_inheritable(one.fileno(), True)\n"
        "os.execv(sys.executable, [sys.executable, '-c', sys.argv[1]])\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", placer, textwrap.dedent(LISTENER).format(pid=pid)],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return result.stdout


def test_descriptors_of_the_manager_are_found_named_and_closed_on_exec() -> None:
    assert inherit(2, LISTEN_FDS="2", LISTEN_FDNAMES="procmond:control") == (
        f"ready\n[(3, 'procmond', {fcntl.FD_CLOEXEC}), (4, 'control', {fcntl.FD_CLOEXEC})]\n[]\n"
    )
    assert "[(3, 'unknown', 1)]" in inherit(1, LISTEN_FDS="1")


def test_descriptors_for_another_process_are_left_alone() -> None:
    assert inherit(1, pid="'1'", LISTEN_FDS="1") == "ready\n[]\n[]\n"
    assert listen_fds({}) == ()


def test_descriptors_that_make_no_sense_are_refused() -> None:
    assert "LISTEN_FDS: expected a count of descriptors, not 'two'" in inherit(0, LISTEN_FDS="two")
    assert "not '99999999'" in inherit(0, LISTEN_FDS="99999999")
    assert "LISTEN_FDS: expected 2 descriptors; 4 is not open" in inherit(1, LISTEN_FDS="2")


TICK_MS = 10
"""Of the slowest kernel clock (CONFIG_HZ=100)."""

HOLDER = """
    import os, signal, sys
    from common.service import InstanceLock
    lock = InstanceLock({path!r})
    lock.acquire()
    {more}
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_a_second_instance_is_told_the_path_and_the_pid_of_the_first(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    with child(HOLDER.format(path=path, more="")) as process:
        with pytest.raises(AlreadyRunning) as refusal:
            InstanceLock(path).acquire()
        assert str(refusal.value) == f"{path}: already running, as pid {process.pid}"
        process.kill()
        process.wait(timeout=10)
        with InstanceLock(path):  # the file a kill -9 left behind is no obstacle
            assert Path(path).read_text() == f"{os.getpid()}\n"
    assert Path(path).stat().st_mode & 0o777 == 0o600


def test_a_child_that_outlives_the_holder_does_not_keep_the_lock(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    survivor = "pid = os.fork()\n    if pid == 0: signal.pause()\n    print('ready', pid, file=sys.stderr)"
    code = HOLDER.format(path=path, more=survivor)
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr
        orphan = int(process.stderr.readline().split()[1])
        try:
            with pytest.raises(AlreadyRunning):
                InstanceLock(path).acquire()
            process.kill()
            process.wait(timeout=10)
            os.kill(orphan, 0)
            with InstanceLock(path):
                pass
        finally:
            os.kill(orphan, signal.SIGKILL)


def test_a_released_lock_can_be_taken_by_another_process(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    lock = InstanceLock(path)
    lock.acquire()
    lock.release()
    lock.release()
    with child(HOLDER.format(path=path, more="")), pytest.raises(AlreadyRunning):
        lock.acquire()


def test_the_next_holder_learns_when_the_last_mark_was_made(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    for _ in range(2):  # to hold the lock is no mark
        with InstanceLock(path) as lock:
            assert lock.marked_ms is None
    before_ms = time.time_ns() // 1_000_000
    with InstanceLock(path) as lock:
        lock.mark()
    after_ms = time.time_ns() // 1_000_000
    for _ in range(2):  # nor does the next holder's start count as one
        with InstanceLock(path) as lock:
            assert lock.marked_ms is not None
            # A file's times are those of the kernel's last tick.
            assert before_ms - TICK_MS <= lock.marked_ms <= after_ms
    lock.mark()  # given up: no longer ours to mark, and no error


def test_a_lock_file_that_is_no_plain_file_of_its_own_is_refused_and_untouched(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("content")
    (tmp_path / "symbolic").symlink_to(precious)
    os.link(precious, tmp_path / "hard")
    os.mkfifo(tmp_path / "fifo")
    for name in ("symbolic", "hard", "fifo", ".", "missing/lock"):
        with pytest.raises(ConfigError, match="lock file"):
            InstanceLock(str(tmp_path / name)).acquire()
    assert precious.read_text() == "content"

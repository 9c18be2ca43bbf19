"""Processes made to hurt who watches them. One rule: each is gone, with all it held up, when its block ends.

All are children of the test and die with it. What hangs in the kernel hangs on a FUSE server that is ended
first: the kernel then answers every request with an error, and what waited goes on to die.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import platform
import resource
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from procmond.confine import kernel
from procmond.confine.capabilities import parse_status
from tests.support.attacks import NOBODY, call
from tests.support.children import become, child_of, die_with_parent, pause_forever, running, wait_until
from tests.support.fuse_server import NAME, Mounted, Stall, Switch, device_for, fuse_mount, mount, serve

_CLONE_NEWNS, _CLONE_NEWUSER, _CLONE_NEWPID = 0x20000, 0x10000000, 0x20000000
_MNT_DETACH: Final = 2
_PR_SET_DUMPABLE: Final = 4
_CAP_SYS_RESOURCE: Final = 24
_CLOCK_NANOSLEEP: Final = 230 if platform.machine() == "x86_64" else 115
_STAT_ARG_START: Final = 48
"""Number of the field of /proc/PID/stat that says where the arguments are; proc_pid_stat(5)."""

SLEEP: Final = shutil.which("sleep") or "/bin/sleep"
CONTROL_NAME: Final = b"\x1b[31m\n) R 1\t\x7f"
"""14 bytes that end a line, a stat field and a terminal's patience. A process's name holds 15."""
CONTROL_ARGUMENTS: Final = (b"\x1b]0;title\x07\r\n\xff\xfe", b"1000")


_MAP_PRIVATE_ANONYMOUS: Final = 0x22


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.pread.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long]
    return libc


def _hold_own_memory_lock(path: str, switch: Switch) -> None:
    """Never returns.

    One thread reads /proc/self/mem at a page the server will not deliver, which holds the lock for
    reading; another asks for a new mapping, which waits to take it for writing; readers queue behind it.
    """
    libc = _libc()
    address = libc.mmap(None, mmap.PAGESIZE, mmap.PROT_READ, mmap.MAP_PRIVATE, os.open(path, os.O_RDONLY), 0)
    memory = os.open("/proc/self/mem", os.O_RDONLY)
    buffer = ctypes.create_string_buffer(8)
    switch.stall(Stall.READ)
    threading.Thread(
        target=libc.pread, args=(memory, ctypes.addressof(buffer), 8, address), daemon=True
    ).start()
    wait_until(lambda: switch.unanswered > 0, "the page to be asked for")
    libc.mmap(None, mmap.PAGESIZE, mmap.PROT_READ, _MAP_PRIVATE_ANONYMOUS, -1, 0)


def _user_namespace() -> None:
    """A user and a mount namespace of one's own, as its root; needs no right."""
    uid, gid = os.getuid(), os.getgid()
    kernel.prctl(_PR_SET_DUMPABLE, 1)  # lost when the user changed; without it /proc/self is root's
    kernel.unshare(_CLONE_NEWUSER | _CLONE_NEWNS)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    die_with_parent()


def state_of(pid: int) -> str:
    """The letter in /proc/PID/stat, which is read without the process's memory lock."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()[0].decode()


def _system_call_of(pid: int) -> int | None:
    """The number of the call `pid` is blocked in; None while it runs or is gone."""
    with open(f"/proc/{pid}/syscall") as file:
        number = file.read().split()[0]
    return int(number) if number.isdigit() else None


@contextlib.contextmanager
def blocked_command_line(uid: int = NOBODY) -> Iterator[int]:
    """A process of `uid`, without any right, whose /proc/PID/cmdline never answers a reader.

    A reader can be killed, by SIGKILL or a signal that ends it by default; until then it waits. The same
    holds for environ, maps, smaps and mem; stat, status, exe and fd answer.
    """
    with contextlib.ExitStack() as stack:
        switch = Switch()
        stack.callback(switch.close)
        directory = tempfile.mkdtemp(prefix="daemoneye-blocked-")
        stack.callback(os.rmdir, directory)
        os.chmod(directory, 0o755)
        device_path = stack.enter_context(device_for(uid))
        giving, taking = socket.socketpair()
        with giving, taking:

            def culprit(ready: Callable[[], None]) -> None:
                become(uid)
                _user_namespace()
                device = os.open(device_path, os.O_RDWR)  # here: its namespace must be the mount's
                mount(device, directory, 0, allow_other=False)
                socket.send_fds(giving, [b"d"], [device])
                os.close(device)
                ready()
                _hold_own_memory_lock(f"{directory}/{NAME}", switch)

            def server(ready: Callable[[], None]) -> None:
                _, (device, *_), _, _ = socket.recv_fds(taking, 1, 1)
                ready()
                serve(device, bytes(mmap.PAGESIZE), switch, asynchronous=True)

            pid = stack.enter_context(running(culprit))
            stack.enter_context(running(server))  # left first: then the culprit can be reaped
        wait_until(lambda: switch.unanswered > 0 and state_of(pid) == "D", "the memory lock to be held")
        yield pid


class SilentImage(NamedTuple):
    """A process that runs from a file system which no longer answers."""

    pid: int
    mounted: Mounted


@contextlib.contextmanager
def silent_executable(
    stall: Stall = Stall.READ | Stall.OPEN, *, asynchronous: bool = False
) -> Iterator[SilentImage]:
    """A sleep(1) executed from root's FUSE mount, whose server then stops answering as `stall` says.

    Who opens its image, or with `asynchronous=False` reads it, stays in the kernel beyond SIGKILL until
    the block ends.
    """
    with open(SLEEP, "rb") as file:
        content = file.read()
    with (
        fuse_mount(content, asynchronous=asynchronous) as mounted,
        executed(mounted.path, (b"sleep", b"1000")) as pid,
    ):
        wait_until(lambda: _system_call_of(pid) == _CLOCK_NANOSLEEP, "sleep to sleep")  # all it needs is read
        mounted.switch.stall(stall)
        try:
            yield SilentImage(pid, mounted)
        finally:
            os.kill(mounted.server, signal.SIGKILL)  # first, or the process itself might not be killable


@contextlib.contextmanager
def stacked_executable(
    stall: Stall = Stall.READ | Stall.OPEN | Stall.GETATTR, uid: int = NOBODY
) -> Iterator[SilentImage]:
    """A sleep(1) of `uid`, without any right, on an overlay of its own over a FUSE mount of its own.

    It was executed before the server stopped answering as `stall` says. What may never answer shows in its
    mount namespace only, and as an overlay.
    """
    with open(SLEEP, "rb") as file:
        content = file.read()
    with contextlib.ExitStack() as stack:
        switch = Switch()
        stack.callback(switch.close)
        directory = tempfile.mkdtemp(prefix="daemoneye-stacked-")
        stack.callback(shutil.rmtree, directory)
        os.chmod(directory, 0o755)
        served, beside, merged = (f"{directory}/{name}" for name in ("served", "beside", "merged"))
        for place in (served, beside, merged):
            os.mkdir(place)
        device_path = stack.enter_context(device_for(uid))
        giving, taking = socket.socketpair()
        with giving, taking:

            def culprit(ready: Callable[[], None]) -> None:
                become(uid)
                _user_namespace()
                device = os.open(device_path, os.O_RDWR)  # here: its namespace must be the mount's
                mount(device, served, 0, allow_other=False)
                socket.send_fds(giving, [b"d"], [device])
                os.close(device)
                ready()
                layers = f"lowerdir={served}:{beside}".encode()  # one alone is not allowed
                call("mount", b"overlay", os.fsencode(merged), b"overlay", 0, layers)
                os.execv(f"{merged}/{NAME}", ["sleep", "1000"])

            def server(ready: Callable[[], None]) -> None:
                _, (device, *_), _, _ = socket.recv_fds(taking, 1, 1)
                ready()
                serve(device, content, switch, asynchronous=False)

            pid = stack.enter_context(running(culprit))
            server_pid = stack.enter_context(running(server))  # left first: then the culprit can be reaped
        wait_until(lambda: _system_call_of(pid) == _CLOCK_NANOSLEEP, "sleep to sleep")
        switch.stall(stall)
        yield SilentImage(pid, Mounted(f"{merged}/{NAME}", server_pid, switch))


@contextlib.contextmanager
def overlay_over_fuse() -> Iterator[Mounted]:
    """Root's overlay over root's FUSE mount, in the caller's namespace, of a file as for `silent_executable`.

    It lies where only root writes; no server shows in its type, which is its maker's responsibility.
    """
    with (
        open(SLEEP, "rb") as file,
        fuse_mount(file.read(), asynchronous=False) as mounted,
        tempfile.TemporaryDirectory(prefix="daemoneye-overlay-", dir="/run") as directory,
    ):
        beside, merged = f"{directory}/beside", f"{directory}/merged"
        os.mkdir(beside)
        os.mkdir(merged)
        layers = f"lowerdir={os.path.dirname(mounted.path)}:{beside}".encode()
        call("mount", b"overlay", os.fsencode(merged), b"overlay", 0, layers)
        try:
            yield mounted._replace(path=f"{merged}/{NAME}")
        finally:
            os.kill(mounted.server, signal.SIGKILL)
            call("umount2", os.fsencode(merged), _MNT_DETACH)


@contextlib.contextmanager
def executed(path: str | bytes, arguments: tuple[bytes, ...], uid: int = 0) -> Iterator[int]:
    """A process that executed `path` with `arguments`."""
    reader, writer = os.pipe()  # closed by exec: the end of the file is the news

    def run(ready: Callable[[], None]) -> None:
        os.close(reader)
        if uid:
            become(uid)
        ready()
        os.execv(path, arguments)

    try:
        with running(run) as pid:
            os.close(writer)
            writer = -1
            os.read(reader, 1)
            yield pid
    finally:
        os.close(reader)
        if writer != -1:
            os.close(writer)


@contextlib.contextmanager
def reexecuting(uid: int = NOBODY) -> Iterator[int]:
    """A shell that executes itself again and again, with other arguments each time."""
    script = b'exec "$0" -c "$1" "$0" "$1" "$(($2 + 1))"'
    with executed("/bin/sh", (b"/bin/sh", b"-c", script, b"/bin/sh", script, b"0"), uid) as pid:
        yield pid


@contextlib.contextmanager
def rewriting_arguments(uid: int = NOBODY) -> Iterator[int]:
    """A process that writes over its own arguments without pause."""

    def run(ready: Callable[[], None]) -> None:
        become(uid)
        kernel.prctl(_PR_SET_DUMPABLE, 1)
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        start = int(fields[_STAT_ARG_START - 3])
        with open("/proc/self/cmdline", "rb") as file:
            length = len(file.read())
        memory = os.open("/proc/self/mem", os.O_RDWR)
        ready()
        while True:
            for letter in (b"a", b"b"):
                os.pwrite(memory, letter * (length - 1), start)

    with running(run) as pid:
        yield pid


@contextlib.contextmanager
def many_threads(count: int = 4096) -> Iterator[int]:
    """A process of `count` threads, all waiting."""

    def run(ready: Callable[[], None]) -> None:
        threading.stack_size(64 * 1024)
        never = threading.Event()
        for _ in range(count - 1):
            threading.Thread(target=never.wait, daemon=True).start()
        ready()
        pause_forever()

    with running(run) as pid:
        yield pid


def most_descriptors() -> int:
    """How many a process may have open here: without CAP_SYS_RESOURCE, root's hard limit binds root too."""
    with open("/proc/self/status", "rb") as file:
        may_raise = parse_status(file.read()).effective >> _CAP_SYS_RESOURCE & 1
    with open("/proc/sys/fs/nr_open") as limit:
        return int(limit.read()) if may_raise else resource.getrlimit(resource.RLIMIT_NOFILE)[1]


@contextlib.contextmanager
def many_descriptors(count: int = 100_000) -> Iterator[int]:
    """A process with `count` open descriptors, at most `most_descriptors()` less 100."""

    def run(ready: Callable[[], None]) -> None:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (count + 100, max(count + 100, hard)))
        null = os.open("/dev/null", os.O_RDONLY)
        for _ in range(count + 1 - len(os.listdir("/proc/self/fd"))):  # the tests' own are open here too
            os.dup(null)
        ready()
        pause_forever()

    with running(run) as pid:
        yield pid


@contextlib.contextmanager
def stopped() -> Iterator[int]:
    """A process that stopped itself."""

    def run(ready: Callable[[], None]) -> None:
        ready()
        os.kill(os.getpid(), signal.SIGSTOP)

    with running(run) as pid:
        wait_until(lambda: state_of(pid) == "T", "the process to stop")
        yield pid


@contextlib.contextmanager
def deep_namespaces(depth: int = 30) -> Iterator[int]:
    """A process `depth` pid namespaces down, of the 32 the kernel allows; its pid as seen from here.

    Each level is the first process of its namespace, so the end of the outermost is the end of all.
    """

    def descend(left: int, ready: Callable[[], None]) -> None:
        if left == 0:
            ready()
            pause_forever()
        kernel.unshare(_CLONE_NEWPID)
        os.waitpid(child_of(lambda: descend(left - 1, ready)), 0)

    with running(lambda ready: descend(depth, ready)) as outermost:
        pid = outermost
        for _ in range(depth):
            with open(f"/proc/{pid}/task/{pid}/children") as file:
                pid = int(file.read())
        yield pid


@contextlib.contextmanager
def control_characters() -> Iterator[int]:
    """A process whose name and arguments hold escape sequences, line ends and bytes that are no text."""
    directory = os.fsencode(tempfile.mkdtemp(prefix="daemoneye-control-"))
    path = directory + b"/" + CONTROL_NAME
    shutil.copy(os.fsencode(SLEEP), path)
    try:
        with executed(path, CONTROL_ARGUMENTS) as pid:
            yield pid
    finally:
        shutil.rmtree(directory)

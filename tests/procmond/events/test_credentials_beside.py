"""Changes of credentials by the process connector beside eBPF: in order, once, and nothing else."""

from __future__ import annotations

import os
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.messages import ProcessEventKind
from procmond.events import connector_wire as wire
from procmond.events import ebpf, facts
from procmond.events.connector import Connection, ConnectorReader, join, open_connector
from procmond.events.credentials import CredentialsBeside
from procmond.events.ebpf_source import EbpfReader
from procmond.events.facts import CredentialsEvent, ExecEvent, ExitEvent, ForkEvent
from procmond.events.found import look_at
from tests.support.privilege import needs_root

pytestmark = needs_root

PATIENCE_S = 20.0
ALL = 1 << 30
CREDENTIALS = ProcessEventKind.CREDENTIALS


@pytest.fixture
def narrowed() -> Iterator[Connection]:
    opened = open_connector(narrowed=True)
    if not isinstance(opened, Connection):
        pytest.skip(f"no process connector here: {opened}")
    yield opened
    opened.close()


@pytest.fixture
def reader(programs: ebpf.Programs, narrowed: Connection) -> Iterator[CredentialsBeside]:
    made = CredentialsBeside(EbpfReader(programs), narrowed)
    made.skip(ALL)
    yield made
    made.close()


def fork(child: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            child()
            os._exit(0)
        finally:
            os._exit(99)
    os.waitpid(pid, 0)
    return pid


def story(reader: CredentialsBeside, pid: int, limit: int = ALL) -> list[object]:
    """What was told of a process, up to its end; the kernel's own events of credentials left out."""
    told: list[object] = []
    deadline = time.monotonic() + PATIENCE_S
    while not any(isinstance(one, ExitEvent) for one in told):
        assert time.monotonic() < deadline, f"no end: {told}"
        select.select([reader], [], [], 0.01)
        mine = [one for one in reader.drain(limit) if getattr(one, "pid", 0) == pid]
        told += [one for one in mine if not isinstance(one, CredentialsEvent)]
    return told


def test_changes_come_between_what_the_process_did_before_and_after(reader: CredentialsBeside) -> None:
    def child() -> None:
        os.setresgid(1001, 1002, 1003)
        os.setresuid(2001, 2002, 2003)
        os.execv("/bin/true", ["true"])

    born, group, user, ran, ended = story(reader, fork(child))
    assert isinstance(born, ForkEvent)
    assert isinstance(group, wire.ChangedIds)
    assert isinstance(user, wire.ChangedIds)
    assert (group.of_groups, group.real, group.effective) == (True, 1001, 1002)
    assert (user.of_groups, user.real, user.effective) == (False, 2001, 2002)
    assert isinstance(ran, ExecEvent)
    assert isinstance(ended, ExitEvent)


@pytest.mark.parametrize("limit", [1, 3])
def test_however_little_is_taken_at_a_time_the_order_stays(reader: CredentialsBeside, limit: int) -> None:
    told = story(reader, fork(lambda: os.setresuid(2001, 2001, 2001)), limit)
    assert [type(one) for one in told] == [ForkEvent, wire.ChangedIds, ExitEvent]


def test_of_a_process_that_does_nothing_more_it_is_told_too(reader: CredentialsBeside) -> None:
    script = "import os, time; os.setresuid(7, 7, 7); print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", script], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            deadline = time.monotonic() + PATIENCE_S
            told: list[object] = []
            while not any(isinstance(one, wire.ChangedIds) and one.pid == process.pid for one in told):
                assert time.monotonic() < deadline
                select.select([reader], [], [], 0.01)
                told += reader.drain(ALL)
        finally:
            process.kill()


def test_an_exec_that_raises_privileges_is_told_once_by_itself(reader: CredentialsBeside) -> None:
    directory = Path("/var/tmp") / f"daemoneye-beside-{os.getpid()}"
    directory.mkdir(mode=0o755)
    try:
        tool = directory / "tool"
        shutil.copy("/bin/true", tool)
        tool.chmod(0o4755)

        def child() -> None:
            os.setresuid(1234, 1234, 1234)
            os.execv(tool, ["tool"])

        told = story(reader, fork(child))
        assert [type(one) for one in told] == [ForkEvent, wire.ChangedIds, ExecEvent, ExitEvent]
        ran = told[2]
        assert isinstance(ran, ExecEvent)
        assert (ran.real_uid, ran.effective_uid) == (1234, 0)
        assert ran.flags & facts.SECURE
    finally:
        shutil.rmtree(directory)


def test_a_thread_that_changes_only_itself_is_not_told(reader: CredentialsBeside) -> None:
    code = (
        "import ctypes, platform, threading\n"
        "setresuid = {'x86_64': 117, 'aarch64': 147}[platform.machine()]\n"
        "thread = threading.Thread(target=lambda: ctypes.CDLL(None).syscall(setresuid, 7, 7, 7))\n"
        "thread.start(); thread.join()"
    )
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", code])
    process.wait()
    told = story(reader, process.pid)
    assert wire.ChangedIds not in {type(one) for one in told}


def test_while_nobody_listens_they_are_counted(reader: CredentialsBeside) -> None:
    before = reader.totals().taken[CREDENTIALS]
    fork(lambda: os.setresuid(2001, 2001, 2001))
    skipped = reader.skip(ALL)
    assert skipped[CREDENTIALS] >= 1
    assert reader.totals().taken[CREDENTIALS] - before == skipped[CREDENTIALS]
    assert not reader.holds


def test_a_socket_that_fails_costs_these_events_only(programs: ebpf.Programs, narrowed: Connection) -> None:
    with socket.socket() as unconnected:
        unconnected.setblocking(False)
        failing = narrowed._replace(sock=unconnected)
        reader = CredentialsBeside(EbpfReader(programs), failing)
        for _ in range(2):
            told = story(reader, fork(lambda: os.setresuid(2001, 2001, 2001)))
            assert [type(one) for one in told] == [ForkEvent, ExitEvent]
        assert reader.totals().lost["connector_overrun", CREDENTIALS] == 1
        reader.close()


def test_nothing_else_comes_until_everything_is_wanted(narrowed: Connection) -> None:
    subprocess.run(["/bin/true"], check=True)
    while select.select([narrowed.sock], [], [], 0)[0]:
        (message,) = wire.parse_messages(narrowed.sock.recv(4096))
        assert isinstance(message, wire.ChangedIds)  # somebody else's
    reader = ConnectorReader(join(narrowed), look_at)
    child = subprocess.Popen(["/bin/true"])
    child.wait()
    deadline = time.monotonic() + PATIENCE_S
    told: list[type] = []
    while wire.Exited not in told:
        assert time.monotonic() < deadline
        select.select([reader], [], [], 0.1)
        told += [type(one) for one in reader.drain(1000) if one.pid == child.pid]
    assert told == [wire.Forked, wire.Execed, wire.Exited]
    assert reader.totals().lost == {("connector_overrun", ProcessEventKind.UNSPECIFIED): 0}

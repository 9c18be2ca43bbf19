"""The process connector: from threads to processes, and the real socket with real losses."""

from __future__ import annotations

import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from common.errors import DaemonEyeError
from common.messages import ProcessEventKind
from common.service import InheritedSocket
from procmond.confine.roles import confine_collector
from procmond.events import connector
from procmond.events import connector_wire as wire
from procmond.events.connector import (
    Connection,
    ConnectorReader,
    join,
    open_connector,
    split_connector,
)
from procmond.events.found import look_at
from procmond.events.threads import Found, ThreadFilter
from tests.support.daemons import eventually
from tests.support.privilege import needs_root

ALIVE = Found(threads=1, zombie=False)
WITH_THREADS = Found(threads=3, zombie=True)
DEAD = Found(threads=1, zombie=True)
HEAD = (0, 0, 1_000)


class Processes:
    """What /proc shows, by pid."""

    def __init__(self) -> None:
        self.found: dict[int, Found] = {}

    def look(self, pid: int) -> Found | None:
        return self.found.get(pid)


@pytest.fixture
def processes() -> Processes:
    return Processes()


@pytest.fixture
def threads(processes: Processes) -> ThreadFilter:
    return ThreadFilter(processes.look)


def test_threads_are_not_processes(threads: ThreadFilter) -> None:
    assert threads.processes(wire.Forked(*HEAD, 11, 10, 1)) == ()
    assert threads.processes(wire.ChangedIds(*HEAD, 11, 10, False, 1, 1)) == ()
    assert threads.processes(wire.Exited(*HEAD, 11, 10, 0)) == ()
    forked = wire.Forked(*HEAD, 10, 10, 1)
    assert threads.processes(forked) == (forked,)


def test_a_single_thread_ends_its_process(threads: ThreadFilter, processes: Processes) -> None:
    ended = wire.Exited(*HEAD, 10, 10, 0x300)
    assert threads.processes(ended) == (ended,)  # reaped by now
    processes.found[10] = DEAD
    assert threads.processes(ended) == (ended,)


def test_a_leader_that_goes_first_does_not_end_its_process(threads: ThreadFilter) -> None:
    threads.processes(wire.Forked(*HEAD, 10, 10, 1))
    for thread in (11, 12):
        threads.processes(wire.Forked(*HEAD, thread, 10, 1))
    assert threads.processes(wire.Exited(*HEAD, 10, 10, 0)) == ()
    assert threads.processes(wire.Exited(*HEAD, 11, 10, 0)) == ()
    (ended,) = threads.processes(wire.Exited(*HEAD, 12, 10, 0x700))
    assert ended == wire.Exited(*HEAD, 10, 10, 0x700)
    assert threads.processes(wire.Exited(*HEAD, 12, 10, 0x700)) == (), "once"


def test_of_a_process_that_was_there_before_the_threads_are_looked_up(
    threads: ThreadFilter, processes: Processes
) -> None:
    processes.found[10] = WITH_THREADS
    assert threads.processes(wire.Exited(*HEAD, 10, 10, 0)) == ()
    assert threads.processes(wire.Exited(*HEAD, 11, 10, 0)) == ()
    processes.found[10] = DEAD
    (ended,) = threads.processes(wire.Exited(*HEAD, 12, 10, 0x700))
    assert ended == wire.Exited(*HEAD, 10, 10, 0x700)


def test_after_a_loss_everything_is_looked_up(threads: ThreadFilter, processes: Processes) -> None:
    threads.processes(wire.Forked(*HEAD, 10, 10, 1))
    threads.forget()  # a thread may have begun unseen
    processes.found[10] = WITH_THREADS
    assert threads.processes(wire.Exited(*HEAD, 10, 10, 0)) == ()


def test_an_exec_by_a_thread_leaves_one_thread_under_the_leaders_number(threads: ThreadFilter) -> None:
    threads.processes(wire.Forked(*HEAD, 10, 10, 1))
    threads.processes(wire.Forked(*HEAD, 11, 10, 1))
    assert threads.processes(wire.Exited(*HEAD, 10, 10, 0)) == ()
    ran = wire.Execed(*HEAD, 10, 10)
    assert threads.processes(ran) == (ran,)
    ended = wire.Exited(*HEAD, 10, 10, 0x300)
    assert threads.processes(ended) == (ended,)


def test_a_number_used_again_before_the_look_ends_its_last_holder(
    threads: ThreadFilter, processes: Processes
) -> None:
    processes.found[10] = ALIVE  # another process by now
    assert threads.processes(wire.Exited(*HEAD, 10, 10, 0x900)) == ()
    forked = wire.Forked(*HEAD, 10, 10, 1)
    assert threads.processes(forked) == (wire.Exited(*HEAD, 10, 10, 0x900), forked)


@pytest.fixture
def connection() -> Iterator[Connection]:
    opened = open_connector()
    if not isinstance(opened, Connection):
        pytest.skip(f"no process connector here: {opened}")
    yield opened
    opened.close()


def drained(reader: ConnectorReader, until: int) -> list[wire.Message]:
    """Events up to the exit of process `until`."""
    events: list[wire.Message] = []
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        events += reader.drain(1000)
        if any(isinstance(one, wire.Exited) and one.group == until for one in events):
            return events
        time.sleep(0.005)
    raise AssertionError(f"no exit of {until} among {len(events)} events")


@needs_root
def test_a_run_is_forked_execed_and_exited_with_its_status(connection: Connection) -> None:
    reader = ConnectorReader(connection, look_at)
    child = subprocess.Popen(["/bin/sh", "-c", "exit 3"])
    child.wait()
    mine = [one for one in drained(reader, child.pid) if one.group == child.pid]
    assert [type(one) for one in mine] == [wire.Forked, wire.Execed, wire.Exited]
    forked, _, ended = mine
    assert isinstance(forked, wire.Forked)
    assert isinstance(ended, wire.Exited)
    assert forked.parent == os.getpid()
    assert os.waitstatus_to_exitcode(ended.status) == 3


@needs_root
def test_threads_of_a_real_process_leave_no_trace(connection: Connection) -> None:
    reader = ConnectorReader(connection, look_at)
    code = "import threading\nfor _ in range(5): t = threading.Thread(target=int); t.start(); t.join()"
    child = subprocess.Popen([sys.executable, "-S", "-c", code])
    child.wait()
    mine = [one for one in drained(reader, child.pid) if one.group == child.pid]
    assert [type(one) for one in mine] == [wire.Forked, wire.Execed, wire.Exited]


@needs_root
def test_a_process_whose_leader_goes_first_ends_with_its_last_thread(connection: Connection) -> None:
    reader = ConnectorReader(connection, look_at)
    code = (
        "import ctypes, os, threading, time\n"
        "threading.Thread(target=lambda: (time.sleep(0.3), os._exit(7))).start()\n"
        "ctypes.CDLL(None).syscall(60, 0)\n"  # exit, of this thread alone
    )
    if os.uname().machine != "x86_64":
        pytest.skip("the number of exit(2) is written for x86-64")
    child = subprocess.Popen([sys.executable, "-c", code])
    began = time.monotonic()
    assert child.wait() == 7
    ends = [
        one for one in drained(reader, child.pid) if isinstance(one, wire.Exited) and one.group == child.pid
    ]
    assert time.monotonic() - began >= 0.3
    assert [os.waitstatus_to_exitcode(one.status) for one in ends] == [7]


@needs_root
def test_a_signal_that_ends_a_process_is_its_status(connection: Connection) -> None:
    reader = ConnectorReader(connection, look_at)
    child = subprocess.Popen(["/bin/sleep", "60"])
    child.send_signal(signal.SIGKILL)
    child.wait()
    (ended,) = [
        one for one in drained(reader, child.pid) if isinstance(one, wire.Exited) and one.group == child.pid
    ]
    assert os.waitstatus_to_exitcode(ended.status) == -signal.SIGKILL


@needs_root
def test_an_overrun_is_counted_by_the_kernels_own_numbers(connection: Connection) -> None:
    reader = ConnectorReader(connection, look_at)
    reader.drain(100_000)
    before = reader.totals()
    connection.sock.setsockopt(socket.SOL_SOCKET, 33, 2048)  # SO_RCVBUFFORCE: room for a few messages
    for _ in range(60):
        subprocess.run(["/bin/true"], check=True)
    reader.drain(100_000)
    connection.sock.setsockopt(socket.SOL_SOCKET, 33, 1 << 20)
    last = subprocess.Popen(["/bin/true"])
    last.wait()
    drained(reader, last.pid)
    lost = taken = 0

    def told() -> bool:
        nonlocal lost, taken
        for processor in range(os.cpu_count() or 1):  # each processor's next message shows what it lost
            os.sched_setaffinity(0, {processor})
            subprocess.run(["/bin/true"], check=True)
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
        reader.drain(100_000)
        after = reader.totals()
        lost = after.lost["connector_overrun", ProcessEventKind.UNSPECIFIED]
        lost -= before.lost["connector_overrun", ProcessEventKind.UNSPECIFIED]
        taken = sum(after.taken.values()) - sum(before.taken.values())
        return lost > 0 and lost + taken >= 3 * 60

    eventually(told)
    assert lost > 0
    assert lost + taken >= 3 * 60, "a fork, an exec and an exit each, and what others did"


@needs_root
def test_the_next_reader_knows_what_the_last_one_took_and_what_neither_got(connection: Connection) -> None:
    first = ConnectorReader(connection, look_at)
    child = subprocess.Popen(["/bin/true"])
    child.wait()
    drained(first, child.pid)
    totals = first.totals()
    assert ConnectorReader(connection, look_at).totals() == totals
    # A reader that is killed between taking messages and noting it:
    child = subprocess.Popen(["/bin/true"])
    child.wait()
    stolen = len(list(_raw(connection)))
    assert stolen >= 3
    second = ConnectorReader(connection, look_at)
    for processor in os.sched_getaffinity(0):
        os.sched_setaffinity(0, {processor})
        last = subprocess.Popen(["/bin/true"])
        last.wait()
        drained(second, last.pid)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    key = ("connector_overrun", ProcessEventKind.UNSPECIFIED)
    assert second.totals().lost[key] - totals.lost[key] == stolen


def _raw(connection: Connection) -> Iterator[bytes]:
    while True:
        try:
            yield connection.sock.recv(4096)
        except BlockingIOError:
            return


@needs_root
def test_in_reserve_it_gets_nothing_until_it_joins() -> None:
    opened = open_connector(standby=True)
    if not isinstance(opened, Connection):
        pytest.skip(f"no process connector here: {opened}")
    try:
        list(_raw(opened))
        subprocess.run(["/bin/true"], check=True)
        assert list(_raw(opened)) == []
        joined = join(opened)
        child = subprocess.Popen(["/bin/true"])
        child.wait()
        drained(ConnectorReader(joined, look_at), child.pid)
    finally:
        opened.close()


@needs_root
@pytest.mark.parametrize("narrowed", [False, True])
def test_a_confined_collector_may_join_too(narrowed: bool) -> None:
    opened = open_connector(standby=True, narrowed=narrowed)
    if not isinstance(opened, Connection):
        pytest.skip(f"no process connector here: {opened}")
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            confine_collector(required=False)
            join(opened)
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    opened.close()


@needs_root
def test_of_the_sockets_passed_the_connectors_is_known_by_its_kind() -> None:
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 11)
    other = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    passed = [InheritedSocket(one.fileno(), "x") for one in (other, netlink)]
    found, rest = split_connector(passed)
    assert found is not None
    assert found.detach() == netlink.fileno()
    assert rest == [passed[0]]
    netlink.close()
    other.close()


@needs_root
def test_a_socket_that_was_bound_by_another_serves_as_well() -> None:
    passed = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 11)
    passed.bind((0, wire.GROUP))  # as systemd's ListenNetlink=connector 1 does
    opened = open_connector(passed)
    if not isinstance(opened, Connection):
        pytest.skip(f"no process connector here: {opened}")
    assert opened.sock is passed
    opened.close()


@needs_root
@pytest.mark.usefixtures("connection")  # while somebody asked for them, events go to all that are bound
def test_a_socket_that_overran_before_it_was_handed_over_serves_as_well() -> None:
    passed = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 11)
    passed.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)  # the kernel's least: two messages
    passed.bind((0, wire.GROUP))
    for _ in range(10):
        subprocess.run(["/bin/true"], check=True)
    opened = open_connector(passed)
    assert isinstance(opened, Connection), opened
    opened.close()


def test_a_socket_that_gives_nothing_more_says_so() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    theirs.close()
    ours.setblocking(False)
    ours.close()
    reader = ConnectorReader(Connection(ours, mmap.mmap(-1, connector.Ledger.SIZE), joined=True), look_at)
    with pytest.raises(DaemonEyeError, match="process connector"):
        reader.drain(1)


@needs_root
def test_where_nobody_answers_it_is_not_there() -> None:
    """In a network namespace of its own the kernel never acknowledges."""
    result: list[object] = []

    def ask() -> None:
        import ctypes

        if ctypes.CDLL(None).unshare(0x40000000) == 0:  # CLONE_NEWNET, of this thread alone
            began = time.monotonic()
            result.append(open_connector())
            result.append(time.monotonic() - began)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    if not result:
        pytest.skip("a network namespace is not to be had")
    assert isinstance(result[0], str)
    assert isinstance(result[1], float)
    assert result[1] < 2

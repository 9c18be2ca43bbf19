"""A confined process refuses every attack and goes on; the same attacks work where nothing confines it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
import uvloop

from tests.support.attack_stage import confine, snapshot, stage, try_attacks, try_one
from tests.support.attacks import ATTACKS, FRONT_UID, KILLING, Attack, Role, Stage
from tests.support.children import child_of
from tests.support.privilege import needs_root

pytestmark = needs_root


def by_name(attack: Attack) -> str:
    return attack.name


@contextlib.contextmanager
def _answering() -> Iterator[Callable[[], None]]:
    """The front's work: accept a peer, know who it is, answer it. Its sockets are made before confinement."""
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as peer:
        listener.bind("\0daemoneye-test-" + os.urandom(8).hex())
        listener.listen()
        peer.connect(listener.getsockname())
        peer.sendall(b"question\n")
        yield lambda: _answer(listener, peer)


def _answer(listener: socket.socket, peer: socket.socket) -> None:
    async def serve() -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, lambda: None)
        listener.setblocking(False)
        accepted, _ = await loop.sock_accept(listener)  # as the front: uvloop's servers listen() once more
        accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        question, writer = await asyncio.open_unix_connection(sock=accepted)
        answer, _ = await asyncio.open_unix_connection(sock=peer)
        writer.write(b"answer to " + await question.readline())
        assert await answer.readline() == b"answer to question\n"
        writer.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())


def _read_processes(victim: int) -> None:
    """The collector's work: facts and the image of another user's process, hashed in a thread."""
    assert b"python" in os.readlink(os.fsencode(f"/proc/{victim}/exe"))
    assert os.listdir(f"/proc/{victim}/fd")
    digests = []

    def read() -> None:
        with open(f"/proc/{victim}/exe", "rb") as image:
            digests.append(hashlib.file_digest(image, "sha256").hexdigest())

    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    assert len(digests[0]) == 64


def _replace_children(victim: int) -> None:
    """The supervisor's work: a front of another user and a collector, each confined for itself."""

    def front() -> None:
        assert confine(Role.FRONT).capabilities == ()
        assert {os.getuid(), os.geteuid(), os.getgid(), os.getegid()} == {FRONT_UID}

    def collector() -> None:
        assert confine(Role.COLLECTOR).capabilities == ("CAP_DAC_READ_SEARCH", "CAP_SYS_PTRACE")
        _read_processes(victim)

    for child in (front, collector):
        assert os.waitpid(child_of(child), 0)[1] == 0


@contextlib.contextmanager
def proper_work(role: Role, where: Stage) -> Iterator[Callable[[], None]]:
    """What a process of this role is there for."""
    match role:
        case Role.FRONT:
            with _answering() as work:
                yield work
        case Role.COLLECTOR:
            yield lambda: _read_processes(where.victim)
        case Role.SUPERVISOR:
            yield lambda: _replace_children(where.victim)


@pytest.mark.parametrize("role", Role)
def test_confined_process_refuses_every_attack_and_goes_on_working(role: Role) -> None:
    with stage() as where, proper_work(role, where) as work:
        before = snapshot(where)
        outcomes, status = try_attacks(ATTACKS, where, role, work)
        told = {attack.name: outcome for attack, outcome in zip(ATTACKS, outcomes, strict=True)}
        assert told == {attack.name: attack.expected(role) for attack in ATTACKS}
        assert status == 0, "the process did not go on with its work"
        assert snapshot(where) == before


@pytest.mark.parametrize("attack", KILLING, ids=by_name)
@pytest.mark.parametrize("role", Role)
def test_call_of_another_architecture_ends_the_process(role: Role, attack: Attack) -> None:
    with stage() as where:
        assert try_one(attack, where, role) == attack.refusal


@pytest.mark.parametrize("attack", ATTACKS + KILLING, ids=by_name)
def test_attack_works_where_nothing_confines(attack: Attack) -> None:
    with stage() as where:
        assert try_one(attack, where, None) in attack.unconfined

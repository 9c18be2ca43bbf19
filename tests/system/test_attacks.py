"""The attack list tried inside the real daemons, confined as they confine themselves; then they go on."""

from __future__ import annotations

import os
import shutil
import signal
import struct

from common.listening import Listener
from common.messages import CollectionOptions, DetectionTask, TaskType, new_enumerate_task
from procmond.access import resolve_access
from procmond.config import load, parse_arguments
from procmond.main import supervise
from tests.support.attack_stage import isolate, snapshot, stage
from tests.support.attacks import ATTACKS, FRONT_UID, Role, Stage, outcome_of
from tests.support.children import child_of
from tests.support.daemons import Client, public_directory
from tests.support.privilege import needs_root

pytestmark = needs_root

_RECORD = struct.Struct("=ci")


def _serve(directory: str, where: Stage, writer: int) -> None:
    """In a child: the real procmond, in which each process tries every attack once it is confined."""
    isolate()
    supervisor = os.getpid()
    os.dup2(writer, 0)  # one of the three descriptors that the children keep

    def attack() -> None:
        if os.getpid() == supervisor:
            role = Role.SUPERVISOR
        else:
            role = Role.FRONT if os.geteuid() == FRONT_UID else Role.COLLECTOR
        for one in ATTACKS:
            os.write(0, _RECORD.pack(role.value[:1].encode(), outcome_of(one, where)))

    path = f"{directory}/procmond.sock"
    arguments = parse_arguments(
        ["--socket", path, "--allow-user", "0", "--admin-user", "0", "--allow-group", "0"]
    )
    resolved = load(arguments, {"PROCMOND_FRONT_USER": str(FRONT_UID)})
    with Listener(path, 0) as listener:
        assert listener.sock is not None
        supervise(listener.sock, resolved, resolve_access(resolved), lambda: None, attack)


def test_each_process_of_the_real_daemon_refuses_every_attack_and_goes_on() -> None:
    directory = public_directory()
    with stage() as where:
        reader, writer = os.pipe()  # after the victims were forked: they would keep it open
        before = snapshot(where)
        pid = child_of(lambda: _serve(directory, where, writer))
        os.close(writer)
        try:
            expected = 3 * len(ATTACKS) * _RECORD.size
            told = b""
            while len(told) < expected and (more := os.read(reader, 65536)):
                told += more
            outcomes: dict[str, list[int]] = {}
            for initial, outcome in _RECORD.iter_unpack(told):
                outcomes.setdefault(initial.decode(), []).append(outcome)
            for role in Role:
                found = dict(zip((one.name for one in ATTACKS), outcomes[role.value[:1]], strict=True))
                assert found == {one.name: one.expected(role) for one in ATTACKS}, role
            assert snapshot(where) == before
            with Client(f"{directory}/procmond.sock") as client:
                frames = client.ask(new_enumerate_task("e", stream=True, options=CollectionOptions()))
                assert frames[-1].success
                assert where.victim in {record.pid for frame in frames for record in frame.processes}
                (capabilities,) = client.ask(
                    DetectionTask(task_id="c", task_type=TaskType.NEGOTIATE_CAPABILITIES)
                )
                assert capabilities.capability_response is not None
                assert capabilities.capability_response.confined
        finally:
            os.close(reader)
            os.kill(pid, signal.SIGTERM)
            os.waitpid(pid, 0)
            shutil.rmtree(directory)

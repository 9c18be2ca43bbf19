"""procmond with less than root, or no way to confine itself: it says what it does not see, or refuses."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from common.messages import (
    CapabilityResponse,
    CollectionOptions,
    CollectionSummary,
    DetectionTask,
    HashState,
    ProcessRecord,
    TaskType,
    new_enumerate_task,
)
from procmond.confine import kernel, seccomp
from procmond.confine.capabilities import Capability, Status, mask_of, parse_status
from procmond.confine.machine import number, this_machine
from procmond.confine.seccomp import Instruction
from tests.support.attacks import FRONT_UID, call
from tests.support.children import become
from tests.support.daemons import Procmond, eventually
from tests.support.forked import Forked
from tests.support.privilege import needs_root

pytestmark = needs_root

SOMEBODY = 64_200
READING = (Capability.DAC_READ_SEARCH, Capability.SYS_PTRACE)
EVERY_ROLE = ("supervisor", "front", "collector")

_PR_SET_KEEPCAPS = 8
_PR_CAP_AMBIENT_RAISE = 2
_CLONE_NEWNS = 0x20000
_MS_REC_PRIVATE = 0x4000 | 0x40000


def ordinary() -> None:
    """An ordinary user."""
    become(SOMEBODY)


def with_ambient_capabilities() -> None:
    """As `AmbientCapabilities=` of a unit leaves it."""
    kernel.prctl(_PR_SET_KEEPCAPS, 1)
    become(SOMEBODY)
    kernel.capset(mask_of(READING), mask_of(READING), mask_of(READING))
    for capability in READING:
        kernel.prctl(kernel.PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability)


def without_seccomp() -> None:
    """A kernel, or a container, that knows no seccomp(2)."""
    machine = this_machine()
    assert machine is not None
    refused = number(machine, "seccomp")
    assert refused is not None
    program = (
        Instruction(seccomp.LOAD, 0, 0, seccomp.OFFSET_NUMBER),
        Instruction(seccomp.JUMP_EQUAL, 0, 1, refused),
        Instruction(seccomp.RETURN, 0, 0, seccomp.ERRNO | errno.ENOSYS),
        Instruction(seccomp.RETURN, 0, 0, seccomp.ALLOW),
    )
    seccomp.install(program, machine)


def without_proc() -> None:
    """An empty /proc."""
    kernel.unshare(_CLONE_NEWNS)
    call("mount", b"none", b"/", 0, _MS_REC_PRIVATE, 0)
    call("mount", b"none", b"/proc", b"tmpfs", 0, 0)


@contextmanager
def process_of(uid: int) -> Iterator[int]:
    process = subprocess.Popen(["/bin/sleep", "4711"], user=uid, group=uid, extra_groups=[])
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def told(procmond: Procmond) -> CapabilityResponse:
    with procmond.connect() as client:
        (result,) = client.ask(DetectionTask(task_id="n", task_type=TaskType.NEGOTIATE_CAPABILITIES))
    assert result.capability_response is not None
    return result.capability_response


def swept(procmond: Procmond) -> tuple[dict[int, ProcessRecord], CollectionSummary]:
    with procmond.connect() as client:
        frames = client.ask(new_enumerate_task("e", stream=True, options=CollectionOptions()))
    assert frames[-1].success
    assert frames[-1].summary is not None
    return {record.pid: record for frame in frames for record in frame.processes}, frames[-1].summary


def status_of(pid: int) -> Status:
    with open(f"/proc/{pid}/status", "rb") as file:
        return parse_status(file.read())


def both_children(procmond: Procmond) -> dict[str, int]:
    """Empty while one is being replaced."""
    children = procmond.children()
    return children if len(children) == 2 else {}


def statuses(procmond: Procmond) -> dict[str, Status]:
    pids = {"supervisor": procmond.pid, **eventually(lambda: both_children(procmond))}
    return {role: status_of(pids[role]) for role in EVERY_ROLE}


def said_once(procmond: Procmond) -> list[str]:
    """What it said at start that it cannot see."""
    (line,) = procmond.log("view_limited")
    assert line["level"] == "info"
    limitations: list[str] = line["limitations"]
    return limitations


def test_an_ordinary_user_serves_what_it_can_and_says_what_it_cannot_see() -> None:
    with (
        process_of(0) as stranger,
        process_of(SOMEBODY) as own,
        Forked(ordinary, owner=SOMEBODY) as procmond,
    ):
        for status in statuses(procmond).values():
            assert set(status.user_ids) == {SOMEBODY}
            assert (status.permitted, status.effective, status.ambient) == (0, 0, 0)
            assert (status.no_new_privs, status.seccomp_mode) == (True, 2)
        response = told(procmond)
        assert response.confined
        assert response.retained_capabilities == ()
        ptrace, read_search = response.limitations
        assert "CAP_SYS_PTRACE" in ptrace
        assert "CAP_DAC_READ_SEARCH" in read_search
        assert said_once(procmond) == [ptrace, read_search]

        records, summary = swept(procmond)
        theirs, ours = records[stranger], records[own]
        assert not theirs.accessible
        assert (theirs.hash_state, theirs.executable_hash) == (HashState.DENIED, None)
        assert theirs.command_line == ("/bin/sleep", "4711"), "this everybody may read"
        assert ours.accessible
        assert (ours.hash_state, len(ours.executable_hash or "")) == (HashState.OK, 64)
        assert summary.processes_inaccessible == sum(not record.accessible for record in records.values())
        assert summary.executables_unhashed > 0
        assert procmond.stop() == 0


def test_limitations_are_not_said_again_for_a_collector_that_takes_over() -> None:
    with Forked(ordinary, owner=SOMEBODY) as procmond:
        before = procmond.children()["collector"]
        os.kill(before, signal.SIGKILL)
        eventually(lambda: procmond.children().get("collector", before) != before)
        swept(procmond)
        assert said_once(procmond)


def test_an_ordinary_user_with_ambient_capabilities_sees_all() -> None:
    with process_of(0) as stranger, Forked(with_ambient_capabilities, owner=SOMEBODY) as procmond:
        found = statuses(procmond)
        assert {role: status.permitted for role, status in found.items()} == {
            "supervisor": mask_of(READING),
            "front": 0,
            "collector": mask_of(READING),
        }
        for status in found.values():
            assert set(status.user_ids) == {SOMEBODY}
            assert (status.inheritable, status.ambient) == (0, 0), "nothing would pass an exec"
        assert found["supervisor"].effective == 0
        response = told(procmond)
        assert response.confined
        assert response.retained_capabilities == ("CAP_DAC_READ_SEARCH", "CAP_SYS_PTRACE")
        assert response.limitations == ()
        assert not procmond.log("view_limited")

        records, _ = swept(procmond)
        assert records[stranger].accessible
        assert (records[stranger].hash_state, len(records[stranger].executable_hash or "")) == (
            HashState.OK,
            64,
        )


def test_root_that_cannot_confine_itself_does_not_serve() -> None:
    procmond = Forked(without_seccomp)
    try:
        status, lines = procmond.refusal()
        assert status == 1
        (line,) = lines
        assert line.startswith("procmond: the supervisor is not confined: the system call filter: ")
        assert line.endswith("; --allow-unconfined starts it all the same")
        assert not procmond.log("child_started")
    finally:
        procmond.close()


def test_it_serves_when_told_to_and_says_that_it_is_not_confined() -> None:
    with Forked(without_seccomp, "--allow-unconfined") as procmond:
        assert not told(procmond).confined
        records, _ = swept(procmond)
        assert records[procmond.pid].accessible
        front = status_of(procmond.children()["front"])
        assert (front.permitted, front.no_new_privs) == (0, True), "what can be given up is"
        (warning,) = procmond.log("supervisor_not_confined")
        assert "the system call filter" in warning["missing"][0]
        assert {line["child"] for line in procmond.log("child_not_confined")} == {"front", "collector"}


@pytest.mark.parametrize("arguments", [(), ("--allow-unconfined",)], ids=["confined", "unconfined"])
def test_without_proc_there_is_nothing_to_serve(arguments: tuple[str, ...]) -> None:
    procmond = Forked(without_proc, *arguments)
    try:
        status, (line,) = procmond.refusal()
        assert status == 1
        assert line.startswith("procmond: the supervisor: /proc/self/status cannot be opened: ")
        assert line.endswith("; nothing here works without /proc")
    finally:
        procmond.close()


def test_the_front_runs_as_its_own_user_and_so_does_the_next_one() -> None:
    with Procmond(environment={"PROCMOND_FRONT_USER": str(FRONT_UID)}) as procmond:
        for _ in range(2):
            found = statuses(procmond)
            front = found["front"]
            assert (set(front.user_ids), set(front.group_ids), front.groups) == ({FRONT_UID}, {FRONT_UID}, ())
            assert (front.permitted, front.effective, front.bounding, front.inheritable) == (0, 0, 0, 0)
            assert found["supervisor"].effective == 0
            assert set(found["collector"].user_ids) == {0}
            records, _ = swept(procmond)
            assert records[procmond.pid].accessible
            before = procmond.children()["front"]
            os.kill(before, signal.SIGKILL)
            eventually(lambda before=before: procmond.children().get("front", before) != before)  # type: ignore[misc]
            with procmond.connect() as client:
                negotiate = DetectionTask(task_id="n", task_type=TaskType.NEGOTIATE_CAPABILITIES)
                assert client.ask(negotiate)[0].success


def test_a_front_user_that_procmond_may_not_become_is_refused_at_once() -> None:
    procmond = Forked(ordinary, owner=SOMEBODY, environment={"PROCMOND_FRONT_USER": str(FRONT_UID)})
    try:
        status, lines = procmond.refusal()
        assert status == 1
        (line,) = lines
        assert "CAP_SETGID and CAP_SETUID would be needed" in line
    finally:
        procmond.close()

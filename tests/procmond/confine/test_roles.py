"""What a process holds after confinement: as root, as a user, with ambient capabilities."""

from __future__ import annotations

import errno
import os
import pickle
import select
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from common.errors import ConfinementError
from procmond.confine import (
    Confinement,
    confine_collector,
    confine_front,
    confine_supervisor,
    kernel,
    reserve_process_group,
)
from procmond.confine.capabilities import Capability, Status, keep, mask_of, open_status, read_status
from tests.support.attacks import FRONT_UID, NOBODY
from tests.support.children import PATIENCE_S, child_of
from tests.support.privilege import needs_root

READING = mask_of((Capability.SYS_PTRACE, Capability.DAC_READ_SEARCH))
BECOMING = mask_of((Capability.SETUID, Capability.SETGID))
PR_SET_KEEPCAPS, PR_CAP_AMBIENT_RAISE = 8, 2


def told_by(body: Callable[[], object]) -> Any:
    """What `body` returns in a child; for a ConfinementError, its text."""
    reader, writer = os.pipe()

    def tell() -> None:
        try:
            answer = body()
        except ConfinementError as error:
            answer = str(error)
        os.write(writer, pickle.dumps(answer))

    pid = child_of(tell)
    os.close(writer)
    told = b"".join(iter(lambda: os.read(reader, 65536), b""))
    os.close(reader)
    assert os.waitpid(pid, 0)[1] == 0
    return pickle.loads(told)


def status_after(
    confine: Callable[[], Confinement], before: Callable[[], None] = lambda: None
) -> tuple[Confinement, Status]:
    def body() -> tuple[Confinement, Status]:
        before()
        descriptor = open_status()
        return confine(), read_status(descriptor)

    confinement, status = told_by(body)
    return confinement, status


def become_a_user(*kept: Capability) -> Callable[[], None]:
    """Nobody, with `kept` in every set a unit's AmbientCapabilities= fills."""

    def become() -> None:
        kernel.prctl(PR_SET_KEEPCAPS, 1)
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        mask = mask_of(kept)
        kernel.capset(mask, mask, mask)
        for capability in kept:
            kernel.prctl(kernel.PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability)

    return become


@needs_root
@pytest.mark.parametrize(
    ("confine", "permitted", "effective"),
    [
        (lambda: confine_front(FRONT_UID, FRONT_UID), 0, 0),
        (confine_front, 0, 0),
        (confine_collector, READING, READING),
        (lambda: confine_supervisor(FRONT_UID, FRONT_UID), READING | BECOMING, 0),
        (confine_supervisor, READING, 0),
    ],
    ids=["front with a user", "front", "collector", "supervisor of two users", "supervisor"],
)
def test_root_keeps_exactly_what_its_role_needs(
    confine: Callable[[], Confinement], permitted: int, effective: int
) -> None:
    confinement, status = status_after(confine)
    assert confinement == Confinement(confinement.capabilities, True, True, ())
    assert (status.permitted, status.effective) == (permitted, effective)
    assert (status.inheritable, status.ambient, status.bounding) == (0, 0, 0)
    assert (status.seccomp_mode, status.no_new_privs) == (2, True)


@needs_root
def test_front_becomes_its_user_and_leaves_every_group() -> None:
    _, status = status_after(lambda: confine_front(FRONT_UID, FRONT_UID + 1), lambda: os.setgroups([1, 2, 3]))
    assert status.user_ids == (FRONT_UID,) * 4
    assert status.group_ids == (FRONT_UID + 1,) * 4
    assert status.groups == ()


@needs_root
@pytest.mark.parametrize("confine", [confine_front, confine_collector, confine_supervisor])
def test_a_user_with_nothing_to_give_up_is_filtered_all_the_same(confine: Callable[[], Confinement]) -> None:
    confinement, status = status_after(confine, become_a_user())
    assert confinement == Confinement((), True, True, ())
    assert status.user_ids == (NOBODY,) * 4
    assert status.permitted == 0


@needs_root
def test_ambient_capabilities_are_kept_as_the_role_says_and_are_ambient_no_more() -> None:
    given = become_a_user(Capability.SYS_PTRACE, Capability.DAC_READ_SEARCH, Capability.SETUID)
    confinement, status = status_after(confine_collector, given)
    assert confinement.capabilities == ("CAP_DAC_READ_SEARCH", "CAP_SYS_PTRACE")
    assert (status.permitted, status.effective) == (READING, READING)
    assert (status.inheritable, status.ambient) == (0, 0)
    confinement, status = status_after(confine_front, given)
    assert (confinement.capabilities, status.permitted) == ((), 0)


@needs_root
def test_collector_with_half_its_capabilities_says_so() -> None:
    confinement, _ = status_after(confine_collector, become_a_user(Capability.SYS_PTRACE))
    assert confinement.capabilities == ("CAP_SYS_PTRACE",)


@needs_root
def test_front_that_cannot_become_its_user_refuses() -> None:
    def body() -> Confinement:
        become_a_user()()
        return confine_front(FRONT_UID, FRONT_UID)

    told = told_by(body)
    assert told.startswith(
        f"the front is not confined: becoming user {FRONT_UID}, group {FRONT_UID}: Operation"
    )


@needs_root
def test_what_is_missing_is_told_where_confinement_is_not_required() -> None:
    become = become_a_user()
    confinement, _ = status_after(lambda: confine_front(FRONT_UID, FRONT_UID, required=False), become)
    assert (confinement.capabilities, confinement.filtered, confinement.no_new_privs) == ((), True, True)
    assert len(confinement.missing) == 2
    assert "becoming user" in confinement.missing[0]


def test_a_process_with_threads_refuses() -> None:
    def body() -> Confinement:
        held = threading.Event()
        threading.Thread(target=held.wait, daemon=True).start()
        return confine_collector()

    assert "2 threads run" in told_by(body)


@needs_root
def test_filter_is_verified_by_more_than_the_kernels_word(monkeypatch: pytest.MonkeyPatch) -> None:
    def body() -> Confinement:
        allow_all = ((0x06, 0, 0, 0x7FFF0000),)
        monkeypatch.setattr("procmond.confine.seccomp.assemble", lambda _rules, _machine: allow_all)
        return confine_collector()

    told = told_by(body)
    assert "the filter let unshare(0) through" in told
    assert 'the filter let open("/", O_WRONLY) through' in told


@needs_root
def test_capabilities_that_stay_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def body() -> Confinement:
        monkeypatch.setattr("procmond.confine.capabilities.keep", lambda _permitted, _effective: None)
        return confine_front()

    assert "the permitted capabilities are 0x" in told_by(body)


@needs_root
def test_processor_without_a_filter_is_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    def body() -> Confinement:
        monkeypatch.setattr("procmond.confine.roles.this_machine", lambda: None)
        return confine_front()

    assert "no system call filter is known for" in told_by(body)


@needs_root
def test_supervisor_ends_a_hanging_child_of_its_group() -> None:
    group = reserve_process_group()

    def supervise() -> None:
        confine_supervisor(killable_groups=(group,))
        reader, writer = os.pipe()

        def hang() -> None:
            os.setpgid(0, group)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            os.write(writer, b"x")
            select.poll().poll(PATIENCE_S * 1000)  # neither pause() nor sleep() is in the tables

        pid = child_of(hang)
        os.read(reader, 1)
        os.killpg(group, signal.SIGKILL)
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL

    try:
        assert os.waitpid(child_of(supervise), 0)[1] == 0
    finally:
        assert os.waitpid(group, 0) == (group, 0)  # its one member, gone since it was made


@needs_root
def test_confined_child_ends_itself_when_its_deadline_passes() -> None:
    def hang() -> None:
        confine_collector()
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        left, right = socket.socketpair()
        with left, right:
            left.recv(1)

    assert os.waitpid(child_of(hang), 0)[1] == signal.SIGALRM


def test_errors_of_the_kernel_are_oserrors() -> None:
    with pytest.raises(OSError, match="Invalid argument") as error:
        kernel.prctl(0x7FFFFFFF)
    assert error.value.errno == errno.EINVAL
    with pytest.raises(OSError, match="Function not implemented"):
        kernel.syscall(100_000)
    with pytest.raises(OSError, match="Invalid argument"):
        kernel.unshare(1)


@needs_root
def test_a_capability_not_held_cannot_be_taken() -> None:
    def body() -> str:
        become_a_user()()
        try:
            keep(READING, READING)
        except PermissionError as error:
            return str(error.strerror)
        return "taken"

    assert told_by(body) == "Operation not permitted"

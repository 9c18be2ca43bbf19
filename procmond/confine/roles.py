"""What each process gives up, and the proof that it has. One rule: confined and verified, or an error.

Called once by each process, on its only thread, after everything it will ever import is imported, every
file and socket it must not open later is open, and every name (users, time zone) is resolved.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import NamedTuple

from common.errors import ConfinementError
from procmond.confine import capabilities, kernel, policy, seccomp
from procmond.confine.capabilities import Capability, Status
from procmond.confine.machine import Machine, this_machine
from procmond.confine.seccomp import Rule
from procmond.confinement import Confinement


class _Aim(NamedTuple):
    """What must hold afterwards."""

    permitted: int
    effective: int
    bounding: int | None
    """None: CAP_SETPCAP was not there to change it. It matters only to exec, which is refused anyway."""
    identity: tuple[int, int] | None
    """The user and group to be, and no other group; None: whoever the process is."""
    filters: int | None
    """How many filters are then stacked; None where the kernel does not say."""


def _verify(aim: _Aim, status: Status) -> list[str]:
    """What `status` shows not to be as `aim` says. Pure."""
    wrong = []
    if status.threads != 1:
        wrong.append(f"{status.threads} threads run; capabilities would be dropped for one")
    sets = {
        "permitted": (aim.permitted, status.permitted),
        "effective": (aim.effective, status.effective),
        "inheritable": (0, status.inheritable),
        "ambient": (0, status.ambient),
        "bounding": (aim.bounding, status.bounding),
    }
    for name, (expected, held) in sets.items():
        if expected is not None and held != expected:
            wrong.append(f"the {name} capabilities are {held:#x}, not {expected:#x}")
    if aim.identity is not None:
        uid, gid = aim.identity
        if set(status.user_ids) != {uid} or set(status.group_ids) != {gid} or status.groups:
            actual = (status.user_ids, status.group_ids, status.groups)
            wrong.append(f"users, groups and other groups are {actual}; not {uid}, {gid} and none")
    if not status.no_new_privs:
        wrong.append("no_new_privs is not set")
    if status.seccomp_mode != 2:
        wrong.append(f"the system call filter is not in force (mode {status.seccomp_mode})")
    elif aim.filters is not None and status.seccomp_filters != aim.filters:
        wrong.append(f"{status.seccomp_filters} filters are in force, not {aim.filters}")
    return wrong


def _probe() -> list[str]:
    """Try two calls every table refuses; without a filter neither does anything, nor fails with EPERM."""
    probes: dict[str, Callable[[], object]] = {
        "unshare(0)": lambda: kernel.unshare(0),  # nothing
        'open("/", O_WRONLY)': lambda: os.open("/", os.O_WRONLY),  # EISDIR, or EACCES
    }
    wrong: list[str] = []
    for name, probe in probes.items():
        try:
            probe()
        except OSError as error:
            if error.errno == errno.EPERM:
                continue
        wrong.append(f"the filter let {name} through")
    return wrong


def _confine(
    who: str,
    *,
    kept: frozenset[Capability],
    needed: frozenset[Capability] = frozenset(),
    effective: bool,
    identity: tuple[int, int] | None,
    rules: Callable[[int, Machine], tuple[Rule, ...]],
    required: bool,
) -> Confinement:
    missing: list[str] = []

    def attempt(step: str, action: Callable[[], None]) -> None:
        try:
            action()
        except OSError as error:
            missing.append(f"{step}: {error.strerror}")

    try:
        reading_before, reading_after = capabilities.open_status(), capabilities.open_status()
    except OSError as error:
        raise ConfinementError(
            f"{who}: /proc/self/status cannot be opened: {error.strerror}; nothing here works without /proc"
        ) from None
    before = capabilities.read_status(reading_before)
    if before.threads != 1:
        missing.append(f"{before.threads} threads run before anything is given up")

    lacking = capabilities.mask_of(needed) & ~before.permitted
    if lacking:
        missing.append(f"{' and '.join(capabilities.names_of(lacking))} would be needed")
    has_setpcap = bool(before.permitted & capabilities.mask_of((Capability.SETPCAP,)))
    permitted = before.permitted & capabilities.mask_of(kept)
    attempt("raising what is permitted", lambda: capabilities.keep(before.permitted, before.permitted))
    if has_setpcap:
        attempt("emptying the bounding set", capabilities.drop_bounding_set)
    if identity is not None:
        uid, gid = identity
        attempt(f"becoming user {uid}, group {gid}", lambda: capabilities.become(uid, gid))
    attempt("dropping capabilities", lambda: capabilities.keep(permitted, permitted if effective else 0))
    attempt("no_new_privs", capabilities.set_no_new_privs)

    machine = this_machine()
    if machine is None:
        missing.append(f"no system call filter is known for {os.uname().machine}")
    else:
        program = seccomp.assemble(rules(os.getpid(), machine), machine)
        attempt("the system call filter", lambda: seccomp.install(program, machine))

    after = capabilities.read_status(reading_after)
    filters = None if before.seccomp_filters is None else before.seccomp_filters + 1
    bounding = 0 if has_setpcap else None
    aim = _Aim(permitted, permitted if effective else 0, bounding, identity, filters)
    missing += _verify(aim, after)
    unfiltered = _probe()
    missing += unfiltered
    if missing and required:
        raise ConfinementError(
            f"{who} is not confined: {'; '.join(missing)}; --allow-unconfined starts it all the same"
        )
    return Confinement(
        capabilities=capabilities.names_of(after.permitted),
        filtered=after.seccomp_mode == 2 and not unfiltered,
        no_new_privs=after.no_new_privs,
        missing=tuple(missing),
    )


def confine_front(uid: int | None = None, gid: int | None = None, *, required: bool = True) -> Confinement:
    """Leave the front with nothing: no capability, no file it can open, and `uid`, `gid` where given.

    Both or neither are given. Neither: it stays who it is, still without a capability.

    Raises: ConfinementError saying what is not in force; with `required=False` only if /proc is not there
        to say what is, and `Confinement.missing` holds the rest.
    """
    identity = None if uid is None or gid is None else (uid, gid)
    return _confine(
        "the front",
        kept=frozenset(),
        effective=False,
        identity=identity,
        rules=lambda own_pid, _machine: policy.front_rules(own_pid),
        required=required,
    )


READING = frozenset({Capability.SYS_PTRACE, Capability.DAC_READ_SEARCH})
"""What reading about other users' processes takes; see capabilities(7) and proc(5)."""


def confine_collector(*, required: bool = True) -> Confinement:
    """Leave the collector with CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH, as far as it has them, and reading.

    Raises: ConfinementError, as `confine_front`.
    """
    return _confine(
        "the collector",
        kept=READING,
        effective=True,
        identity=None,
        rules=policy.collector_rules,
        required=required,
    )


def confine_supervisor(
    front_uid: int | None = None,
    front_gid: int | None = None,
    *,
    killable_groups: tuple[int, ...] = (),
    required: bool = True,
) -> Confinement:
    """Leave the supervisor with what starting the other two again takes, permitted but not in effect.

    `killable_groups`: process groups, from `reserve_process_group`, that it may send SIGKILL to and its
    children may join; without any it can signal nobody. It may become `front_uid` and `front_gid`, both
    or neither given, and nobody else.

    Raises: ConfinementError, as `confine_front`.
    """
    front = None if front_uid is None or front_gid is None else (front_uid, front_gid)
    becoming = frozenset() if front is None else frozenset({Capability.SETUID, Capability.SETGID})
    return _confine(
        "the supervisor",
        kept=READING | becoming,
        needed=frozenset() if front == (os.geteuid(), os.getegid()) else becoming,
        effective=False,
        identity=None,
        rules=lambda own_pid, machine: policy.supervisor_rules(own_pid, machine, front, killable_groups),
        required=required,
    )

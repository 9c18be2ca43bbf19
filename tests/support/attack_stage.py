"""Where attacks are tried. One rule: what an attack reaches was made for it and is gone afterwards.

Every try runs in a child in a mount namespace of its own with an empty /etc; its victims are children too.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import mmap
import os
import shutil
import socket
import struct
import tempfile
from collections.abc import Callable, Iterator, Sequence

from procmond.confine import Confinement, confine_collector, confine_front, confine_supervisor, kernel
from tests.support.attacks import FRONT_UID, NOBODY, Attack, Role, Stage, call, outcome_of
from tests.support.children import become, child_of, pause_forever, running

_CLONE_NEWNS = 0x20000
_MS_REC_PRIVATE = 0x4000 | 0x40000

# push rbx; mov eax, 20 (getpid of i386); int 0x80; pop rbx; ret
_FOREIGN_CALL = bytes.fromhex("53 b814000000 cd80 5b c3")


def isolate() -> None:
    """A mount namespace of one's own, with an empty /etc: what an attack changes there nobody else sees."""
    kernel.unshare(_CLONE_NEWNS)
    call("mount", b"none", b"/", 0, _MS_REC_PRIVATE, 0)
    call("mount", b"none", b"/etc", b"tmpfs", 0, 0)


@contextlib.contextmanager
def _victim(uid: int) -> Iterator[int]:
    """A process of `uid` that waits to be ended, in a process group of its own."""

    def wait(ready: Callable[[], None]) -> None:
        os.setpgid(0, 0)
        isolate()
        become(uid)
        ready()
        pause_forever()

    with running(wait) as pid:
        yield pid


@contextlib.contextmanager
def _foreign_page() -> Iterator[int]:
    if os.uname().machine != "x86_64":
        yield 0
        return
    with mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as page:
        page.write(_FOREIGN_CALL)
        view = ctypes.c_char.from_buffer(page)
        address = ctypes.addressof(view)
        del view  # the page could not be unmapped otherwise
        yield address


@contextlib.contextmanager
def stage() -> Iterator[Stage]:
    """Needs root. /dev/shm is a tmpfs everywhere: it knows trusted attributes, O_TMPFILE and inode flags."""
    directory = tempfile.mkdtemp(prefix="daemoneye-stage-", dir="/dev/shm")
    memory = ctypes.create_string_buffer(8)
    try:
        for name in ("file", "other"):
            with open(f"{directory}/{name}", "w") as file:
                file.write("untouched")
        with (
            socket.socket(socket.AF_UNIX) as listener,
            _victim(NOBODY) as victim,
            _victim(0) as root_victim,
            _foreign_page() as foreign_page,
        ):
            listener.bind(f"{directory}/socket")
            listener.listen()
            yield Stage(directory, victim, root_victim, ctypes.addressof(memory), foreign_page)
    finally:
        shutil.rmtree(directory)


def snapshot(where: Stage) -> object:
    """All of a stage that a successful attack would change."""
    names = sorted(os.listdir(where.directory))
    facts = []
    for name in names:
        found = os.stat(where.path(name))
        facts.append((name, found.st_mode, found.st_uid, found.st_size, found.st_mtime_ns, found.st_ctime_ns))
    victims = [
        (os.listdir(f"/proc/{pid}/root/etc"), os.getpriority(os.PRIO_PROCESS, pid), os.sched_getaffinity(pid))
        for pid in (where.victim, where.root_victim)
    ]
    return facts, victims


def confine(role: Role, killable_groups: tuple[int, ...] = ()) -> Confinement:
    """What the real process of this role does, as the tests' front user."""
    match role:
        case Role.FRONT:
            return confine_front(FRONT_UID, FRONT_UID)
        case Role.COLLECTOR:
            return confine_collector()
        case Role.SUPERVISOR:
            return confine_supervisor(FRONT_UID, FRONT_UID, killable_groups=killable_groups)


def try_attacks(
    attacks: Sequence[Attack], where: Stage, role: Role | None, then: Callable[[], None] = lambda: None
) -> tuple[list[int | None], int]:
    """Try `attacks` one after the other in one process, confined as `role` (None: not at all), then `then`.

    Returns the outcomes, None for one the process did not live to tell, and its wait status.
    """
    reader, writer = os.pipe()

    def attack() -> None:
        os.close(reader)
        isolate()
        if role is not None:
            confine(role)
        for attack in attacks:
            os.write(writer, struct.pack("=i", outcome_of(attack, where)))
        then()

    pid = child_of(attack)
    os.close(writer)
    told = b"".join(iter(functools.partial(os.read, reader, 65536), b""))
    os.close(reader)
    status = os.waitpid(pid, 0)[1]
    outcomes: list[int | None] = [outcome for (outcome,) in struct.iter_unpack("=i", told)]
    return outcomes + [None] * (len(attacks) - len(outcomes)), status


def try_one(attack: Attack, where: Stage, role: Role | None) -> int:
    """Its outcome; a process that ended without telling either executed something or was killed."""
    (outcome,), status = try_attacks((attack,), where, role)
    return -os.WTERMSIG(status) if outcome is None else outcome

"""What a procmond taken over would try next. One rule: every attack works where nothing confines it.

An attack is tried by the process that is to be judged, against a `Stage` made for it: files, processes and
namespaces of the tests' own, never the host's. `Stage` holds plain values only, so that it can be handed
to a real daemon's test hook; `ATTACKS` says what each process must answer, and what happens unconfined.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import platform
import posix
import signal
import socket
import struct
from collections.abc import Callable
from enum import StrEnum
from typing import Final, NamedTuple

from procmond.confine.kernel import syscall

NOBODY: Final = 65534
FRONT_UID: Final = 64123
"""The user and group a confined front becomes in tests; nobody else's."""

SUCCEEDS: Final = 0
KILLED: Final = -int(signal.SIGSYS)
"""An outcome is 0 for success, an errno, or a negative signal the process died of."""


class Role(StrEnum):
    FRONT = "front"
    COLLECTOR = "collector"
    SUPERVISOR = "supervisor"


class Stage(NamedTuple):
    """Where attacks happen."""

    directory: str
    """Holds `file` (mode 0644), `other` and the listening socket `socket`."""
    victim: int
    """A process of another user, in a mount namespace of its own with an empty /etc."""
    root_victim: int
    """A process of root."""
    address: int
    """Of 8 bytes in each victim's memory that may be overwritten."""
    foreign_page: int
    """Address of code, mapped before confinement, that calls getpid by int 0x80; 0 on other machines."""

    def path(self, name: str) -> str:
        return f"{self.directory}/{name}"


class Attack(NamedTuple):
    name: str
    attempt: Callable[[Stage], object]
    """Raises OSError if refused. May replace the process (exec)."""
    refusal: int = errno.EPERM
    """The outcome in every role that is not in `allowed`."""
    allowed: frozenset[Role] = frozenset()
    """Roles whose proper work this is."""
    unconfined: tuple[int, ...] = (SUCCEEDS,)
    """Outcomes as root without confinement: success, or an error that shows the kernel heard the request."""

    def expected(self, role: Role) -> int:
        return SUCCEEDS if role in self.allowed else self.refusal


_X86: Final = platform.machine() == "x86_64"
# name: (x86-64, aarch64), from the kernel's headers; only calls Python has no function for.
_NUMBERS: Final = {
    "bpf": (321, 280),
    "clone": (56, 220),
    "clone3": (435, 435),
    "execveat": (322, 281),
    "init_module": (175, 105),
    "io_uring_setup": (425, 425),
    "keyctl": (250, 219),
    "kexec_load": (246, 104),
    "mount": (165, 40),
    "open_by_handle_at": (304, 265),
    "openat2": (437, 437),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "prlimit64": (302, 261),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "reboot": (169, 142),
    "renameat2": (316, 276),
    "rt_sigqueueinfo": (129, 138),
    "seccomp": (317, 277),
    "setns": (308, 268),
    "tgkill": (234, 131),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
_AT_FDCWD: Final = -100
_SIGINFO: Final = struct.pack("=iii", signal.SIGTERM, 0, -1) + bytes(116)  # siginfo_t with SI_QUEUE
_CLONE_NEWNS, _CLONE_NEWUSER, _CLONE_NEWNET = 0x20000, 0x10000000, 0x40000000
_READERS: Final = frozenset({Role.COLLECTOR, Role.SUPERVISOR})


def call(name: str, *arguments: int | bytes | ctypes.Array[ctypes.c_char]) -> int:
    """A raw system call by its name in `_NUMBERS`; buffers are passed by address. Raises: OSError."""
    buffers = [
        ctypes.create_string_buffer(argument) if isinstance(argument, bytes) else argument
        for argument in arguments
    ]
    number = _NUMBERS[name][0 if _X86 else 1]
    return syscall(number, *(item if isinstance(item, int) else ctypes.addressof(item) for item in buffers))


def _open(path: str, flags: int) -> None:
    os.close(os.open(path, flags, 0o600))


def _call_for_descriptor(name: str, *arguments: int | bytes) -> None:
    os.close(call(name, *arguments))


def _iovec(address: int) -> bytes:
    return struct.pack("=QQ", address, 8)


def _process_vm(name: str, stage: Stage) -> None:
    local = ctypes.create_string_buffer(8)
    call(name, stage.victim, _iovec(ctypes.addressof(local)), 1, _iovec(stage.address), 1, 0)


def _pidfd_signal(stage: Stage) -> None:
    descriptor = os.open(f"/proc/{stage.victim}", os.O_RDONLY | os.O_DIRECTORY)  # serves as a pidfd
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGTERM)
    finally:
        os.close(descriptor)


def _pidfd_getfd(stage: Stage) -> None:
    descriptor = os.pidfd_open(stage.root_victim)
    try:
        os.close(call("pidfd_getfd", descriptor, 0, 0))
    finally:
        os.close(descriptor)


def _signal_by_owner(stage: Stage) -> None:
    """SIGKILL to anybody's process, without kill() and CAP_KILL: by becoming readable."""
    f_setsig = 10
    reader, writer = os.pipe()
    try:
        fcntl.fcntl(reader, fcntl.F_SETOWN, stage.victim)
        fcntl.fcntl(reader, f_setsig, signal.SIGKILL)
        fcntl.fcntl(reader, fcntl.F_SETFL, os.O_ASYNC)
        os.write(writer, b"x")
    finally:
        os.close(reader)
        os.close(writer)


def _signal_by_ioctl(stage: Stage) -> None:
    fiosetown = 0x8901
    left, right = socket.socketpair()
    with left, right:
        fcntl.ioctl(left, fiosetown, struct.pack("=i", stage.victim))


def _change_flags(stage: Stage) -> None:
    """ioctl(FS_IOC_SETFLAGS) changes an inode through a descriptor opened for reading."""
    fs_ioc_setflags, fs_nodump = 0x40086602, 0x40
    descriptor = os.open(stage.path("file"), os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, fs_ioc_setflags, struct.pack("=l", fs_nodump))
    finally:
        os.close(descriptor)


def _bind(_stage: Stage) -> None:
    with socket.socket(socket.AF_INET) as listener:
        listener.bind(("127.0.0.1", 0))


def _connect_out(_stage: Stage) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect(("127.0.0.1", 9))  # the discard port: for UDP nobody need listen


def _connect_local(stage: Stage) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(stage.path("socket"))


def _datagram_pair(_stage: Stage) -> None:
    """A datagram socket of one's own could send to any other, systemd's and the journal's included."""
    for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM):
        end.close()


def _netlink(_stage: Stage) -> None:
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).close()


def _fork(flags: int) -> None:
    pid = call("clone", flags | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        posix._exit(0)
    os.waitpid(pid, 0)


def _executable_memory(_stage: Stage) -> None:
    mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()


def _make_executable(_stage: Stage) -> None:
    with mmap.mmap(-1, mmap.PAGESIZE) as page:
        view = ctypes.c_char.from_buffer(page)
        libc = ctypes.CDLL(None, use_errno=True)
        result = libc.mprotect(ctypes.c_void_p(ctypes.addressof(view)), ctypes.c_size_t(mmap.PAGESIZE), 5)
        failure = ctypes.get_errno()
        del view
        if result:
            raise OSError(failure, os.strerror(failure))


def _perf(_stage: Stage) -> None:
    attributes = struct.pack("=IIQ", 1, 112, 0) + bytes(96)  # PERF_TYPE_SOFTWARE, PERF_COUNT_SW_CPU_CLOCK
    _call_for_descriptor("perf_event_open", attributes, 0, -1, -1, 0)


def _enter_namespace(stage: Stage) -> None:
    descriptor = os.pidfd_open(stage.victim)
    try:
        call("setns", descriptor, _CLONE_NEWNS)
    finally:
        os.close(descriptor)


def _second_filter(_stage: Stage) -> None:
    """Without TSYNC, the one form a supervisor's replacements need."""
    allow = struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000)
    code = ctypes.create_string_buffer(allow)
    call("seccomp", 1, 0, struct.pack("=HxxxxxxQ", 1, ctypes.addressof(code)))


def _foreign_call(stage: Stage) -> None:
    ctypes.CFUNCTYPE(ctypes.c_int)(stage.foreign_page)()


def _x32(_stage: Stage) -> None:
    syscall(0x40000000 + 39)


def _call_with_path(number: int, path: str, argument: int) -> int:
    buffer = ctypes.create_string_buffer(os.fsencode(path))
    return syscall(number, ctypes.addressof(buffer), argument)


_FILES: Final = (
    Attack("write to /etc", lambda stage: _open("/etc/attack", os.O_WRONLY | os.O_CREAT)),
    Attack(
        "write through /proc/PID/root",
        lambda stage: _open(f"/proc/{stage.victim}/root/etc/attack", os.O_WRONLY | os.O_CREAT),
    ),
    Attack("open /proc/PID/mem to write", lambda stage: _open(f"/proc/{stage.victim}/mem", os.O_WRONLY)),
    Attack("open /proc/PID/mem O_RDWR", lambda stage: _open(f"/proc/{stage.victim}/mem", os.O_RDWR)),
    Attack("open to read", lambda stage: _open(stage.path("file"), os.O_RDONLY), allowed=_READERS),
    Attack("open O_RDWR", lambda stage: _open(stage.path("file"), os.O_RDWR)),
    Attack("open O_WRONLY", lambda stage: _open(stage.path("file"), os.O_WRONLY)),
    Attack("open O_CREAT", lambda stage: _open(stage.path("new"), os.O_RDONLY | os.O_CREAT)),
    Attack("open O_TRUNC", lambda stage: _open(stage.path("file"), os.O_RDONLY | os.O_TRUNC)),
    Attack("open O_TMPFILE", lambda stage: _open(stage.directory, os.O_RDWR | os.O_TMPFILE)),
    Attack("open flags 3", lambda stage: _open(stage.path("file"), 3)),  # for ioctl only; needs both rights
    Attack(
        "openat2 to read",
        lambda stage: _call_for_descriptor(
            "openat2", _AT_FDCWD, os.fsencode(stage.path("file")), bytes(24), 24
        ),
    ),
    Attack(
        "open_by_handle_at",
        lambda stage: call("open_by_handle_at", _AT_FDCWD, struct.pack("=Ii", 0, 0), os.O_RDWR),
        unconfined=(errno.EINVAL,),  # an empty handle
    ),
    Attack("rename", lambda stage: os.rename(stage.path("file"), stage.path("moved"))),
    Attack(
        "renameat2",
        lambda stage: call(
            "renameat2",
            _AT_FDCWD,
            os.fsencode(stage.path("file")),
            _AT_FDCWD,
            os.fsencode(stage.path("other")),
            2,  # RENAME_EXCHANGE
        ),
    ),
    Attack("link", lambda stage: os.link(stage.path("file"), stage.path("linked"))),
    Attack("symlink", lambda stage: os.symlink("file", stage.path("pointing"))),
    Attack("unlink", lambda stage: os.unlink(stage.path("other"))),
    Attack("mkdir", lambda stage: os.mkdir(stage.path("folder"))),
    Attack("mknod", lambda stage: os.mkfifo(stage.path("fifo"))),
    Attack("chmod", lambda stage: os.chmod(stage.path("file"), 0o4755)),
    Attack("chown", lambda stage: os.chown(stage.path("file"), NOBODY, NOBODY)),
    Attack("truncate", lambda stage: os.truncate(stage.path("file"), 0)),
    Attack("setxattr", lambda stage: os.setxattr(stage.path("file"), "trusted.attack", b"1")),
    Attack("utimensat", lambda stage: os.utime(stage.path("file"), (0, 0))),
    Attack("ioctl FS_IOC_SETFLAGS", _change_flags),
    Attack("chroot", lambda stage: os.chroot(stage.directory)),
    Attack("mount", lambda stage: call("mount", b"none", os.fsencode(stage.directory), b"tmpfs", 0, 0)),
    Attack("umount", lambda stage: call("umount2", b"/etc", 2)),
)

_PROCESSES: Final = (
    Attack("execve", lambda stage: os.execv("/bin/true", ["true"])),
    Attack(
        "execveat",
        lambda stage: call("execveat", _AT_FDCWD, b"/nowhere", 0, 0, 0),
        unconfined=(errno.ENOENT,),
    ),
    Attack("fork", lambda stage: _fork(0), allowed=_READERS),
    Attack("fork into a user namespace", lambda stage: _fork(_CLONE_NEWUSER)),
    Attack("clone3", lambda stage: call("clone3", 0, 0), errno.ENOSYS, unconfined=(errno.EINVAL,)),
    Attack("unshare", lambda stage: call("unshare", _CLONE_NEWNET)),
    Attack("setns", _enter_namespace),
    Attack("ptrace", lambda stage: call("ptrace", 0x4206, stage.victim, 0, 0)),  # PTRACE_SEIZE
    Attack("process_vm_writev", lambda stage: _process_vm("process_vm_writev", stage)),
    Attack("process_vm_readv", lambda stage: _process_vm("process_vm_readv", stage)),
    Attack("pidfd_getfd", _pidfd_getfd),
    Attack("kill another user's process", lambda stage: os.kill(stage.victim, signal.SIGTERM)),
    Attack("kill a process of root", lambda stage: os.kill(stage.root_victim, signal.SIGTERM)),
    Attack("kill its process group", lambda stage: os.kill(-stage.root_victim, signal.SIGKILL)),
    Attack("tgkill", lambda stage: call("tgkill", stage.root_victim, stage.root_victim, signal.SIGTERM)),
    Attack("rt_sigqueueinfo", lambda stage: call("rt_sigqueueinfo", stage.victim, signal.SIGTERM, _SIGINFO)),
    Attack("pidfd_send_signal", _pidfd_signal),
    Attack("fcntl F_SETOWN", _signal_by_owner),
    Attack("ioctl FIOSETOWN", _signal_by_ioctl),
    Attack(
        "prlimit of another",
        lambda stage: call("prlimit64", stage.root_victim, 7, struct.pack("=QQ", 3, 3), 0),
    ),
    Attack("setrlimit", lambda stage: call("prlimit64", 0, 4, bytes(16), 0)),
    Attack("sched_setaffinity", lambda stage: os.sched_setaffinity(stage.root_victim, {0})),
    Attack("setpriority", lambda stage: os.setpriority(os.PRIO_PROCESS, stage.root_victim, 19)),
)

_RIGHTS: Final = (
    Attack("setuid", lambda stage: os.setuid(NOBODY)),
    Attack("setresuid to another user", lambda stage: os.setresuid(NOBODY, NOBODY, NOBODY)),
    Attack("setresuid with a way back", lambda stage: os.setresuid(FRONT_UID, FRONT_UID, 0)),
    Attack("setresuid to root", lambda stage: os.setresuid(0, 0, 0)),
    Attack("setreuid", lambda stage: os.setreuid(FRONT_UID, FRONT_UID)),
    Attack("setgid", lambda stage: os.setgid(NOBODY)),
    Attack("setresgid to another group", lambda stage: os.setresgid(NOBODY, NOBODY, NOBODY)),
    Attack("setgroups", lambda stage: os.setgroups([NOBODY])),
    Attack("mmap PROT_EXEC", _executable_memory),
    Attack("mprotect PROT_EXEC", _make_executable),
    Attack("memfd_create", lambda stage: os.close(os.memfd_create("attack"))),
)

_KERNEL: Final = (
    Attack("bpf", lambda stage: _call_for_descriptor("bpf", 0, struct.pack("=IIIII", 2, 4, 4, 1, 0), 20)),
    Attack("io_uring_setup", lambda stage: _call_for_descriptor("io_uring_setup", 1, bytes(120))),
    Attack("userfaultfd", lambda stage: _call_for_descriptor("userfaultfd", 0)),
    Attack("perf_event_open", _perf),
    Attack("keyctl", lambda stage: call("keyctl", 0, -3, 1)),  # KEYCTL_GET_KEYRING_ID, session, create
    Attack("seccomp", _second_filter),
    Attack("reboot", lambda stage: call("reboot", 0, 0, 0, 0), unconfined=(errno.EINVAL,)),  # wrong magic
    Attack(
        "init_module",
        lambda stage: call("init_module", 0, 0, b""),
        unconfined=(errno.ENOEXEC, errno.ENOSYS, errno.EFAULT),
    ),
    Attack(
        "kexec_load",
        lambda stage: call("kexec_load", 0, 17, 0, 0),  # one segment more than there may be
        unconfined=(errno.EINVAL, errno.ENOSYS),
    ),
    Attack("bind to a port", _bind),
    Attack("connect out", _connect_out),
    Attack("connect to a Unix socket", _connect_local),
    Attack("datagram socketpair", _datagram_pair),
    Attack("netlink socket", _netlink),
)

_X86_ONLY: Final = (
    Attack("creat", lambda stage: os.close(_call_with_path(85, stage.path("new"), 0o600))),
    Attack("open, the old call", lambda stage: os.close(_call_with_path(2, stage.path("file"), os.O_RDWR))),
)

KILLING: Final = (
    (
        Attack("int 0x80", _foreign_call, KILLED),
        Attack("x32 getpid", _x32, KILLED, unconfined=(SUCCEEDS, errno.ENOSYS)),
    )
    if _X86
    else ()
)
"""A system call of another architecture: the process does not survive it."""


ATTACKS: Final = (*_FILES, *_PROCESSES, *_RIGHTS, *_KERNEL, *(_X86_ONLY if _X86 else ()))
"""What must be refused, leaving the process as it was."""


def outcome_of(attack: Attack, stage: Stage) -> int:
    """Try it here and now."""
    try:
        attack.attempt(stage)
    except OSError as error:
        return error.errno or -1
    return SUCCEEDS

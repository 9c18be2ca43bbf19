"""What each process may ask of the kernel, call by call. One rule: no call without a reason.

Three tables, for the front, the collector and the supervisor. The supervisor's holds the other two as
well: a filter is inherited, so what a replacement must be able to do, the supervisor that forks it must
be able to do. Confined itself, the replacement keeps only its own table.

What is missing is the point, and what the arguments are held to:
- no call that creates, changes, names or removes a file; open(2) and openat(2) read only; no openat2,
  creat or open_by_handle_at, whose flags the filter could not see or which need not be;
- no execve, and no new executable memory: what was not mapped when the process confined itself never runs;
- no ptrace, process_vm_*, pidfd_getfd, pidfd_send_signal, io_uring, mount, unshare, setns, keyctl;
- no socket(), bind(), connect() or listen(): with uid 0 a Unix socket to systemd or to a container engine is
  root; and no sendmsg() for the collector: it could name a receiver (see `_control`);
- no kill(), and none of its relatives: with uid 0 and no capability at all kill() ends every other process
  of root, prlimit64() and sched_*() throttle them, and fcntl(F_SETOWN) with F_SETSIG has the kernel send
  SIGKILL to a process of *any* user (sigio_perm() in fs/fcntl.c asks only whether the asker was root).
"""

from __future__ import annotations

import errno
from typing import Final

from procmond.confine.machine import Machine
from procmond.confine.seccomp import Bits, Check, Null, OneOf, Rule

# fcntl(2): duplicates, and flags of descriptors. Not F_SETOWN, F_SETSIG, F_NOTIFY, F_SETLEASE.
_F_DUPFD, _F_GETFD, _F_SETFD, _F_GETFL, _F_SETFL, _F_DUPFD_CLOEXEC = 0, 1, 2, 3, 4, 1030
_ALL_BUT_O_ASYNC: Final = ~0o20000
"""F_SETFL heeds O_APPEND, O_NONBLOCK, O_DIRECT, O_NOATIME, and O_ASYNC, by which the kernel sends signals."""

# ioctl(2) requests, asm-generic/ioctls.h, the same on both architectures. Not FIOSETOWN, TIOCSTI, FS_IOC_*.
_TCGETS, _FIONREAD, _FIONBIO, _FIONCLEX, _FIOCLEX = 0x5401, 0x541B, 0x5421, 0x5450, 0x5451

_ITER_CREATE: Final = 33  # enum bpf_cmd, include/uapi/linux/bpf.h
_PIDFD_GET_INFO: Final = 0xC040FF0B  # include/uapi/linux/pidfd.h, with PIDFD_INFO_SIZE_VER0

_AT_EMPTY_PATH: Final = 0x1000
_AF_UNIX, _SOL_SOCKET, _SO_DETACH_FILTER = 1, 1, 27
_SOCK_STREAM_OR_SEQPACKET: Final = (1, 5)
_SOCK_CLOEXEC_NONBLOCK: Final = (0, 0o2000000, 0o4000, 0o2004000)

_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP = 270, 1

_PROT_READ_WRITE: Final = 0b011  # PROT_EXEC would be 0b100
_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_CAPBSET_READ, _PR_CAPBSET_DROP = 1, 15, 23, 24
_PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 38, 47
_PR_SET_VMA: Final = 0x53564D41
_SIGKILL: Final = 9

# clone(2): a thread as glibc and musl start one (VM, FS, FILES, SIGHAND, THREAD, SYSVSEM, SETTLS,
# PARENT_SETTID, CHILD_CLEARTID, DETACHED) or a fork (CHILD_SETTID, CHILD_CLEARTID, SIGCHLD). Not PTRACE,
# PARENT, UNTRACED, PIDFD, IO, nor any CLONE_NEW*.
_CLONE_THREAD_OR_FORK: Final = (
    0x0100
    | 0x0200
    | 0x0400
    | 0x0800
    | 0x10000
    | 0x40000
    | 0x80000
    | (0x100000 | 0x200000 | 0x400000 | 0x1000000 | 17)
)


def _interpreter(own_pid: int) -> tuple[Rule, ...]:
    """What a running CPython with uvloop needs to go on, whatever it works at."""
    cheap = "harmless: tells the process of itself"
    return (
        Rule("read", "descriptors it already has"),
        Rule("write", "descriptors it already has"),
        Rule("readv", "as read"),
        Rule("writev", "as write: an answer of several pieces"),
        Rule("close", "descriptors"),
        Rule("fstat", "descriptors it already has, as musl and older glibc ask"),
        # The path beside the flag cannot be seen: it still can learn that a file exists, and its size.
        Rule("newfstatat", "fstat, as glibc 2.33 and later call it", ((OneOf(3, (_AT_EMPTY_PATH,)),),)),
        Rule("brk", "memory"),
        Rule("mmap", "memory; never executable", ((Bits(2, _PROT_READ_WRITE),),)),
        Rule("mprotect", "memory; never executable", ((Bits(2, _PROT_READ_WRITE),),)),
        Rule("munmap", "memory"),
        Rule("mremap", "memory"),
        Rule("madvise", "memory given back"),
        Rule("futex", "locks of the interpreter"),
        Rule("sched_yield", "libuv and the reader of the task iterator give way"),
        Rule("clock_gettime", "time, where the vDSO does not answer"),
        Rule("clock_getres", "asyncio's loop, where the vDSO does not answer"),
        Rule("restart_syscall", "a poll or a wait for a lock goes on after SIGCONT"),
        Rule("getrandom", "generators of random numbers start anew in a forked child"),
        Rule("rt_sigaction", "signal handlers"),
        Rule("rt_sigprocmask", "signal handlers"),
        Rule("rt_sigreturn", "signal handlers"),
        Rule("exit", "a thread's end"),
        Rule("exit_group", "the end"),
        Rule("tgkill", "raise() and abort(), to itself", ((OneOf(0, (own_pid,)),),)),
        Rule("getpid", cheap),
        Rule("gettid", cheap),
        Rule("getppid", cheap),
        Rule("getuid", cheap),
        Rule("geteuid", cheap),
        Rule("getgid", cheap),
        Rule("getegid", cheap),
        Rule("getgroups", cheap),
        Rule("getrusage", cheap),
        Rule("sysinfo", "glibc's qsort() asks how much memory there is"),
        Rule("uname", cheap),
        Rule("prlimit64", "reads limits; sets none, of nobody", ((Null(2),),)),
        Rule(
            "fcntl",
            "descriptor flags; no owner, no signal, no lease",
            (
                (OneOf(1, (_F_DUPFD, _F_DUPFD_CLOEXEC, _F_GETFD, _F_SETFD, _F_GETFL)),),
                (OneOf(1, (_F_SETFL,)), Bits(2, _ALL_BUT_O_ASYNC)),
            ),
        ),
        Rule(
            "ioctl",
            "isatty, and flags of descriptors",
            ((OneOf(1, (_TCGETS, _FIONREAD, _FIONBIO, _FIONCLEX, _FIOCLEX)),),),
        ),
        Rule("prctl", "names of threads and of memory", ((OneOf(0, (_PR_SET_NAME, _PR_SET_VMA)),),)),
        Rule("epoll_create1", "event loop"),
        Rule("epoll_ctl", "event loop"),
        Rule("epoll_wait", "the supervisor's loop"),
        Rule("epoll_pwait", "libuv's loop; everybody's on aarch64 and with musl"),
        Rule("eventfd2", "event loop"),
        Rule("pipe2", "event loop: libuv's signals; the line from an expendable child"),
        Rule("poll", "waiting for one descriptor, with a limit"),
        Rule("ppoll", "as poll, which aarch64 lacks"),
        Rule("clone3", "the C library then calls clone, whose flags can be seen", (), errno.ENOSYS),
    )


def _sockets() -> tuple[Rule, ...]:
    """Talking over sockets it was given to who is at their other end; no call here names another receiver."""
    kinds = tuple(kind | flags for kind in _SOCK_STREAM_OR_SEQPACKET for flags in _SOCK_CLOEXEC_NONBLOCK)
    return (
        Rule("recvfrom", "sockets it already has"),
        Rule("sendto", "sockets it already has; no address given", ((Null(4),),)),
        Rule("getsockname", "libuv asks what kind of socket it was given"),
        Rule("socketpair", "the loop's own wake-up", ((OneOf(0, (_AF_UNIX,)), OneOf(1, kinds)),)),
    )


def _control() -> tuple[Rule, ...]:
    """The line between supervisor and front, over which descriptors go.

    The name of a receiver in sendmsg(2) cannot be seen. Sockets with a connection, all that the front holds,
    ignore it or refuse; the supervisor's datagram socket to systemd does not, so it can send a datagram to
    any Unix socket that its user may write to.
    """
    return (
        Rule("recvmsg", "the line between supervisor and front, with descriptors"),
        Rule("sendmsg", "the line between supervisor and front, with descriptors"),
    )


def _reading(machine: Machine) -> tuple[Rule, ...]:
    """Reading files and what can be known about them, changing nothing."""
    read_only = (
        0o2000000  # O_CLOEXEC
        | 0o10000000  # O_PATH
        | 0o4000  # O_NONBLOCK
        | 0o400  # O_NOCTTY
        | machine.open_directory
        | machine.open_nofollow
        | machine.open_largefile
    )
    return (
        Rule("openat", "files, to read", ((Bits(2, read_only),),)),
        Rule("open", "files, to read, as musl opens them", ((Bits(1, read_only),),)),
        Rule("newfstatat", "facts of files"),
        Rule("stat", "facts of files, as musl asks"),
        Rule("lstat", "facts of files, as musl asks"),
        Rule("readlink", "/proc/PID/exe, cwd, ns"),
        Rule("readlinkat", "symbolic links on the way to a peer's file; as readlink, which aarch64 lacks"),
        Rule("getdents64", "/proc, /proc/PID/task, and as the supervisor replaces, /proc/self/fd"),
        Rule("pread64", "files of /proc that stay open"),
        Rule("lseek", "files read again from their beginning"),
        Rule("getxattr", "file capabilities"),
        Rule("sched_getaffinity", "the C library's malloc asks how many processors its threads may use"),
        Rule("getsid", "sessions, as the psutil collector asks"),
        Rule(
            "bpf",
            "BPF_ITER_CREATE, with which a sweep begins; loads nothing",
            ((OneOf(0, (_ITER_CREATE,)),),),
        ),
        Rule("pidfd_open", "a hold on a process that its number alone is not"),
        Rule("ioctl", "PIDFD_GET_INFO: who a process is, in one call", ((OneOf(1, (_PIDFD_GET_INFO,)),),)),
    )


def _children() -> tuple[Rule, ...]:
    """Threads, and children that inherit this very filter; none with a namespace of its own."""
    return (
        Rule("clone", "hashing threads, expendable children", ((Bits(0, _CLONE_THREAD_OR_FORK),),)),
        Rule("fork", "expendable children, as musl forks"),
        Rule("set_robust_list", "a new thread's start"),
        Rule("rseq", "a new thread's start"),
        Rule("wait4", "the end of children"),
        Rule("close_range", "a child for one file keeps none of our descriptors"),
        Rule("setitimer", "a deadline of its own: SIGALRM ends a child that hangs"),
    )


def _replacing(front: tuple[int, int] | None, killable_groups: tuple[int, ...]) -> tuple[Rule, ...]:
    """What it takes to start the front and the collector again."""
    lasting = (_PR_SET_NAME, _PR_SET_VMA, _PR_SET_PDEATHSIG, _PR_CAPBSET_READ, _PR_CAPBSET_DROP)
    rules = [
        Rule("dup3", "a replacement lets go of descriptors that are not its own; their numbers stay taken"),
        Rule("capset", "a replacement drops capabilities; none can be gained"),
        Rule("seccomp", "a replacement's own filter", ((OneOf(0, (1,)), OneOf(1, (1,))),)),  # SET_MODE, TSYNC
        Rule(
            "prctl",
            "a replacement drops what it must not keep",
            ((OneOf(0, (*lasting, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT)),),),
        ),
    ]
    if front is not None:
        uid, gid = front
        exactly_uid: tuple[Check, ...] = tuple(OneOf(argument, (uid,)) for argument in range(3))
        exactly_gid: tuple[Check, ...] = tuple(OneOf(argument, (gid,)) for argument in range(3))
        rules += [
            Rule(
                "setresuid",
                "a replacement becomes the front's user, all three ids",
                (exactly_uid,),
            ),
            Rule("setresgid", "a replacement becomes the front's group, likewise", (exactly_gid,)),
            Rule("setgroups", "a replacement leaves every other group", ((OneOf(0, (0,)),),)),
        ]
    if killable_groups:
        groups = tuple(-group for group in killable_groups)
        rules += [
            Rule(
                "kill",
                "SIGKILL, to groups of its own children",
                ((OneOf(0, groups), OneOf(1, (_SIGKILL,))),),
            ),
            Rule("setpgid", "a replacement joins its group", ((OneOf(1, killable_groups),),)),
        ]
    return tuple(rules)


def merge(*tables: tuple[Rule, ...]) -> tuple[Rule, ...]:
    """One table that allows what any of `tables` allows; the first one's reason stays. Pure."""
    merged: dict[str, Rule] = {}
    for rule in (rule for table in tables for rule in table):
        known = merged.setdefault(rule.name, rule)
        if known is rule or known.alternatives == rule.alternatives:
            continue
        both = known.alternatives + rule.alternatives if known.alternatives and rule.alternatives else ()
        merged[rule.name] = known._replace(alternatives=both)
    return tuple(merged.values())


def front_rules(own_pid: int) -> tuple[Rule, ...]:
    """The front: talks to peers and to the collector. Opens nothing, starts nothing, looks at no file."""
    listening = (
        Rule("accept4", "peers"),
        Rule("getsockopt", "who a peer is, and what kind of socket came from the supervisor"),
    )
    return merge(_interpreter(own_pid), _sockets(), _control(), listening)


def collector_rules(own_pid: int, machine: Machine) -> tuple[Rule, ...]:
    """The collector: reads /proc and executables, answers the front. Changes nothing."""
    falling_back = (
        Rule(
            "setsockopt",
            "the process connector in reserve, when eBPF fails: joins a group of a netlink socket it has, or "
            "takes off the filter that narrows it",
            (
                (OneOf(1, (_SOL_NETLINK,)), OneOf(2, (_NETLINK_ADD_MEMBERSHIP,))),
                (OneOf(1, (_SOL_SOCKET,)), OneOf(2, (_SO_DETACH_FILTER,))),
            ),
        ),
    )
    return merge(_interpreter(own_pid), _sockets(), _reading(machine), _children(), falling_back)


def supervisor_rules(
    own_pid: int, machine: Machine, front: tuple[int, int] | None, killable_groups: tuple[int, ...] = ()
) -> tuple[Rule, ...]:
    """The supervisor: starts the two again, as `front` (uid, gid; None: they share its own) and itself."""
    return merge(
        front_rules(own_pid),
        collector_rules(own_pid, machine),
        _replacing(front, killable_groups),
    )

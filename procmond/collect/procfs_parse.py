"""Texts of /proc as values. One rule: pure, and hostile text costs no more than its length.

Names and arguments in these texts are chosen by the processes described. Formats: proc(5) and the kernel's
fs/proc/array.c and fs/proc/base.c. Whatever cannot be read as such raises `MalformedProc`, nothing else.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, NamedTuple

from common.errors import DaemonEyeError
from common.messages import ProcessStatus
from procmond.collect.text import text

MAX_NAME_BYTES: Final = 15
"""TASK_COMM_LEN less its NUL. The kernel shows more for its own threads (`kworker/0:1-events`)."""

NO_LOGIN_UID: Final = 0xFFFFFFFF
"""What /proc/PID/loginuid says when the process descends from no login."""

_PF_KTHREAD: Final = 0x00200000  # include/linux/sched.h
_STATUS: Final = {
    b"R": ProcessStatus.RUNNING,
    b"S": ProcessStatus.SLEEPING,
    b"D": ProcessStatus.DISK_SLEEP,
    b"T": ProcessStatus.STOPPED,
    b"t": ProcessStatus.TRACED,
    b"Z": ProcessStatus.ZOMBIE,
    b"I": ProcessStatus.IDLE,
    b"X": ProcessStatus.DEAD,
    b"x": ProcessStatus.DEAD,
}


class MalformedProc(DaemonEyeError):
    """A text of /proc is not what proc(5) says; `file` is its name."""

    def __init__(self, file: str) -> None:
        super().__init__(f"/proc text is malformed: {file}")
        self.file = file


class Stat(NamedTuple):
    """/proc/PID/stat as far as it is used. Times are clock ticks, memory is pages."""

    name: bytes
    status: ProcessStatus
    ppid: int
    session: int
    tty: int
    kernel_thread: bool
    cpu_ticks: int
    threads: int
    start_ticks: int
    resident_pages: int
    argument_bytes: int
    """arg_end - arg_start; 0 where the kernel withholds the addresses."""


NO_STAT: Final = Stat(b"", ProcessStatus.UNSPECIFIED, 0, 0, 0, False, 0, 0, 0, 0, 0)
"""Before anything was read."""


class Ids(NamedTuple):
    """Credentials of a process."""

    real_uid: int
    effective_uid: int
    real_gid: int
    effective_gid: int


def parse_stat(raw: bytes) -> Stat:
    """Read /proc/PID/stat.

    The name stands in parentheses and may hold anything, `) R 1` included, so it ends at the last one.

    Raises:
        MalformedProc: the text is cut short or not of this form.
    """
    try:
        end = raw.rindex(b") ")
        name = raw[raw.index(b" (") + 2 : end]
        field = raw[end + 2 :].split(b" ", 47)
        kernel_thread = int(field[6]) & _PF_KTHREAD != 0
        return Stat(
            name[:MAX_NAME_BYTES] if kernel_thread else name,
            _STATUS.get(field[0], ProcessStatus.UNSPECIFIED),
            int(field[1]),
            int(field[3]),
            int(field[4]),
            kernel_thread,
            int(field[11]) + int(field[12]),
            int(field[17]),
            int(field[19]),
            int(field[21]),
            int(field[46]) - int(field[45]),
        )
    except (ValueError, IndexError):
        raise MalformedProc("stat") from None


def parse_ids(raw: bytes) -> tuple[Ids, int]:
    """Credentials and thread group id from /proc/PID/status.

    Only lines after the first are believed: the first holds the name (with newlines escaped by the kernel).

    Raises:
        MalformedProc: one of the lines is missing or not of this form.
    """
    try:
        at = raw.index(b"\nTgid:") + 6
        group = int(raw[at : raw.index(b"\n", at)])
        at = raw.index(b"\nUid:", at) + 5
        uid = raw[at : raw.index(b"\n", at)].split()
        at = raw.index(b"\nGid:", at) + 5
        gid = raw[at : raw.index(b"\n", at)].split()
        return Ids(int(uid[0]), int(uid[1]), int(gid[0]), int(gid[1])), group
    except (ValueError, IndexError):
        raise MalformedProc("status") from None


def split_arguments(raw: bytes) -> tuple[str, ...]:
    """The argument vector in /proc/PID/cmdline: NUL ends each element, empty elements are elements.

    A process may write over its arguments; then what it wrote is what there is, and where it removed the
    NULs a single element remains. Whoever passes no argument vector at all has none.
    """
    if not raw:
        return ()
    return tuple(text(raw.removesuffix(b"\0")).split("\0"))


def parse_environment(raw: bytes, names: Collection[str]) -> dict[str, str]:
    """Variables called one of `names` in /proc/PID/environ; of several of one name the first (getenv(3))."""
    found: dict[str, str] = {}
    for entry in text(raw).split("\0"):
        name, equals, value = entry.partition("=")
        if equals and name in names:
            found.setdefault(name, value)
    return found


def parse_namespace(link: bytes) -> int:
    """The inode number in the target of a link in /proc/PID/ns, such as `pid:[4026531836]`.

    Raises:
        MalformedProc: it is not of this form.
    """
    try:
        return int(link[link.index(b"[") + 1 : link.index(b"]")])
    except ValueError:
        raise MalformedProc("ns") from None


def parse_login_uid(raw: bytes) -> int | None:
    """The audit login uid in /proc/PID/loginuid; None when the process descends from no login.

    Raises:
        MalformedProc: it is not a number.
    """
    try:
        uid = int(raw)
    except ValueError:
        raise MalformedProc("loginuid") from None
    return None if uid == NO_LOGIN_UID else uid


def tty_name(device: int) -> str:
    """The terminal's name below /dev for field 7 of /proc/PID/stat; empty for none.

    Of an unknown kind it is `major:minor`.
    Numbers: the kernel's Documentation/admin-guide/devices.txt. Not looked up in /dev, which may differ from
    the /dev of the process and is not ours to walk.
    """
    if device == 0:
        return ""
    major = device >> 8 & 0xFFF
    minor = device & 0xFF | device >> 12 & 0xFFF00
    if 136 <= major <= 143:
        return f"pts/{(major - 136) * 2**20 + minor}"
    if major == 4:
        return f"tty{minor}" if minor < 64 else f"ttyS{minor - 64}"
    if major == 5 and minor == 1:
        return "console"
    serial = {188: "ttyUSB", 166: "ttyACM", 204: "ttyAMA", 229: "hvc"}.get(major)
    if serial == "ttyAMA":
        return f"ttyAMA{minor - 64}" if 64 <= minor < 80 else f"{major}:{minor}"
    return f"{serial}{minor}" if serial else f"{major}:{minor}"

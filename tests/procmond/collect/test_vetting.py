"""Paths that peers name: where they lead, and everything that must not happen on the way."""

from __future__ import annotations

import ctypes
import os
import socket
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest

from common import limits
from procmond.collect.digest import READ_ONLY
from procmond.collect.mounts import MountTable, parse_mountinfo
from procmond.collect.vetting import Descriptor, Obstacle, barred_mounts, follow
from tests.support.daemons import as_user
from tests.support.images import copy_of_sleep
from tests.support.privilege import needs_root

CLONE_NEWNS = 0x20000  # sched.h; os.CLONE_NEWNS is there from Python 3.12 on

MOUNTINFO = rb"""27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
22 27 0:21 / /proc rw,relatime - proc proc rw
23 27 0:22 / /sys rw shared:7 - sysfs sysfs rw
50 27 0:40 / /srv/chroot/proc rw - proc proc rw
51 27 0:41 / /home/a/my\040host\134x rw master:1 - fuse.sshfs a@b rw
52 27 0:42 / /mnt/nfs rw - nfs4 server:/x rw
53 27 0:43 / /mnt/disk rw - xfs /dev/vdb rw
"""


def inode(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def led_to(path: Path | str) -> tuple[int, int]:
    found = follow(str(path))
    assert isinstance(found, Descriptor), found
    return found.identity[:2]


def obstacle(path: Path | str) -> str:
    found = follow(str(path))
    assert isinstance(found, Obstacle)
    return found.reason


def test_kernel_views_and_file_systems_that_may_never_answer_are_barred() -> None:
    assert barred_mounts(parse_mountinfo(MOUNTINFO)) == {
        b"/proc": "proc",
        b"/sys": "sysfs",
        b"/srv/chroot/proc": "proc",
        rb"/home/a/my host\x": "fuse.sshfs",
        b"/mnt/nfs": "nfs4",
    }


def test_the_root_directory_is_never_barred() -> None:
    assert barred_mounts(parse_mountinfo(b"27 1 0:30 / / rw - 9p host rw\n")) == {}


def test_links_relative_and_absolute_and_dots_are_resolved(tmp_path: Path) -> None:
    path = copy_of_sleep(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "relative").symlink_to("../sleeper")
    (tmp_path / "absolute").symlink_to(tmp_path / "folder" / "relative")
    (tmp_path / "up").symlink_to(tmp_path / "folder", target_is_directory=True)
    assert led_to(path) == inode(path)
    assert led_to(tmp_path / "absolute") == inode(path)
    assert led_to(f"/..//.{tmp_path}/up/../sleeper") == inode(path)
    assert led_to("/../..") == inode(Path("/"))


def test_it_leads_where_the_kernel_leads_for_everything_in_usr_bin() -> None:
    for entry in os.scandir("/usr/bin"):
        if os.path.exists(entry.path):
            assert led_to(entry.path) == inode(Path(entry.path))


@pytest.mark.parametrize(
    "path",
    ["/proc/self/exe", "/proc/1/root/bin/sh", "/proc", "/sys/kernel/profiling", "/dev/fd/0", "/dev/stdin"],
)
def test_what_lies_in_proc_and_sys_is_refused_by_whatever_name(path: str) -> None:
    assert obstacle(path).startswith("lies on a file system of type ")


def test_a_link_into_proc_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(f"/proc/{os.getpid()}/exe")
    assert obstacle(tmp_path / "link") == "lies on a file system of type proc"


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert obstacle(tmp_path / "a") == f"passes more than {limits.MAX_SYMBOLIC_LINKS} symbolic links"


def test_what_is_missing_or_below_a_file_says_so(tmp_path: Path) -> None:
    assert obstacle(tmp_path / "missing") == "No such file or directory"
    assert obstacle(copy_of_sleep(tmp_path) / "below") == "Not a directory"
    assert obstacle(f"/{'x' * 300}") == "File name too long"


def test_a_path_deeper_than_the_bound_is_refused_and_leaves_no_descriptor(tmp_path: Path) -> None:
    deep = tmp_path
    for _ in range(limits.MAX_PATH_DEPTH):
        deep /= "d"
        deep.mkdir()
    before = len(os.listdir("/proc/self/fd"))
    assert obstacle(deep) == f"lies deeper than {limits.MAX_PATH_DEPTH} directories"
    assert len(os.listdir("/proc/self/fd")) == before


def test_fifos_sockets_and_devices_are_found_without_being_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        kinds = []
        for path in (tmp_path / "fifo", tmp_path / "socket", Path("/dev/null")):
            found = follow(str(path))
            assert isinstance(found, Descriptor)
            kinds.append(stat.S_IFMT(found.status.st_mode))
    assert kinds == [stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR]
    with pytest.raises(OSError, match="No such device"):  # ENXIO: no reader, so nobody opened it
        os.open(tmp_path / "fifo", os.O_WRONLY | os.O_NONBLOCK)


def test_a_descriptor_reads_the_file_found_whatever_stands_at_its_name_now(tmp_path: Path) -> None:
    path = copy_of_sleep(tmp_path)
    found = follow(str(path))
    assert isinstance(found, Descriptor)
    path.unlink()
    os.mkfifo(path)
    reader = found.open_for_reading()
    try:
        assert (os.fstat(reader).st_dev, os.fstat(reader).st_ino) == found.identity[:2]
        assert os.read(reader, 4) == b"\x7fELF"
    finally:
        os.close(reader)


def test_a_descriptor_is_closed_when_its_last_holder_lets_go() -> None:
    found = follow("/bin/sh")
    assert isinstance(found, Descriptor)
    number, reopen = found.number, found.open_for_reading
    del found
    os.fstat(number)  # the reopener holds it
    del reopen
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_files_are_opened_so_that_nobody_can_make_the_reader_wait() -> None:
    assert (
        READ_ONLY & (os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC) == os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    )
    assert READ_ONLY & os.O_ACCMODE == os.O_RDONLY


@needs_root
def test_a_mount_that_comes_or_goes_is_noticed() -> None:
    def mount_and_look() -> list[bool]:
        assert ctypes.CDLL(None).unshare(CLONE_NEWNS) == 0
        folder = tempfile.mkdtemp()
        seen = []
        try:
            subprocess.run(["mount", "--make-rprivate", "/"], check=True)
            table = MountTable()
            seen.append(os.fsencode(folder) in barred_mounts(table.mounts()))
            subprocess.run(["mount", "-t", "proc", "proc", folder], check=True)
            seen.append(os.fsencode(folder) in barred_mounts(table.mounts()))
            subprocess.run(["umount", folder], check=True)
            seen.append(os.fsencode(folder) in barred_mounts(table.mounts()))
        finally:
            os.rmdir(folder)
        return seen

    assert as_user(0, 0, mount_and_look) == [False, True, False]

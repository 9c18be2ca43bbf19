"""common.credentials: what the kernel says of real processes under other uids and in many groups."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest

from common.credentials import PeerCredentials, peer_credentials, peer_groups
from tests.support.privilege import needs_root


def test_a_pair_names_ourselves() -> None:
    one, other = socket.socketpair()
    with one, other:
        ourselves = PeerCredentials(os.getpid(), os.geteuid(), os.getegid())
        assert peer_credentials(one) == peer_credentials(other) == ourselves
        assert set(peer_groups(one)) == set(os.getgroups())


def test_a_socket_without_a_peer_is_an_os_error() -> None:
    with socket.socket(socket.AF_UNIX) as sock, pytest.raises(OSError, match="No data available"):
        peer_groups(sock)


def test_a_closed_socket_is_an_os_error() -> None:
    sock = socket.socket(socket.AF_UNIX)
    sock.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        peer_credentials(sock)
    with pytest.raises(OSError, match="Bad file descriptor"):
        peer_groups(sock)


def asked_of(
    path: Path, uid: int, gid: int, groups: Sequence[int]
) -> tuple[int, PeerCredentials, tuple[int, ...]]:
    """A child with these credentials connects to us: its pid, and what the kernel says of it afterwards."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o666)
        listener.listen()
        pid = os.fork()
        if not pid:
            status = 1
            try:
                os.setgroups(list(groups))
                os.setgid(gid)
                os.setuid(uid)
                with socket.socket(socket.AF_UNIX) as sock:
                    sock.connect(str(path))
                    sock.recv(1)  # until the parent has asked
                status = 0
            finally:
                os._exit(status)
        with listener.accept()[0] as peer:
            answer = peer_credentials(peer), peer_groups(peer)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        return pid, *answer


@pytest.fixture
def meeting(tmp_path: Path) -> Path:
    """A socket's path that every uid can reach."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.geteuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o011)
    return tmp_path / "s"


@needs_root
def test_another_user_is_named_with_pid_uid_and_gid(meeting: Path) -> None:
    pid, credentials, groups = asked_of(meeting, 61_234, 61_235, [])
    assert credentials == PeerCredentials(pid, 61_234, 61_235)
    assert groups == ()


@needs_root
@pytest.mark.parametrize("count", [1, 256, 257, 5000], ids=lambda count: f"{count} groups")
def test_every_group_is_named_however_many_there_are(meeting: Path, count: int) -> None:
    # socket.getsockopt takes 1,024 bytes, which are 256 groups.
    wanted = range(100_000, 100_000 + count)
    _, _, groups = asked_of(meeting, 61_234, 61_235, wanted)
    assert sorted(groups) == list(wanted)


@needs_root
def test_the_credentials_are_those_at_connect(meeting: Path) -> None:
    # A peer that gives root up afterwards is still the one that connected as root.
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(meeting))
        listener.listen()
        pid = os.fork()
        if not pid:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(str(meeting))
                os.setuid(61_234)
                sock.send(b"x")
                sock.recv(1)
            os._exit(0)
        with listener.accept()[0] as peer:
            assert peer.recv(1) == b"x"
            assert peer_credentials(peer).uid == 0
        os.waitpid(pid, 0)

"""Starts that must not succeed: one clear line, exit status 2, and nothing deleted."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.errors import ConfigError
from common.listening import Listener, check_directory
from common.messages import DetectionTask, TaskType
from tests.support.daemons import LET_US_IN, Client, Procmond, as_user, public_directory
from tests.support.privilege import needs_root


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(public_directory())
    yield path
    shutil.rmtree(path)


def refused(*arguments: str) -> str:
    """The one line with which procmond refuses to start."""
    result = subprocess.run(
        [sys.executable, "-m", "procmond.main", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    lines = [line for line in result.stderr.splitlines() if not line.startswith("{")]
    assert (result.returncode, len(lines)) == (2, 1), result.stderr
    return lines[0]


def test_a_socket_path_of_108_bytes(folder: Path) -> None:
    path = f"{folder}/{'s' * (107 - len(str(folder)))}"
    assert len(path) == 108
    assert "107" in refused("--socket", path)


@pytest.mark.parametrize("kind", ["file", "directory", "link", "fifo"])
def test_something_else_at_the_socket_path_stays(folder: Path, kind: str) -> None:
    path = folder / "taken"
    if kind == "file":
        path.write_text("precious")
    elif kind == "directory":
        path.mkdir()
    elif kind == "link":
        path.symlink_to("elsewhere")
    else:
        os.mkfifo(path)
    before = os.lstat(path)
    assert "not a socket" in refused("--socket", str(path))
    assert os.lstat(path).st_ino == before.st_ino


def test_a_missing_directory(folder: Path) -> None:
    assert "No such file" in refused("--socket", f"{folder}/missing/p.sock")


def test_a_directory_others_can_write_to(folder: Path) -> None:
    folder.chmod(0o777)
    assert "others" in refused("--socket", f"{folder}/p.sock")


@needs_root
def test_a_directory_of_somebody_else(folder: Path) -> None:
    os.chown(folder, 65_534, 65_534)
    assert "others" in refused("--socket", f"{folder}/p.sock")


@needs_root
def test_a_directory_we_cannot_write_to(folder: Path) -> None:
    with pytest.raises(ConfigError, match="not writable"):
        as_user(65_534, 65_534, lambda: check_directory(str(folder)))


@needs_root
def test_a_group_the_socket_cannot_be_given_to(folder: Path) -> None:
    os.chown(folder, 65_534, 65_534)
    path = f"{folder}/p.sock"
    with pytest.raises(ConfigError, match="cannot be given to group 0: Operation not permitted"):
        as_user(65_534, 65_534, lambda: Listener(path, 0).open().close())
    assert not os.path.exists(path)


def test_a_second_instance_on_the_same_socket_says_who_has_it() -> None:
    with Procmond() as first:
        line = refused("--socket", first.socket)
        assert "already" in line
        assert str(first.pid) in line
        with first.connect():
            pass  # it still answers


def test_a_socket_another_server_listens_on_is_not_taken(folder: Path) -> None:
    path = f"{folder}/p.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        other.listen()
        assert "already" in refused("--socket", path)
        assert os.path.exists(path)


def test_a_stale_socket_of_our_own_is_replaced() -> None:
    procmond = Procmond()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(procmond.socket)
    with procmond:
        with procmond.connect():
            pass
        assert procmond.stop() == 0


def test_a_named_group_that_does_not_exist() -> None:
    assert "no-such-group" in refused("--allow-group", "no-such-group", "--socket", "/tmp/unused.sock")


def test_an_unknown_key_names_file_and_key(folder: Path) -> None:
    config = folder / "procmond.toml"
    config.write_text("[limits]\nconections = 3\n")
    line = refused("--config", str(config))
    assert str(config) in line
    assert "conections" in line


def test_a_systemd_socket_is_used_as_it_is(folder: Path) -> None:
    path = f"{folder}/inherited.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        script = (
            "import os, sys; os.dup2(int(sys.argv[1]), 3); os.set_inheritable(3, True);"
            "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1', LISTEN_FDNAMES='p.socket');"
            "os.execv(sys.executable, [sys.executable, '-m', 'procmond.main', *sys.argv[2:]])"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(listener.fileno()), *LET_US_IN],
            pass_fds=[listener.fileno()],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        try:
            for line in process.stderr:
                if "procmond_ready" in line:
                    break
            else:
                pytest.fail("procmond did not start")
            with Client(path) as client:
                task = DetectionTask(task_id="n", task_type=TaskType.NEGOTIATE_CAPABILITIES)
                assert client.ask(task)[0].success
        finally:
            process.terminate()
            process.wait(timeout=10)
            process.stderr.close()
        assert os.path.exists(path), "a socket that systemd made is not procmond's to remove"

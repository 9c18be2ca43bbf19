"""Changes of credentials, where this kernel lets a program see them."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import pytest

from procmond.events import ebpf, facts
from procmond.events.facts import CredentialsEvent, ExecEvent
from tests.procmond.events.workload import Recorder


@pytest.fixture(autouse=True)
def _credentials(programs: ebpf.Programs) -> None:
    if "credentials" in programs.missing:
        pytest.skip(f"no program for credentials here: {programs.missing['credentials'].detail}")


def test_a_change_of_ids_tells_the_former_and_the_new_ones(recorder: Recorder) -> None:
    def child() -> None:
        os.setresgid(1001, 1002, 1003)
        os.setresuid(2001, 2002, 2003)

    group, user = recorder.of(recorder.fork(child), CredentialsEvent)
    assert (group.former_real_gid, group.former_effective_gid) == (os.getgid(), os.getegid())
    assert (group.real_gid, group.effective_gid, group.real_uid) == (1001, 1002, os.getuid())
    assert (user.former_real_uid, user.former_effective_uid) == (os.getuid(), os.geteuid())
    assert (user.real_uid, user.effective_uid, user.effective_gid) == (2001, 2002, 1002)


def test_what_changes_no_real_or_effective_id_is_no_event(recorder: Recorder) -> None:
    def child() -> None:
        os.setuid(os.getuid())
        os.setgroups([])
        os.setresuid(-1, -1, 5)

    assert not recorder.of(recorder.fork(child), CredentialsEvent)


def test_a_thread_that_changes_only_itself_is_no_event(recorder: Recorder) -> None:
    pid = recorder.python(
        "import ctypes, platform, threading\n"
        "setresuid = {'x86_64': 117, 'aarch64': 147}[platform.machine()]\n"
        "thread = threading.Thread(target=lambda: ctypes.CDLL(None).syscall(setresuid, 7, 7, 7))\n"
        "thread.start(); thread.join()"
    )
    assert not recorder.of(pid, CredentialsEvent)


def test_an_exec_that_raises_privileges_tells_them_itself(recorder: Recorder) -> None:
    directory = Path("/var/tmp") / f"daemoneye-{os.getpid()}-{threading.get_ident()}"
    directory.mkdir(mode=0o755)
    try:
        tool = directory / "tool"
        shutil.copy("/bin/true", tool)
        tool.chmod(0o4755)

        def child() -> None:
            os.setresuid(1234, 1234, 1234)
            os.execv(tool, ["tool"])

        pid = recorder.fork(child)
        assert len(recorder.of(pid, CredentialsEvent)) == 1
        event = recorder.the(pid, ExecEvent)
        assert (event.real_uid, event.effective_uid) == (1234, os.getuid())
        assert event.flags & facts.SECURE
    finally:
        shutil.rmtree(directory)

"""The Linux collectors remember. One rule: what a process does between two sweeps is seen in the second."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from pathlib import Path

import pytest

from common.messages import HashState
from common.pb import ipc_pb2 as pb
from procmond.collect.guard import Guard
from procmond.collect.processes import PsutilCollector
from procmond.collect.procfs import ProcfsCollector
from procmond.collect.sighting import Collector, Sighting, Wanted
from procmond.collect.users import Users
from procmond.pulse import Stage
from procmond.quarantine import Culprit, Withheld
from tests.procmond.collect.made import Made, look, made, record_of, seen, started
from tests.support.images import SLEEP, copy_of_sleep, running
from tests.support.privilege import needs_root

SPECIFIED, FULL = Wanted(), Wanted(full=True)


def twice(
    collector: Collector, process: Made, wanted: Wanted = FULL
) -> tuple[pb.ProcessRecord, pb.ProcessRecord]:
    """The records before and after the process has gone on; each sweep is made warm first."""
    look(collector, process.pid, wanted)
    before = look(collector, process.pid, wanted)
    process.go_on()
    return before, look(collector, process.pid, wanted)


@pytest.mark.parametrize("wanted", [SPECIFIED, FULL])
def test_arguments_written_over_in_place_are_seen(remembering: Collector, wanted: Wanted) -> None:
    code = """
    stat = open("/proc/self/stat").read().rpartition(")")[2].split()
    memory = open("/proc/self/mem", "r+b", 0)
    start, end = int(stat[45]), int(stat[46])
    memory.seek(end - 8); memory.write(b"before!")
    ready()
    memory.seek(end - 8); memory.write(b"after!!")
    ready()
    """
    with made(code, "unwritten") as process:
        before, after = twice(remembering, process, wanted)
    assert before.command_line[-1] == "unbefore!"
    assert after.command_line[-1] == "unafter!!"


@pytest.mark.parametrize("wanted", [SPECIFIED, FULL])
def test_another_program_in_the_same_process_is_seen(
    remembering: Collector, tmp_path: Path, wanted: Wanted
) -> None:
    code = """
    ready()
    os.write(1, b"r")
    os.execv("/bin/cat", ["cat", "-"])
    """
    with made(code) as process:
        before, after = twice(remembering, process, wanted)
        while after.executable_path == before.executable_path:
            after = look(remembering, process.pid, wanted)
        assert after.executable_path == os.path.realpath("/bin/cat")
        assert list(look(remembering, process.pid, wanted).command_line) == ["cat", "-"]
        assert after.start_time == before.start_time


@needs_root
@pytest.mark.parametrize("wanted", [SPECIFIED, FULL])
def test_another_user_is_seen(remembering: Collector, wanted: Wanted) -> None:
    with made("ready(); os.setresuid(1, 2, 3); ready()") as process:
        before, after = twice(remembering, process, wanted)
    assert (before.user_id, after.user_id) == ("0", "1")
    assert after.effective_uid == (2 if wanted.full else 0)


def test_another_directory_and_name_and_session_are_seen(remembering: Collector) -> None:
    code = "ready(); os.chdir('/usr'); must(libc.prctl(15, b'renamed', 0, 0, 0)); os.setsid(); ready()"
    with made(code) as process:
        before, after = twice(remembering, process)
    assert (before.cwd, before.session) == (os.getcwd(), os.getsid(0))
    assert (after.cwd, after.session, after.name) == ("/usr", process.pid, "renamed")


@needs_root
def test_another_login_and_mount_namespace_are_seen(remembering: Collector) -> None:
    code = """
    ready()
    must(libc.unshare(0x20000))
    try:
        open("/proc/self/loginuid", "w").write("1")
    except FileNotFoundError:
        pass
    ready()
    """
    with made(code) as process:
        before, after = twice(remembering, process)
        own = os.stat(f"/proc/{process.pid}/ns/mnt").st_ino
    assert before.mount_namespace == os.stat("/proc/self/ns/mnt").st_ino
    assert after.mount_namespace == own != before.mount_namespace
    assert after.pid_namespace == os.stat("/proc/self/ns/pid").st_ino
    if os.path.exists("/proc/self/loginuid"):
        assert after.login_uid == 1


def test_an_executable_deleted_between_two_sweeps_is_seen(remembering: Collector, tmp_path: Path) -> None:
    program = copy_of_sleep(tmp_path)
    with running(program) as pid, running(program) as other:
        for _ in range(2):
            assert not look(remembering, pid).on_disk_mismatch
        program.unlink()
        assert look(remembering, pid).on_disk_mismatch
        shutil.copy(SLEEP, program)
        for each in pid, other:
            record = look(remembering, each)
            assert (record.on_disk_mismatch, record.file_exists) == (True, True)


def test_a_file_rewritten_in_its_place_is_another_state(remembering: Collector, tmp_path: Path) -> None:
    program = copy_of_sleep(tmp_path)
    with running(program) as pid:
        before = seen(remembering, pid)
        seen(remembering, pid)
        os.utime(program, ns=(1, 1))
        after = seen(remembering, pid)
    assert before.image is not None
    assert after.image is not None
    assert (after.image.inode, after.image.mtime_ns) == (before.image.inode, 1)
    assert after.image.ctime_ns > before.image.ctime_ns


def test_a_number_given_to_another_process_is_another_process(procfs: ProcfsCollector) -> None:
    with started(["/bin/cat", "-"]) as first:
        one = seen(procfs, first.pid)
    with started(["/bin/cat", "-"]) as second:
        # The kernel will not hand out the same number soon, so what was known of the first is moved there.
        known = procfs._known
        if first.pid in known:
            known[second.pid] = known.pop(first.pid)
            known[second.pid].handle.close()
            known[second.pid].handle.__init__(b"/proc", second.pid, pidfd=procfs._pidfd)  # type: ignore[misc]
        two = seen(procfs, second.pid)
    assert two.start_ticks > one.start_ticks
    assert record_of(two).pid == second.pid


def test_what_ended_leaves_nothing_open(procfs: ProcfsCollector) -> None:
    list(procfs.sweep(FULL, None))
    with running(SLEEP) as pid:
        look(procfs, pid)
        assert pid in procfs._known
    list(procfs.sweep(FULL, None))
    assert pid not in procfs._known
    procfs.close()
    assert not any("pidfd" in link or link.endswith(("cmdline", "loginuid")) for link in _descriptors())


def _descriptors() -> list[str]:
    links = []
    for name in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:  # the listing's own
            continue
    return links


def test_only_as_many_descriptors_stay_open_as_may() -> None:
    collector = ProcfsCollector(held_descriptors=10)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        assert sum(s is not None for s in collector.sweep(FULL, None)) > 5
        assert len(os.listdir("/proc/self/fd")) - before <= 10
    collector.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_asking_by_pid_keeps_nothing(procfs: ProcfsCollector) -> None:
    with running(SLEEP) as pid:
        before = len(os.listdir("/proc/self/fd"))
        (sighting,) = procfs.sweep(FULL, [pid])
        assert sighting is not None
        assert len(os.listdir("/proc/self/fd")) == before
    assert not procfs._known


def test_names_of_users_follow_their_file(tmp_path: Path) -> None:
    passwd = tmp_path / "passwd"
    passwd.write_text(f"one:x:{os.getuid()}:0::/:/bin/sh\n")
    collector = ProcfsCollector(users=Users(str(passwd)))
    assert look(collector, os.getpid()).user_name == "one"
    (tmp_path / "new").write_text(f"two:x:{os.getuid()}:0::/:/bin/sh\n")
    (tmp_path / "new").rename(passwd)
    with running(SLEEP) as pid:
        assert look(collector, pid).user_name == "two"
        passwd.unlink()
        assert look(collector, pid).user_name == ""
    collector.close()


def test_the_start_never_moves(procfs: ProcfsCollector) -> None:
    other = ProcfsCollector(boot_time=procfs.boot_time())
    with running(SLEEP) as pid:
        times = {look(c, pid).start_time for c in (procfs, other) for _ in range(3)}
    other.close()
    assert len(times) == 1


def look_guarded(kind: str, culprit: Culprit, wanted: Wanted = FULL) -> Sighting:
    """The culprit as a collector sees it that must not read what stalled."""
    guard = Guard(None, Withheld(culprits=(culprit,)))
    if kind == "psutil":
        return seen(PsutilCollector(guard=guard), culprit.pid, wanted)
    with contextlib.closing(ProcfsCollector(guard=guard)) as collector:
        return seen(collector, culprit.pid, wanted)


@pytest.mark.parametrize("kind", ["procfs", "psutil"])
def test_a_blocked_process_is_not_asked_for_its_memory(remembering: Collector, kind: str) -> None:
    wanted = Wanted(full=True, environment=True)
    with running(SLEEP) as pid:
        free = seen(remembering, pid)
        culprit = Culprit(pid, free.start_ticks, 0, Stage.ARGUMENTS, time.monotonic() + 3600)
        record = record_of(look_guarded(kind, culprit, wanted))
        assert record.command_line_blocked
        assert not record.command_line
        assert record.executable_inode
        assert {(e.field, e.reason) for e in record.exceptions} >= {(5, "blocked"), (130, "blocked")}
        assert list(look(remembering, pid).command_line) == [str(SLEEP), "300"]


@pytest.mark.parametrize("kind", ["procfs", "psutil"])
def test_an_image_that_does_not_answer_is_named_but_not_touched(remembering: Collector, kind: str) -> None:
    with running(SLEEP) as pid:
        free = seen(remembering, pid)
        culprit = Culprit(pid, free.start_ticks, 0, Stage.IMAGE, time.monotonic() + 3600)
        sighting = look_guarded(kind, culprit)
        assert (sighting.image, sighting.image_state) == (None, HashState.TIMED_OUT)
        assert sighting.executable_path == str(SLEEP)
        assert list(record_of(sighting).command_line) == [str(SLEEP), "300"]


def test_secrets_are_replaced_before_they_are_encoded() -> None:
    def redact(argv: tuple[str, ...], executable: str | None) -> tuple[tuple[str, ...], bool]:
        assert executable is None or executable.startswith("/")
        return tuple("[REDACTED]" if a == "300" else a for a in argv), "300" in argv

    collector = ProcfsCollector(redact)
    with running(SLEEP) as pid:
        for _ in range(2):
            record = look(collector, pid)
            assert list(record.command_line) == [str(SLEEP), "[REDACTED]"]
            assert record.redacted
    collector.close()


def test_a_script_is_named(remembering: Collector, tmp_path: Path) -> None:
    script = tmp_path / "work.py"
    script.write_text(f"#!{sys.executable} -I\nimport os\nos.write(1, b'r')\nos.read(0, 1)\n")
    script.chmod(0o755)
    with started([str(script), "x"]) as process:
        process.wait_ready()
        record = look(remembering, process.pid)
    assert record.script_path == str(script)
    assert record.executable_path == os.path.realpath(sys.executable)


@needs_root
def test_a_private_mount_namespace_is_looked_into_but_no_link_followed_out(
    remembering: Collector, tmp_path: Path
) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "private"
    outside.mkdir()
    folder.mkdir()
    code = """
    import shutil, subprocess
    folder, outside, program = sys.argv[1:4]
    must(libc.unshare(0x20000))
    must(libc.mount(b"none", b"/", None, 0x4000 | 0x40000, None))
    must(libc.mount(b"none", folder.encode(), b"tmpfs", 0, None))
    os.mkdir(folder + "/dir")
    shutil.copy(program, folder + "/dir/sleeper")
    child = subprocess.Popen([folder + "/dir/sleeper", "300"])
    with open(outside + "/pid", "w") as file:
        file.write(str(child.pid))
    ready()
    os.unlink(folder + "/dir/sleeper")
    os.rmdir(folder + "/dir")
    os.symlink(outside, folder + "/dir")
    ready()
    """
    copy_of_sleep(outside)
    with made(code, str(folder), str(outside), str(SLEEP)) as process:
        pid = int((outside / "pid").read_text())
        try:
            before = look(remembering, pid)
            look(remembering, pid)
            process.go_on()
            after = look(remembering, pid)
        finally:
            os.kill(pid, 9)
    assert not (folder / "dir").exists(), "the mount was not private"
    assert before.executable_path == after.executable_path == f"{folder}/dir/sleeper"
    assert (before.file_exists, before.on_disk_mismatch) == (True, False)
    assert (after.file_exists, after.on_disk_mismatch) == (False, True)

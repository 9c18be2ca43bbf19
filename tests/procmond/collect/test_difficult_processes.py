"""Processes that make collectors err. One rule: every way of collecting is held to the same answers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from common.messages import HashState
from common.pb import ipc_pb2 as pb
from procmond.collect.sighting import Collector, Wanted
from tests.procmond.collect.made import DESCEND, deep_image, leaderless, look, made, record_of, seen
from tests.support.images import SLEEP, copy_of_sleep, running
from tests.support.privilege import needs_root

SPECIFIED = Wanted()
FULL = Wanted(full=True)


def test_a_plain_process_is_told_in_full(collector: Collector, tmp_path: Path) -> None:
    program = copy_of_sleep(tmp_path)
    with running(program) as pid:
        sighting = seen(collector, pid)
        record = record_of(sighting)
    assert (record.pid, record.ppid, record.name) == (pid, os.getpid(), "sleeper")
    assert record.executable_path == sighting.executable_path == str(program)
    assert list(record.command_line) == [str(program), "300"]
    assert record.user_id == str(os.getuid())
    assert record.accessible
    assert record.file_exists
    assert not record.on_disk_mismatch
    assert not record.memory_backed
    if collector.name != "bpf":
        assert record.provenance == pb.PROVENANCE_PROC
    status = program.stat()
    assert sighting.image == (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )
    assert (record.executable_device, record.executable_inode) == (status.st_dev, status.st_ino)
    assert record.parent_start_ticks == seen(collector, os.getpid()).start_ticks


def test_without_options_only_the_specifications_fields_are_sent(collector: Collector) -> None:
    for sighting in collector.sweep(SPECIFIED, None):
        if sighting is not None:
            assert {f.number for f, _ in record_of(sighting).ListFields()} <= set(range(1, 18))


@needs_root
def test_the_user_is_the_real_one(collector: Collector) -> None:
    with made("os.setresgid(4, 5, 6); os.setresuid(1, 2, 3); ready()") as process:
        record = look(collector, process.pid)
    assert record.user_id == "1"
    assert (record.real_uid, record.effective_uid) == (1, 2)
    assert (record.real_gid, record.effective_gid) == (4, 5)
    assert record.user_name == "daemon"


@pytest.mark.parametrize("how", ["deleted", "replaced", "replaced by a link"])
def test_an_executable_that_left_its_name_is_a_mismatch(
    collector: Collector, tmp_path: Path, how: str
) -> None:
    program = copy_of_sleep(tmp_path)
    with running(program) as pid:
        program.unlink()
        if how == "replaced":
            shutil.copy(SLEEP, program)
        elif how == "replaced by a link":
            program.symlink_to(SLEEP)
        record = look(collector, pid)
    assert record.executable_path == str(program)
    assert record.on_disk_mismatch
    assert record.file_exists is (how != "deleted")


def test_an_executable_moved_while_it_runs_is_found_under_its_new_name(
    collector: Collector, tmp_path: Path
) -> None:
    program = copy_of_sleep(tmp_path)
    with running(program) as pid:
        assert look(collector, pid).executable_path == str(program)
        (tmp_path / "later").mkdir()
        program.rename(tmp_path / "later" / "sleeper")
        record = look(collector, pid)
    assert record.executable_path == str(tmp_path / "later" / "sleeper")
    assert not record.on_disk_mismatch


def test_a_directory_moved_above_an_executable_is_seen(collector: Collector, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    program = copy_of_sleep(tmp_path / "a")
    with running(program) as pid:
        look(collector, pid)
        (tmp_path / "a").rename(tmp_path / "b")
        assert look(collector, pid).executable_path == str(tmp_path / "b" / "sleeper")


def test_a_file_really_called_deleted_is_itself(collector: Collector, tmp_path: Path) -> None:
    program = copy_of_sleep(tmp_path, "sleeper (deleted)")
    with running(program) as pid:
        record = look(collector, pid)
        assert (record.executable_path, record.on_disk_mismatch) == (str(program), False)
        program.unlink()
        record = look(collector, pid)
        assert (record.executable_path, record.on_disk_mismatch) == (str(program), True)


def test_a_memfd_is_memory_backed(collector: Collector) -> None:
    descriptor = os.memfd_create("hidden")
    os.write(descriptor, SLEEP.read_bytes())
    with subprocess.Popen(
        ["innocent", "300"], executable=f"/proc/self/fd/{descriptor}", pass_fds=[descriptor]
    ) as process:
        os.close(descriptor)
        record = look(collector, process.pid)
        process.kill()
    assert record.memory_backed
    assert record.on_disk_mismatch
    assert not record.file_exists
    assert record.executable_path == "/memfd:hidden"
    assert list(record.command_line) == ["innocent", "300"]


def test_a_file_without_a_name_is_memory_backed(collector: Collector, tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_TMPFILE | os.O_RDWR, 0o700)
    os.write(descriptor, SLEEP.read_bytes())
    readable = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY)
    os.close(descriptor)  # a file open for writing cannot be executed
    with subprocess.Popen(
        ["innocent", "300"], executable=f"/proc/self/fd/{readable}", pass_fds=[readable]
    ) as process:
        os.close(readable)
        record = look(collector, process.pid)
        process.kill()
    assert record.memory_backed
    assert record.on_disk_mismatch


@pytest.mark.parametrize("name", [b") R 1 (", b"a\nUid:\t0", b"\xff\xfe)", b"", b"fifteen bytes ok"])
def test_a_name_may_hold_anything(collector: Collector, name: bytes) -> None:
    with made(f"must(libc.prctl(15, {name!r}, 0, 0, 0)); ready()") as process:
        record = look(collector, process.pid)
        assert record.name == name[:15].decode("utf-8", "backslashreplace")
        assert record.ppid == os.getpid()
        assert record.user_id == str(os.getuid())


def test_arguments_are_told_as_they_were_passed(remembering: Collector) -> None:
    with made("ready()", "", "two words", "line\nbreak", "\x1b[31m", "\udcff") as process:
        record = look(remembering, process.pid)
    assert list(record.command_line)[5:] == ["", "two words", "line\nbreak", "\x1b[31m", "\\xff"]


def test_no_arguments_at_all_are_none(remembering: Collector) -> None:
    # The kernel puts an empty argv[0] in since 5.18, and what stands there before it is nothing.
    with made(
        """
        program = ctypes.c_char_p(b"/bin/cat")
        os.write(1, b"r")
        libc.execve(program, (ctypes.c_char_p * 1)(None), (ctypes.c_char_p * 1)(None))
        """
    ) as process:
        while os.readlink(f"/proc/{process.pid}/exe") != os.path.realpath("/bin/cat"):
            pass
        assert list(look(remembering, process.pid).command_line) in ([], [""])


def test_two_mebibytes_of_arguments_are_cut_and_their_length_told(collector: Collector) -> None:
    big = 16 * 128 * 1024
    with made(
        """
        import resource
        resource.setrlimit(resource.RLIMIT_STACK, (64 << 20, resource.getrlimit(resource.RLIMIT_STACK)[1]))
        os.write(1, b"r")
        os.execv("/bin/cat", ["cat", "-", *["x" * (128 * 1024 - 1)] * 16])
        """
    ) as process:
        while os.readlink(f"/proc/{process.pid}/exe") != os.path.realpath("/bin/cat"):
            pass
        record = look(collector, process.pid)
    assert len("\0".join(record.command_line)) == 32 * 1024
    assert record.command_line_length == len("cat\0-\0") + big
    assert [(e.field, e.reason) for e in record.exceptions if e.field == 5] == [(5, "cut")]
    assert record.accessible


def test_a_working_directory_deeper_than_the_kernel_tells_is_named(
    collector: Collector, tmp_path: Path
) -> None:
    with made(DESCEND + "ready()", str(tmp_path)) as process:
        record = look(collector, process.pid)
    assert not record.cwd
    assert [(e.field, e.reason) for e in record.exceptions if e.field == 113] == [(113, "cut")]
    assert record.executable_path
    assert record.accessible


def test_an_image_deeper_than_the_kernel_tells_is_still_known(collector: Collector, tmp_path: Path) -> None:
    program = copy_of_sleep(tmp_path)
    with deep_image(tmp_path, program) as process:
        sighting = seen(collector, process.pid)
    assert sighting.image is not None
    assert sighting.image.inode == program.stat().st_ino
    record = record_of(sighting)
    assert not record.HasField("executable_path")
    assert [(e.field, e.reason) for e in record.exceptions if e.field == 4] == [(4, "cut")]
    assert not record.on_disk_mismatch


def test_arguments_said_to_be_endless_are_cut_like_others(collector: Collector) -> None:
    # Needs no privilege: PR_SET, PR_SET_MM_MAP of prctl(2), with struct prctl_mm_map.
    with made(
        """
        import mmap, struct
        field = open("/proc/self/stat").read().rpartition(") ")[2].split()
        code, data, stack, environment = field[23:25], field[42:44], field[25], field[47:49]
        libc.sbrk.restype = ctypes.c_void_p
        arguments = mmap.mmap(-1, 64 * 1024, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        arguments.write(b"A" * 60_000)
        start = ctypes.addressof(ctypes.c_char.from_buffer(arguments))
        end = start + (1 << 33)
        numbers = [*code, *data, field[44], libc.sbrk(0), stack, start, end, *environment, 0]
        request = struct.pack("<12QIi", *map(int, numbers), 0, -1)
        must(libc.prctl(35, 14, request, len(request), 0))
        ready()
        """
    ) as process:
        record = look(collector, process.pid)
    assert set("".join(record.command_line)) == {"A"}
    assert len(record.command_line[0]) == 32 * 1024
    assert record.command_line_length >= 60_000
    assert [(e.field, e.reason) for e in record.exceptions if e.field == 5] == [(5, "cut")]


def test_a_zombie_has_a_record_without_an_image(collector: Collector) -> None:
    with subprocess.Popen(["/bin/true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        sighting = seen(collector, process.pid)
    record = record_of(sighting)
    assert record.status == pb.PROCESS_STATUS_ZOMBIE
    assert (sighting.image, sighting.image_state) == (None, HashState.NO_EXECUTABLE)
    assert (record.name, record.ppid, record.accessible) == ("true", os.getpid(), True)
    assert not record.HasField("executable_path")


def test_a_process_whose_first_thread_has_ended_is_told_as_running(
    collector: Collector, tmp_path: Path
) -> None:
    here = "os.chdir(sys.argv[1])"
    with leaderless(here, str(tmp_path), "an argument") as process:
        sighting = seen(collector, process.pid, Wanted(full=True, environment=True))
    record = record_of(sighting)
    status = os.stat(os.path.realpath(sys.executable))
    assert record.status == pb.PROCESS_STATUS_SLEEPING
    assert record.threads == 2  # the kernel counts the one that has ended
    assert record.executable_path == sighting.executable_path == os.path.realpath(sys.executable)
    assert sighting.image is not None
    assert sighting.image[:2] == (status.st_dev, status.st_ino)
    assert list(record.command_line)[-2:] == [str(tmp_path), "an argument"]
    assert (record.accessible, record.file_exists, record.on_disk_mismatch) == (True, True, False)
    assert (record.cwd, record.ppid) == (str(tmp_path), os.getpid())
    assert record.memory_usage > 1 << 20
    assert record.start_ticks == sighting.start_ticks > 0
    assert "PATH" in {variable.name for variable in record.environment}
    if collector.name != "psutil":
        assert record.mount_namespace == os.stat("/proc/self/ns/mnt").st_ino
        assert record.pid_namespace == os.stat("/proc/self/ns/pid").st_ino


@needs_root
def test_credentials_are_of_who_runs_and_not_of_a_first_thread_that_has_ended(collector: Collector) -> None:
    with leaderless(
        """
        while b") Z " not in open(f"/proc/{os.getpid()}/stat", "rb").read(): pass
        os.setresuid(1, 2, 3)
        """
    ) as process:
        record = look(collector, process.pid)
    assert (record.user_id, record.effective_uid) == ("1", 2)


def test_a_process_is_told_anew_when_its_first_thread_ends(collector: Collector) -> None:
    code = """
    import threading
    go = threading.Event()
    def live():
        ready()
        go.set()
        while b") Z " not in open(f"/proc/{os.getpid()}/stat", "rb").read(): pass
        ready()
    threading.Thread(target=live).start()
    go.wait()
    libc.pthread_exit(None)
    """
    with made(code) as process:
        before = seen(collector, process.pid)
        process.go_on()
        after = seen(collector, process.pid)
    assert (before.pid, before.start_ticks) == (after.pid, after.start_ticks)
    assert (before.image, before.executable_path) == (after.image, after.executable_path)
    assert record_of(before).command_line == record_of(after).command_line


def test_a_kernel_thread_has_a_record_without_an_image(collector: Collector) -> None:
    if not Path("/proc/2/comm").exists() or Path("/proc/2/comm").read_text() != "kthreadd\n":
        pytest.skip("kthreadd is not visible in this pid namespace")
    sighting = seen(collector, 2)
    record = record_of(sighting)
    assert record.is_kernel_thread
    assert (record.name, record.ppid, record.accessible) == ("kthreadd", 0, True)
    assert sighting.image_state == HashState.NO_EXECUTABLE
    assert not record.on_disk_mismatch
    assert not record.HasField("parent_start_ticks")
    assert look(collector, 2, Wanted(full=True, environment=True)).name == "kthreadd"


@needs_root
def test_what_the_kernel_refuses_is_named() -> None:
    # An ordinary user asks about a process of root's.
    code = """
    import sys
    sys.path[:0] = sys.argv[2].split(":")
    from procmond.collect.processes import PsutilCollector
    from procmond.collect.procfs import ProcfsCollector
    from procmond.collect.sighting import Wanted
    collectors = PsutilCollector(), ProcfsCollector(), ProcfsCollector(pidfd=False)
    os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
    for collector in collectors:
        for sighting in collector.sweep(Wanted(full=True), [int(sys.argv[1])]):
            os.write(1, len(sighting.payload).to_bytes(4, "little") + sighting.payload)
    """
    whole = "import os\n" + textwrap.dedent(code)
    path = ":".join(p for p in sys.path if p)
    with running(SLEEP) as pid:
        out = subprocess.run(
            [sys.executable, "-I", "-c", whole, str(pid), path], stdout=subprocess.PIPE, check=True
        ).stdout
    count = 0
    while out:
        length = int.from_bytes(out[:4], "little")
        record = pb.ProcessRecord.FromString(out[4 : 4 + length])
        out = out[4 + length :]
        count += 1
        assert not record.accessible
        assert not record.HasField("executable_path")
        assert list(record.command_line) == [str(SLEEP), "300"]
        assert {(e.field, e.reason) for e in record.exceptions if e.reason == "denied"} >= {
            (4, "denied"),
            (113, "denied"),
        }
    assert count == 3


def test_a_process_gone_between_listing_and_reading_is_none(one_by_one: Collector) -> None:
    with running(SLEEP) as pid:
        sweep = one_by_one.sweep(FULL, None)
        first = next(sweep)
        assert first is None or first.pid < pid
        psutil.Process(pid).kill()
        os.waitpid(pid, 0)
        rest = list(sweep)
    assert None in rest
    assert pid not in {s.pid for s in rest if s}


def test_asked_by_pid_only_thread_group_leaders_answer(collector: Collector) -> None:
    code = """
    import threading
    threading.Thread(target=ready).start()
    """
    with made(code) as process:
        (other,) = {int(t) for t in os.listdir(f"/proc/{process.pid}/task")} - {process.pid}
        asked = [process.pid, other, 2**22 - 1]
        found = list(collector.sweep(FULL, asked))
        process.process.kill()
    assert [s.pid for s in found if s] == [process.pid]
    assert None not in found


def test_allow_listed_variables_are_told_on_request_only(collector: Collector) -> None:
    environment = {"LD_PRELOAD": "/x.so", "SECRET": "y", "PATH": "/bin"}
    with subprocess.Popen([SLEEP, "300"], env=environment, stderr=subprocess.DEVNULL) as process:
        told = look(collector, process.pid, Wanted(full=True, environment=True))
        untold = look(collector, process.pid)
        process.kill()
    assert {v.name: v.value for v in told.environment} == {"LD_PRELOAD": "/x.so", "PATH": "/bin"}
    assert not untold.environment

"""What the kernel reports of real processes, and that nothing of it is lost unseen."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from common.messages import ProcessEventKind
from procmond.events import ebpf, facts, wire
from procmond.events.facts import ExecEvent, ExitEvent, ForkEvent
from procmond.events.ring import Account, EventRing
from tests.procmond.events.workload import TRUE, Recorder, argument_bytes

LOOP = "i=0; while [ $i -lt %d ]; do /bin/true tag$i; i=$((i+1)); done"


def test_every_exec_and_exit_of_a_shell_loop_is_delivered(recorder: Recorder) -> None:
    shell = recorder.run(["/bin/sh", "-c", LOOP % 3000])
    execs = [event for event in recorder.events if isinstance(event, ExecEvent) and event.ppid == shell]
    assert [event.arguments for event in execs] == [b"/bin/true\0tag%d\0" % number for number in range(3000)]
    children = {event.pid for event in execs}
    exits = [event for event in recorder.events if isinstance(event, ExitEvent) and event.pid in children]
    assert len(exits) == 3000
    assert {event.status for event in exits} == {0}
    forks = [event for event in recorder.events if isinstance(event, ForkEvent) and event.ppid == shell]
    assert {(event.pid, event.start_ns) for event in forks} == {
        (event.pid, event.start_ns) for event in execs
    }


def test_the_facts_of_an_exec_are_those_of_proc(recorder: Recorder, tmp_path: Path) -> None:
    process = subprocess.Popen(["/bin/sleep", "60"], cwd=tmp_path, start_new_session=True)
    try:
        event = recorder.the(process.pid, ExecEvent)
        proc = Path("/proc", str(process.pid))
        stat = (proc / "stat").read_text().rpartition(") ")[2].split()
        image = (proc / "exe").stat()
        assert event.start_ticks == int(stat[19])
        assert event.ppid == os.getpid()
        assert event.parent_start_ticks == int(
            Path("/proc/self/stat").read_text().rpartition(") ")[2].split()[19]
        )
        assert event.session == process.pid == int(stat[3])
        assert event.name == b"sleep"
        assert event.arguments == (proc / "cmdline").read_bytes()
        assert event.path == os.fsencode((proc / "exe").readlink())
        assert event.cwd == os.fsencode(tmp_path)
        assert event.invoked_path == b"/bin/sleep"
        assert (event.device, event.inode, event.size) == (image.st_dev, image.st_ino, image.st_size)
        assert (event.mtime_ns, event.ctime_ns) == (image.st_mtime_ns, image.st_ctime_ns)
        assert event.links == image.st_nlink
        assert event.pid_namespace == (proc / "ns/pid").stat().st_ino
        assert event.mount_namespace == (proc / "ns/mnt").stat().st_ino
        assert event.login_uid == int((proc / "loginuid").read_text())
        assert (event.real_uid, event.real_gid) == (os.getuid(), os.getgid())
        assert event.flags == facts.HAS_IMAGE | facts.HAS_CWD
    finally:
        process.kill()
        process.wait()


def test_a_thousand_arguments_arrive(recorder: Recorder) -> None:
    arguments = [TRUE, *(f"argument {number}" for number in range(1000))]
    event = recorder.the(recorder.run(arguments), ExecEvent)
    assert event.arguments == argument_bytes(arguments)
    assert event.argument_length == len(event.arguments)


@pytest.mark.parametrize("size", [32768, 32769, 65536, 131000 * 10])
def test_arguments_are_cut_at_the_bound_with_their_full_length(recorder: Recorder, size: int) -> None:
    filler = ["x" * 100_000] * (size // 100_001)
    arguments = [TRUE, *filler, "y" * (size - len(argument_bytes([TRUE, *filler])) - 1)]
    event = recorder.the(recorder.run(arguments), ExecEvent)
    assert event.argument_length == size
    assert event.arguments == argument_bytes(arguments)[: wire.ARGUMENT_BYTES]


def test_no_arguments_are_reported_as_the_kernel_has_them(recorder: Recorder) -> None:
    event = recorder.the(recorder.run([b"", b"", b"\xff\n"], executable=TRUE), ExecEvent)
    assert event.arguments == b"\0\0\xff\n\0"


def test_posix_spawn_is_a_fork_and_an_exec(recorder: Recorder) -> None:
    pid = os.posix_spawn(TRUE, [TRUE, "spawned"], {})
    os.waitpid(pid, 0)
    recorder.catch_up()
    fork, event, _ = recorder.life(pid)
    assert fork.forker_pid == os.getpid()
    assert event.arguments == b"/bin/true\0spawned\0"


def test_vfork_is_a_fork_and_an_exec(recorder: Recorder) -> None:
    assert subprocess._USE_VFORK  # how CPython starts processes unless told otherwise
    _, event, _ = recorder.life(recorder.run([TRUE, "vforked"]))
    assert event.arguments == b"/bin/true\0vforked\0"


def test_fexecve_names_the_descriptor_and_the_image(recorder: Recorder) -> None:
    def child() -> None:
        os.execve(os.open(TRUE, os.O_RDONLY), ["by descriptor"], {})

    event = recorder.the(recorder.fork(child), ExecEvent)
    assert re.fullmatch(rb"/dev/fd/\d+", event.invoked_path)
    assert event.path == os.fsencode(os.path.realpath(TRUE))
    assert event.arguments == b"by descriptor\0"


def test_a_memfd_is_an_image_without_a_name_on_disk(recorder: Recorder) -> None:
    def child() -> None:
        descriptor = os.memfd_create("hidden")
        os.write(descriptor, Path(TRUE).read_bytes())
        os.execve(descriptor, ["nothing to see"], {})

    event = recorder.the(recorder.fork(child), ExecEvent)
    assert event.path == b"/memfd:hidden"
    assert event.flags & facts.IMAGE_DELETED
    assert event.links == 0
    assert event.size == os.stat(TRUE).st_size


def test_an_unlinked_image_is_marked_and_keeps_its_former_path(recorder: Recorder, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.write_bytes(Path(TRUE).read_bytes())
    copy.chmod(0o755)

    def child() -> None:
        descriptor = os.open(copy, os.O_RDONLY)
        copy.unlink()
        os.execve(descriptor, ["x"], {})

    event = recorder.the(recorder.fork(child), ExecEvent)
    assert event.path == os.fsencode(copy)
    assert event.flags & facts.IMAGE_DELETED


def test_a_script_is_the_invoked_path_and_its_interpreter_the_image(
    recorder: Recorder, tmp_path: Path
) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh -e\nexit 5\n")
    script.chmod(0o755)
    _, event, end = recorder.life(recorder.run([str(script), "one"]))
    assert event.invoked_path == os.fsencode(script)
    assert event.interpreter == b"/bin/sh"
    assert event.flags & facts.INTERPRETED
    assert event.path == os.fsencode(os.path.realpath("/bin/sh"))
    assert event.arguments == argument_bytes(["/bin/sh", "-e", str(script), "one"])
    assert event.name == b"script"
    assert os.waitstatus_to_exitcode(end.status) == 5


def test_an_exec_by_another_thread_is_one_of_the_process(recorder: Recorder) -> None:
    pid = recorder.python(
        "import os, threading, time\n"
        "threading.Thread(target=lambda: os.execv('/bin/true', ['from a thread'])).start()\n"
        "time.sleep(60)"
    )
    fork, end = recorder.the(pid, ForkEvent), recorder.the(pid, ExitEvent)
    first, second = recorder.of(pid, ExecEvent)
    assert second.arguments == b"from a thread\0"
    assert fork.start_ns == first.start_ns == second.start_ns == end.start_ns
    assert first.exec_id < second.exec_id


def test_threads_are_no_processes(recorder: Recorder) -> None:
    pid = recorder.python(
        "import threading\n"
        "threads = [threading.Thread(target=print) for _ in range(50)]\n"
        "[thread.start() for thread in threads]\n[thread.join() for thread in threads]"
    )
    recorder.life(pid)
    assert not [event for event in recorder.events if event.ppid == pid]


def test_a_relative_path_comes_with_the_directory(recorder: Recorder) -> None:
    event = recorder.the(recorder.run(["./true"], cwd="/usr/bin"), ExecEvent)
    assert (event.invoked_path, event.cwd, event.path) == (b"./true", b"/usr/bin", b"/usr/bin/true")


def test_a_symbolic_link_is_the_invoked_path_and_its_target_the_image(
    recorder: Recorder, tmp_path: Path
) -> None:
    link = tmp_path / "tool"
    link.symlink_to(TRUE)
    event = recorder.the(recorder.run([str(link)]), ExecEvent)
    assert (event.invoked_path, event.path) == (os.fsencode(link), os.fsencode(os.path.realpath(TRUE)))


def test_a_path_is_cut_only_beyond_its_bound(recorder: Recorder, tmp_path: Path) -> None:
    deep = tmp_path
    while len(str(deep)) < 3600:
        deep /= "d" * 200
    deep.mkdir(parents=True)
    event = recorder.the(recorder.run([TRUE], cwd=deep), ExecEvent)
    assert event.cwd == os.fsencode(deep)

    def child() -> None:
        os.chdir(deep)
        for _ in range(5):
            os.mkdir("e" * 200)
            os.chdir("e" * 200)
        os.execv(TRUE, [TRUE])

    event = recorder.the(recorder.fork(child), ExecEvent)
    assert event.flags & facts.CWD_CUT
    assert len(event.upward_cwd) <= 4096


@pytest.mark.parametrize("code", [0, 1, 7, 255])
def test_exit_codes_are_reported(recorder: Recorder, code: int) -> None:
    event = recorder.the(recorder.fork(lambda: os._exit(code)), ExitEvent)
    assert os.waitstatus_to_exitcode(event.status) == code
    assert event.run_ns > 0


def test_a_deadly_signal_is_reported(recorder: Recorder) -> None:
    event = recorder.the(recorder.fork(lambda: os.kill(os.getpid(), signal.SIGKILL)), ExitEvent)
    assert os.WIFSIGNALED(event.status)
    assert os.WTERMSIG(event.status) == signal.SIGKILL


LEADER_FIRST = (
    "import ctypes, platform, threading, time\n"
    "exit_thread = {'x86_64': 60, 'aarch64': 93}[platform.machine()]\n"
    "libc = ctypes.CDLL(None)\n"
    "def last():\n"
    "    while open('/proc/self/stat').read().rpartition(') ')[2][0] != 'Z': time.sleep(0.001)\n"
    "    libc.syscall(exit_thread, 9)\n"
    "threading.Thread(target=last).start()\n"
    "libc.syscall(exit_thread, 3)\n"
)


def test_a_process_ends_with_its_last_thread_and_the_status_its_parent_is_told(recorder: Recorder) -> None:
    _, _, event = recorder.life(recorder.python(LEADER_FIRST))
    assert os.waitstatus_to_exitcode(event.status) == recorder.returncode
    assert recorder.returncode in (3, 9)  # the leader's until 6.1, then the last thread's


def test_kernels_that_do_not_tell_the_last_exit_report_each_process_once() -> None:
    programs = ebpf.load(count_threads=True) if os.geteuid() == 0 else None
    if not isinstance(programs, ebpf.Programs):
        pytest.skip(f"needs root and eBPF: {programs}")
    ring = EventRing(programs)
    recorder = Recorder(ring)
    threads = (
        "import os, threading, time\n"
        "[threading.Thread(target=time.sleep, args=(60,), daemon=True).start() for _ in range(30)]\n"
        "os._exit(4)"
    )
    pids = [recorder.python(threads) for _ in range(20)]
    pids.append(recorder.python(LEADER_FIRST))
    codes = [os.waitstatus_to_exitcode(recorder.the(pid, ExitEvent).status) for pid in pids]
    assert codes == [4] * 20 + [recorder.returncode]
    ring.close()
    programs.close()


def test_the_forker_is_not_the_parent_with_clone_parent(recorder: Recorder) -> None:
    pid = recorder.python(
        "import ctypes, os, platform\n"
        "clone = {'x86_64': 56, 'aarch64': 220}[platform.machine()]\n"
        "os._exit(0) if ctypes.CDLL(None).syscall(clone, 0x8000 | 17, 0, 0, 0, 0) == 0 else os._exit(0)"
    )
    (sibling,) = [
        event for event in recorder.events if isinstance(event, ForkEvent) and event.forker_pid == pid
    ]
    assert sibling.ppid == os.getpid()
    assert sibling.forker_start_ns == recorder.the(pid, ForkEvent).start_ns
    os.waitpid(sibling.pid, 0)


def test_a_process_in_a_pid_namespace_of_its_own_has_our_number_for_it(recorder: Recorder) -> None:
    recorder.run(["unshare", "--pid", "--fork", TRUE, "inside"])
    execs = [event for event in recorder.events if isinstance(event, ExecEvent)]
    (event,) = [event for event in execs if event.arguments == b"/bin/true\0inside\0"]
    assert event.pid in {each.pid for each in recorder.events if isinstance(each, ForkEvent)}
    assert event.pid_namespace != os.stat("/proc/self/ns/pid").st_ino


INSIDE = """
import json, os, subprocess, sys
from procmond.events import ebpf, tasks
from procmond.events.ring import EventRing
from procmond.events.facts import ExecEvent
programs = ebpf.load()
assert isinstance(programs, ebpf.Programs), programs
ring = EventRing(programs)
print("ready", flush=True)
sys.stdin.readline()
inside = subprocess.Popen(["/bin/true", "inside"])
inside.wait()
execs = [event for event in ring.drain() if isinstance(event, ExecEvent)]
accounts = ring.accounts()
print(json.dumps({
    "execs": [[event.pid, event.ppid, event.arguments.decode()] for event in execs],
    "pid": inside.pid,
    "outside": {kind.name: account.outside for kind, account in accounts.items()},
    "tasks": sorted(task.pid for task in tasks.read_tasks(programs)) if programs.tasks else None,
    "proc": sorted(int(name) for name in os.listdir("/proc") if name.isdecimal()),
}))
"""


def test_processes_outside_of_procmonds_namespace_are_counted_not_delivered(programs: ebpf.Programs) -> None:
    import json

    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", INSIDE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        for _ in range(10):
            subprocess.run([TRUE, "outside"], check=True)
        told = json.loads(process.communicate("go\n", timeout=30)[0])
    assert told["execs"] == [[told["pid"], 1, "/bin/true\0inside\0"]]
    assert told["pid"] < 10
    assert all(told["outside"][kind] >= 10 for kind in ("FORK", "EXEC", "EXIT"))
    assert told["tasks"] in (None, told["proc"])


def fates(account: Account) -> int:
    return account.output + account.outside + account.dropped


def settle(recorder: Recorder) -> dict[ProcessEventKind, Account]:
    """Accounts read while no event was on its way; others may start processes on this machine at any time."""
    for _ in range(1000):
        recorder.catch_up()
        accounts = recorder.ring.accounts()
        consumed = recorder.ring.consumed
        if all(a.seen == fates(a) and a.output == consumed[kind] for kind, a in accounts.items()):
            return accounts
    pytest.fail(f"seen, fates and consumed never agree: {accounts}, {consumed}")


def test_seen_is_delivered_plus_dropped(recorder: Recorder) -> None:
    before = settle(recorder)
    recorder.events.clear()
    recorder.run(["/bin/sh", "-c", LOOP % 200])
    after = settle(recorder)
    for kind, form in ((ProcessEventKind.FORK, ForkEvent), (ProcessEventKind.EXEC, ExecEvent)):
        delivered = sum(type(event) is form for event in recorder.events)
        assert after[kind].output - before[kind].output == delivered >= 200
        assert after[kind].dropped == before[kind].dropped
    assert recorder.ring.malformed == 0


def test_a_ring_nobody_reads_drops_and_counts(recorder: Recorder) -> None:
    before = settle(recorder)
    recorder.events.clear()
    arguments = [TRUE, "z" * 33_000]
    for _ in range(100):  # 3.3 MB, over the ring's 2 MiB
        os.waitpid(os.posix_spawn(TRUE, arguments, {}), 0)
    after = settle(recorder)
    execs = ProcessEventKind.EXEC
    assert after[execs].ring_full - before[execs].ring_full >= 30
    assert after[execs].seen - before[execs].seen >= 100
    whole = [
        event for event in recorder.events if isinstance(event, ExecEvent) and event.argument_length > 33_000
    ]
    assert 50 <= len(whole) < 70
    assert {event.arguments for event in whole} == {argument_bytes(arguments)[: wire.ARGUMENT_BYTES]}


@pytest.mark.parametrize("strongly_ordered", [True, False])
def test_records_that_wrap_around_the_rings_end_are_whole(
    programs: ebpf.Programs, recorder: Recorder, strongly_ordered: bool
) -> None:
    ring = EventRing(programs, strongly_ordered=strongly_ordered)
    reader = Recorder(ring)
    pids = [reader.run([TRUE, str(number) * 20_000]) for number in range(250)]  # twice around
    expected = [argument_bytes([TRUE, str(number) * 20_000])[: wire.ARGUMENT_BYTES] for number in range(250)]
    assert [reader.the(pid, ExecEvent).arguments for pid in pids] == expected
    assert ring.malformed == 0
    ring.close()


def test_what_a_killed_reader_had_consumed_is_known_and_the_rest_is_not_lost(
    programs: ebpf.Programs, recorder: Recorder
) -> None:
    before = settle(recorder)[ProcessEventKind.EXEC].output
    first = os.posix_spawn(TRUE, [TRUE, "first"], {})
    os.waitpid(first, 0)
    reader = os.fork()
    if reader == 0:
        EventRing(programs).drain()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(reader, 0)
    last = os.posix_spawn(TRUE, [TRUE, "last"], {})
    os.waitpid(last, 0)
    successor = EventRing(programs)
    consumed = successor.consumed[ProcessEventKind.EXEC]
    assert consumed >= before + 1
    events = Recorder(successor)
    events.catch_up()
    assert not events.of(first, ExecEvent)
    assert events.the(last, ExecEvent).arguments == b"/bin/true\0last\0"
    assert successor.consumed[ProcessEventKind.EXEC] == consumed + sum(
        isinstance(event, ExecEvent) for event in events.events
    )
    successor.close()


def test_a_drain_takes_no_more_than_its_limit(recorder: Recorder) -> None:
    for _ in range(5):
        subprocess.run([TRUE], check=True)
    assert len(recorder.ring.drain(limit=3)) == 3
    assert len(recorder.ring.drain()) >= 12


@pytest.mark.parametrize("strongly_ordered", [True, False])
def test_what_is_skipped_is_counted_by_kind_and_consumed(
    programs: ebpf.Programs, recorder: Recorder, strongly_ordered: bool
) -> None:
    ring = EventRing(programs, strongly_ordered=strongly_ordered)
    before = dict(ring.consumed)
    for _ in range(5):
        subprocess.run([TRUE], check=True)
    skipped = ring.skip()
    assert set(skipped) >= {ProcessEventKind.FORK, ProcessEventKind.EXEC, ProcessEventKind.EXIT}
    assert min(skipped.values()) >= 5
    assert {kind: count - before[kind] for kind, count in ring.consumed.items() if count > before[kind]} == (
        skipped
    )
    assert ring.malformed == 0
    ring.close()

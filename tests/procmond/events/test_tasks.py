"""The task iterator, field by field against /proc, for every process there is and some made to be odd."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from procmond.events import ebpf, facts, tasks
from procmond.events.facts import TaskFacts
from tests.procmond.events.workload import DEADLINE_S

TICK_NS = facts.NANOSECONDS_PER_TICK
DELETED = b" (deleted)"
STATES = {state: letter for letter, state in zip("RSDTtXZI", (1, 2, 3, 4, 5, 8, 6, 7), strict=True)}


@pytest.fixture(autouse=True)
def _tasks(programs: ebpf.Programs) -> None:
    if programs.tasks is None:
        pytest.skip(f"no task iterator here: {programs.missing['tasks'].detail}")


def sweep(programs: ebpf.Programs) -> dict[int, TaskFacts]:
    found = list(tasks.read_tasks(programs))
    by_pid = {task.pid: task for task in found}
    assert len(by_pid) == len(found)
    return by_pid


def linked(path: Path) -> bytes | None:
    """The target of a link in /proc; None where the process has no such thing (any more)."""
    try:
        return os.fsencode(os.readlink(path))
    except FileNotFoundError:
        return None


def namespace(path: Path) -> int:
    link = linked(path)
    return int(link[link.index(b"[") + 1 : -1]) if link else 0


def telling_cgroup(raw: bytes) -> bytes:
    """The path below the unified root, else below systemd's, else the first below any root (cgroups(7))."""
    paths = [tuple(line.split(b":", 2)[1:]) for line in raw.splitlines()]
    ranked = [path for controllers, path in paths if controllers in (b"", b"name=systemd")]
    ranked.sort(key=lambda path: (b"", path) not in paths)
    return next((path for path in (*ranked, *(path for _, path in paths)) if path != b"/"), b"/")


def from_proc(pid: int) -> dict[str, Any]:
    """What /proc says, by the names of TaskFacts. Raises: OSError when the process is gone."""
    proc = Path("/proc", str(pid))
    stat = (proc / "stat").read_bytes().rpartition(b") ")[2].split()
    status = dict(
        line.split(b":\t", 1) for line in (proc / "status").read_bytes().splitlines() if b":\t" in line
    )
    uids, gids = status[b"Uid"].split(), status[b"Gid"].split()
    image = None
    exe, cwd = linked(proc / "exe"), linked(proc / "cwd")
    if exe is not None:
        found = (proc / "exe").stat()
        image = (
            found.st_dev,
            found.st_ino,
            found.st_size,
            found.st_mtime_ns,
            found.st_ctime_ns,
            found.st_nlink,
        )
    return {
        "name": (proc / "comm").read_bytes()[:-1][:15],
        "ppid": int(stat[1]),
        "session": int(stat[3]),
        "tty": int(stat[4]),
        "kernel_thread": bool(int(stat[6]) & 0x00200000),
        "threads": int(stat[17]),
        "start_ticks": int(stat[19]),
        "resident_pages": int(stat[21]),
        "arguments": (int(stat[45]), int(stat[46])),
        "uids": (int(uids[0]), int(uids[1])),
        "gids": (int(gids[0]), int(gids[1])),
        "login_uid": int((proc / "loginuid").read_bytes()),
        "pid_namespace": namespace(proc / "ns/pid"),
        "mount_namespace": namespace(proc / "ns/mnt"),
        "cgroup": telling_cgroup((proc / "cgroup").read_bytes()),
        "image": image,
        "exe": exe,
        "cwd": cwd,
        "status": stat[0].decode(),
        "cpu_ticks": int(stat[11]) + int(stat[12]),
    }


def from_iterator(task: TaskFacts) -> dict[str, Any]:
    """The same facts, as the iterator has them."""
    image = (task.device, task.inode, task.size, task.mtime_ns, task.ctime_ns, task.links)
    exe = task.path + (DELETED if task.flags & facts.IMAGE_DELETED else b"")
    cwd = task.cwd + (DELETED if task.flags & facts.CWD_DELETED else b"")
    return {
        "name": task.name,
        "ppid": task.ppid,
        "session": task.session,
        "tty": task.tty,
        "kernel_thread": bool(task.flags & facts.KERNEL_THREAD),
        "threads": task.threads,
        "start_ticks": task.start_ticks,
        "resident_pages": task.resident_pages,
        "arguments": (task.argument_start, task.argument_end),
        "uids": (task.real_uid, task.effective_uid),
        "gids": (task.real_gid, task.effective_gid),
        "login_uid": task.login_uid,
        "pid_namespace": task.pid_namespace,
        "mount_namespace": task.mount_namespace,
        "cgroup": task.cgroup,
        "image": image if task.flags & facts.HAS_IMAGE else None,
        "exe": exe if task.flags & facts.HAS_IMAGE else None,
        "cwd": cwd if task.flags & facts.HAS_CWD else None,
        "status": STATES.get(task.status, "P"),
        "cpu_ticks": task.cpu_ns // TICK_NS,
    }


def differences(before: TaskFacts, proc: dict[str, Any], after: TaskFacts) -> dict[str, Any]:
    """Facts of /proc that the iterator saw neither before nor after it was read."""
    first, last = from_iterator(before), from_iterator(after)
    found = {}
    for name, value in proc.items():
        if name == "name" and proc["kernel_thread"]:  # /proc adds what a worker works on
            right = value.startswith((first[name], last[name]))
        elif name == "cgroup" and proc["status"] in ("Z", "X"):  # /proc forgets those of version 1
            right = value in (first[name], last[name], b"/")
        elif name == "cpu_ticks":  # user and system time are rounded down one by one
            right = first[name] - 2 <= value <= last[name]
        elif name == "resident_pages" and first[name] != last[name]:
            right = min(first[name], last[name]) * 0.9 <= value <= max(first[name], last[name]) * 1.1
        else:
            right = value in (first[name], last[name])
        if not right:
            found[name] = (first[name], value, last[name])
    return found


def still_there(pid: int, facts: dict[str, Any]) -> bool:
    try:
        return bool(from_proc(pid)["start_ticks"] == facts["start_ticks"])
    except OSError:
        return False


def start(code: str, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    """A Python process that has said it is ready and waits."""
    lines = (
        "import signal, sys",
        code,
        "sys.stdout.write('ready\\n')",
        "sys.stdout.flush()",
        "signal.pause()",
    )
    command = [*arguments, sys.executable, "-I", "-S", "-c", "\n".join(lines)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, **options)
    assert process.stdout
    if process.stdout.readline() != b"ready\n":
        process.kill()
        process.communicate()
        pytest.fail(f"{command} ended with {process.returncode}")
    return process


@contextmanager
def running(process: subprocess.Popen[bytes]) -> Iterator[int]:
    try:
        yield process.pid
    finally:
        process.kill()
        process.communicate()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture
def zoo(tmp_path: Path) -> Iterator[dict[str, int]]:
    """Processes of every sort, by what is odd about them."""
    copy = tmp_path / "copy (deleted)"
    copy.write_bytes(Path("/bin/sleep").read_bytes())
    copy.chmod(0o755)
    gone = tmp_path / "gone"
    gone.mkdir()
    master, slave = os.openpty()
    threads = (
        "import threading\nfor _ in range(20): threading.Thread(target=signal.pause, daemon=True).start()"
    )
    terminal = "import fcntl, os, termios\nos.setsid()\nfcntl.ioctl(0, termios.TIOCSCTTY, 0)"
    memfd = (
        "import os\nif os.readlink('/proc/self/exe').find('memfd') < 0:\n"
        "    fd = os.memfd_create('odd name'); os.write(fd, open('/bin/sleep', 'rb').read())\n"
        "    os.execve(fd, ['sleep', '60'], {})"
    )
    with ExitStack() as stack:
        pids = {
            "threads": stack.enter_context(running(start(threads))),
            "session": stack.enter_context(running(start("", start_new_session=True))),
            "ids": stack.enter_context(
                running(start("import os; os.setresgid(7, 8, 9); os.setresuid(4, 5, 6)"))
            ),
            "terminal": stack.enter_context(running(start(terminal, stdin=slave))),
            "mounts": stack.enter_context(running(start("", "unshare", "--mount"))),
            "named": stack.enter_context(running(subprocess.Popen([str(copy), "60"]))),
            "directory": stack.enter_context(running(start("", cwd=gone))),
            "memfd": stack.enter_context(running(subprocess.Popen([sys.executable, "-c", memfd]))),
            "container": stack.enter_context(
                running(start("", "unshare", "--pid", "--fork", "--mount-proc", "--kill-child"))
            ),
            "stopped": stack.enter_context(running(start(""))),
            "zombie": stack.enter_context(running(subprocess.Popen(["/bin/true"]))),
            "busy": stack.enter_context(running(subprocess.Popen(["/bin/sh", "-c", "while :; do :; done"]))),
        }
        gone.rmdir()
        os.kill(pids["stopped"], signal.SIGSTOP)
        for name, letter in (("stopped", "T"), ("zombie", "Z")):
            wait_until(lambda pid=pids[name], letter=letter: from_proc(pid)["status"] == letter)  # type: ignore[misc]
        wait_until(lambda: b"memfd" in (linked(Path(f"/proc/{pids['memfd']}/exe")) or b""))
        wait_until(lambda: linked(Path(f"/proc/{pids['named']}/exe")) == os.fsencode(copy))
        # The kernel shows the new image before it counts the exec: what sleeps has been counted.
        for name in ("memfd", "named"):
            wait_until(lambda pid=pids[name]: from_proc(pid)["status"] == "S")  # type: ignore[misc]
        yield pids
    os.close(master)
    os.close(slave)


def test_every_fact_of_every_process_is_that_of_proc(programs: ebpf.Programs, zoo: dict[str, int]) -> None:
    before = sweep(programs)
    proc = {}
    for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
        try:
            proc[pid] = from_proc(pid)
        except OSError:
            continue
    after = sweep(programs)
    stayed = [
        pid
        for pid in before.keys() & after.keys()
        if before[pid].start_ns == after[pid].start_ns and before[pid].exec_id == after[pid].exec_id
    ]
    assert set(zoo.values()) <= set(stayed)
    missed = {pid for pid, facts in proc.items() if pid not in after and still_there(pid, facts)}
    assert not missed
    # Whoever did not run meanwhile changed nothing; of the others only ours are known to stay as they are.
    still = [pid for pid in proc.keys() & stayed if before[pid].cpu_ns == after[pid].cpu_ns]
    for pid in {*still, *zoo.values()}:
        assert not differences(before[pid], proc[pid], after[pid]), (pid, zoo)
    assert len(still) >= len(zoo) // 2


def test_the_parents_start_completes_its_identity(programs: ebpf.Programs, zoo: dict[str, int]) -> None:
    found = sweep(programs)
    for pid in zoo.values():
        assert found[pid].parent_start_ns == found[os.getpid()].start_ns
    orphan = min(found)
    assert found[orphan].ppid == found[orphan].parent_start_ns == 0


def test_an_exec_changes_the_exec_id_and_nothing_else_does(programs: ebpf.Programs) -> None:
    code = (
        "import os, sys\nif sys.argv[1:] == []: sys.stdin.readline(); os.execv(sys.executable, ['x', '-c', '"
    )
    code += "import signal; print(1, flush=True); signal.pause()" + "'])"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin
        assert process.stdout
        wait_until(lambda: (linked(Path(f"/proc/{process.pid}/exe")) or b"").endswith(b"python3.11"))
        first = sweep(programs)[process.pid].exec_id
        assert sweep(programs)[process.pid].exec_id == first
        process.stdin.write(b"\n")
        process.stdin.flush()
        process.stdout.readline()
        assert sweep(programs)[process.pid].exec_id == first + 1
        process.kill()


def test_a_process_below_cgroups_has_its_whole_path(programs: ebpf.Programs) -> None:
    roots = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if " cgroup2 " in line]
    if not roots:
        pytest.skip("no cgroup2 is mounted here")
    outer = Path(roots[0], f"daemoneye-test-{os.getpid()}")
    inner = outer / ("n" * 200) / "a.service"
    try:
        inner.mkdir(parents=True)
    except OSError as error:
        pytest.skip(f"cgroups cannot be made here: {error}")
    try:
        with running(start("")) as pid:
            (inner / "cgroup.procs").write_text(str(pid))
            task = sweep(programs)[pid]
            assert task.cgroup == from_proc(pid)["cgroup"]
            assert task.cgroup.endswith(b"/a.service")
            assert task.cgroup_id == inner.stat().st_ino
    finally:
        for directory in (inner, inner.parent, outer):
            directory.rmdir()


def test_many_readers_at_once_each_see_every_process(programs: ebpf.Programs, zoo: dict[str, int]) -> None:
    seen: list[set[int]] = []
    readers = [threading.Thread(target=lambda: seen.append(set(sweep(programs)))) for _ in range(12)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert len(seen) == 12
    assert all(set(zoo.values()) <= pids for pids in seen)


def test_an_image_on_an_overlay_has_the_size_times_and_inode_of_stat(
    programs: ebpf.Programs, tmp_path: Path
) -> None:
    for name in ("lower", "upper", "work", "merged"):
        (tmp_path / name).mkdir()
    shutil.copy("/bin/sleep", tmp_path / "lower/below")
    layers = ",".join(f"{name}dir={tmp_path / name}" for name in ("lower", "upper", "work"))
    merged = tmp_path / "merged"
    mount = ["mount", "-t", "overlay", "none", "-o", layers, str(merged)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("no overlay can be mounted here")
    try:
        shutil.copy("/bin/sleep", merged / "above")
        for name in ("below", "above"):
            with running(subprocess.Popen([str(merged / name), "60"])) as pid:
                exe = Path(f"/proc/{pid}/exe")
                wait_until(lambda exe=exe, name=name: linked(exe) == os.fsencode(merged / name))  # type: ignore[misc]
                task, stat = sweep(programs)[pid], exe.stat()
                assert task.path == os.fsencode(merged / name)
                assert (task.size, task.mtime_ns, task.ctime_ns) == (
                    stat.st_size,
                    stat.st_mtime_ns,
                    stat.st_ctime_ns,
                )
                assert task.inode == stat.st_ino
    finally:
        subprocess.run(["umount", str(merged)], check=True)


ELSEWHERE = """
import json, os
from procmond.events import ebpf, tasks
programs = ebpf.load()
assert isinstance(programs, ebpf.Programs), programs
print("ready", flush=True)
input()
found = {task.pid: task for task in tasks.read_tasks(programs)}
me = found[os.getpid()]
print(json.dumps({
    "start": me.start_ticks,
    "proc_start": int(open("/proc/self/stat").read().rpartition(") ")[2].split()[19]),
    "cgroups": {pid: found[pid].cgroup.decode() for pid in found},
}))
"""


def elsewhere(*unshare: str, **options: Any) -> dict[str, Any]:
    """What procmond sees that was loaded in other namespaces."""
    command = ["unshare", *unshare, sys.executable, "-c", ELSEWHERE]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, **options) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        told: dict[str, Any] = json.loads(process.communicate("\n", timeout=30)[0])
        return told


def test_start_ticks_are_those_of_procmonds_time_namespace(programs: ebpf.Programs) -> None:
    if not Path("/proc/self/ns/time").exists():
        pytest.skip("no time namespaces here")
    here = int(Path("/proc/self/stat").read_text().rpartition(") ")[2].split()[19])
    told = elsewhere("--time", "--boottime", "1000000", "--fork")
    assert told["start"] == told["proc_start"] > here + 100_000_000 - 1


def test_cgroups_are_named_from_the_root_of_procmonds_cgroup_namespace(programs: ebpf.Programs) -> None:
    if any(not line.startswith("0::") for line in Path("/proc/self/cgroup").read_text().splitlines()):
        pytest.skip("version 1 hierarchies are named from the top")
    roots = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if " cgroup2 " in line]
    if not roots:
        pytest.skip("no cgroup2 is mounted here")
    outer = Path(roots[0], f"daemoneye-test-{os.getpid()}")
    inner = outer / "inner"
    inner.mkdir(parents=True)

    def move_in() -> None:
        (outer / "cgroup.procs").write_text("0")

    try:
        with running(start("")) as pid:
            (inner / "cgroup.procs").write_text(str(pid))
            told = elsewhere("--cgroup", preexec_fn=move_in)
        assert told["cgroups"][str(pid)] == "/inner"
    finally:
        inner.rmdir()
        outer.rmdir()

"""The eBPF collector, against /proc's. One rule: what it tells is what /proc tells, only sooner.

What any collector must get right of difficult processes, and what any that remembers must see again, is in
test_difficult_processes.py and test_procfs.py; there it runs beside the others.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from common.pb import ipc_pb2 as pb
from procmond.collect import tasks
from procmond.collect.procfs import ProcfsCollector
from procmond.collect.sighting import Sighting, Wanted
from procmond.collect.tasks import BpfCollector
from procmond.events import facts
from procmond.events.ebpf import Programs
from procmond.events.tasks import read_groups
from tests.procmond.collect.made import look, made, record_of, seen, started
from tests.support.children import child_of, reap, wait_until
from tests.support.images import SLEEP, copy_of_sleep, running
from tests.support.privilege import needs_root

SPECIFIED, FULL = Wanted(), Wanted(full=True)
TICK_NS = facts.NANOSECONDS_PER_TICK
START, FLAGS, INODE = 16, 88, 112
"""Where these stand in a task record."""

Records = dict[int, tuple[Sighting, pb.ProcessRecord]]
Change = Callable[[int, bytearray], bytes | bytearray]


def swept(collector: BpfCollector | ProcfsCollector, wanted: Wanted) -> Records:
    """A whole sweep by pid; each has one sighting."""
    found = [sighting for sighting in collector.sweep(wanted, None) if sighting]
    by_pid = {sighting.pid: (sighting, record_of(sighting)) for sighting in found}
    assert len(by_pid) == len(found)
    return by_pid


def plain(sighting: Sighting, record: pb.ProcessRecord) -> dict[str, Any]:
    """What the collectors must agree upon."""
    values = {field.name: value for field, value in record.ListFields()}
    for name in ("provenance", "cpu_usage", "cpu_time_ns", "memory_usage", "collection_time", "exceptions"):
        values.pop(name, None)
    if record.status == pb.PROCESS_STATUS_ZOMBIE:  # /proc forgets the version 1 cgroups of these
        values.pop("cgroup", None)
    missing = [(e.field, e.reason) for e in record.exceptions if e.provenance == pb.PROVENANCE_MISSING]
    values["missing"] = sorted(missing)
    if sighting.name.startswith("kworker/"):  # /proc adds what these work on
        values["name"] = "kworker"
    values["sighting"] = msgspec.structs.replace(sighting, name=values.get("name", ""), payload=b"")
    return values


def told(collector: BpfCollector, pid: int) -> pb.ProcessRecord:
    """The record of `pid` once the iterator tells it: a process that has just begun is in its exec still."""
    found: list[pb.ProcessRecord] = []

    def is_told() -> bool:
        found.append(look(collector, pid))
        return found[-1].provenance == pb.PROVENANCE_KERNEL

    wait_until(is_told, f"a record of {pid} by the kernel")
    return found[-1]


def same_run(one: pb.ProcessRecord, other: pb.ProcessRecord) -> bool:
    """Whether it is one process, which has not run in between."""
    return (one.start_ticks, one.cpu_time_ns) == (other.start_ticks, other.cpu_time_ns)


@contextlib.contextmanager
def zoo(folder: Path) -> Iterator[dict[str, int]]:
    """Processes of several sorts, standing still."""
    program = copy_of_sleep(folder, "copy (deleted)")
    gone = copy_of_sleep(folder, "gone")
    with contextlib.ExitStack() as stack:
        pids = {
            "plain": stack.enter_context(running(SLEEP)),
            "named deleted": stack.enter_context(running(program)),
            "deleted": stack.enter_context(running(gone)),
            "session": stack.enter_context(made("os.setsid(); ready()", "", "a b", "\udcff")).pid,
            "long": stack.enter_context(made("ready()", "x" * 100_000)).pid,
            "threads": stack.enter_context(
                made("import threading; [threading.Thread(target=ready).start() for _ in range(3)]")
            ).pid,
            "zombie": stack.enter_context(subprocess.Popen(["/bin/true"])).pid,
        }
        if os.geteuid() == 0:
            ids = "os.setresgid(4, 5, 6); os.setresuid(1, 2, 3); ready()"
            pids["ids"] = stack.enter_context(made(ids)).pid
        gone.unlink()
        os.waitid(os.P_PID, pids["zombie"], os.WEXITED | os.WNOWAIT)
        yield pids


def compare(bpf: BpfCollector, procfs: ProcfsCollector, wanted: Wanted) -> set[int]:
    """Hold them to each other; the pids for which that could be done, as they did not run meanwhile."""
    runs = swept(bpf, FULL)
    before, proc, after = swept(bpf, wanted), swept(procfs, wanted), swept(bpf, wanted)
    runs_after = swept(bpf, FULL)
    compared = set()
    for pid in runs.keys() & runs_after.keys() & proc.keys():
        ours, last = plain(*before[pid]), plain(*after[pid])
        # Of others a parent may have ended, or they were woken and did not come to run.
        if same_run(runs[pid][1], runs_after[pid][1]) and ours == last:
            theirs = plain(*proc[pid])
            assert {**ours, "status": 0} == {**theirs, "status": 0}
            usages = [sweep[pid][1].memory_usage for sweep in (before, proc, after)]
            assert min(usages) >= max(usages) * 0.9
            if ours == theirs:
                compared.add(pid)
    return compared


@pytest.mark.parametrize("wanted", [SPECIFIED, FULL])
def test_every_fact_is_that_of_proc(bpf: BpfCollector, tmp_path: Path, wanted: Wanted) -> None:
    with (
        zoo(tmp_path) as pids,
        contextlib.closing(ProcfsCollector(boot_time=bpf.boot_time(), held_descriptors=0)) as procfs,
    ):
        for _ in range(2):  # the second time most is remembered
            wait_until(lambda: set(pids.values()) <= compare(bpf, procfs, wanted), "an undisturbed sweep")


def test_counters_are_those_of_proc_in_finer_units(bpf: BpfCollector) -> None:
    code = "import time\nwhile time.process_time() < 0.3: pass\nready()"
    procfs = ProcfsCollector(boot_time=bpf.boot_time(), held_descriptors=0)
    with made(code) as process:
        ours, proc = look(bpf, process.pid), look(procfs, process.pid)
    procfs.close()
    assert ours.cpu_time_ns >= 300_000_000
    assert proc.cpu_time_ns <= ours.cpu_time_ns + TICK_NS
    assert ours.cpu_time_ns <= proc.cpu_time_ns + 3 * TICK_NS  # user and system time are rounded down
    assert 0 < ours.cpu_usage <= 100
    assert abs(ours.collection_time - time.time() * 1000) < 20_000


def test_the_provenance_tells_what_was_read_from_proc(bpf: BpfCollector) -> None:
    with made("ready()") as process, subprocess.Popen(["/bin/true"]) as ended:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        record, zombie = told(bpf, process.pid), told(bpf, ended.pid)
        (asked,) = bpf.sweep(FULL, [process.pid])
    assert record.provenance == zombie.provenance == pb.PROVENANCE_KERNEL
    assert [(e.field, e.provenance) for e in record.exceptions] == [(5, pb.PROVENANCE_PROC)]
    assert not zombie.exceptions
    assert asked
    assert record_of(asked).provenance == pb.PROVENANCE_PROC


def test_a_number_given_to_another_process_is_another_process(bpf: BpfCollector, tmp_path: Path) -> None:
    program = copy_of_sleep(tmp_path)
    with running(program) as number:
        one = told(bpf, number)
    for _ in range(200):
        try:
            Path("/proc/sys/kernel/ns_last_pid").write_text(str(number - 1))
        except OSError as error:
            pytest.skip(f"pids cannot be chosen here: {error}")
        with started(["/bin/cat", "-"]) as second:
            if second.pid == number:
                two = look(bpf, number)
                assert two.start_ticks >= one.start_ticks
                assert two.executable_path == os.path.realpath("/bin/cat") != one.executable_path
                assert list(two.command_line) == ["/bin/cat", "-"]
                return
    pytest.skip("others took the number each time")


def test_what_did_not_change_is_neither_redacted_nor_built_again(programs: Programs) -> None:
    shown: list[tuple[str, ...]] = []

    def redact(argv: tuple[str, ...], _path: str | None) -> tuple[tuple[str, ...], bool]:
        shown.append(argv)
        return argv, False

    code = "ready()\nsum(range(10**6))\nready()"
    with (
        contextlib.closing(BpfCollector(redact, programs=programs)) as collector,
        made(code, "tell-tale") as process,
    ):
        before = look(collector, process.pid)
        process.go_on()
        after = look(collector, process.pid)
    assert sum("tell-tale" in argv for argv in shown) == 1
    assert after.cpu_time_ns > before.cpu_time_ns
    assert after.command_line == before.command_line


def test_arguments_too_long_to_keep_are_read_and_told_in_every_sweep(bpf: BpfCollector) -> None:
    with made("ready()", "x" * 6000) as process:
        for _ in range(3):
            assert len(look(bpf, process.pid).command_line[-1]) == 6000


def tampered(monkeypatch: pytest.MonkeyPatch, change: Change) -> None:
    """Let `change` have each record of the iterator before the collector does."""

    def groups(programs: Programs) -> Iterator[bytes]:
        for group in read_groups(programs):
            out, start = bytearray(), 0
            while start < len(group):
                (length,) = struct.unpack_from("=I", group, start + 4)
                record = bytearray(group[start : start + length])
                out += change(struct.unpack_from("=I", record, 48)[0], record)
                start += length
            yield bytes(out)

    monkeypatch.setattr(tasks, "read_groups", groups)


def hidden(_record: bytearray) -> bytes:
    return b""


def changed(record: bytearray) -> bytes:
    (flags,) = struct.unpack_from("=I", record, FLAGS)
    struct.pack_into("=I", record, FLAGS, flags | facts.CHANGED)
    return bytes(record)


def of_another_start(record: bytearray) -> bytes:
    (start,) = struct.unpack_from("=Q", record, START)
    struct.pack_into("=Q", record, START, start + 1_000_000_000)
    return bytes(record)


def of_another_image(record: bytearray) -> bytes:
    (inode,) = struct.unpack_from("=Q", record, INODE)
    struct.pack_into("=Q", record, INODE, inode + 1)
    return bytes(record)


def with_names_that_do_not_add_up(record: bytearray) -> bytes:
    struct.pack_into("=H", record, 208, 4096)
    return bytes(record)


@pytest.mark.parametrize(
    "how", [hidden, changed, of_another_start, of_another_image, with_names_that_do_not_add_up]
)
@pytest.mark.parametrize("known", [False, True])
def test_whom_the_iterator_does_not_tell_soundly_is_read_from_proc(
    bpf: BpfCollector,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    how: Callable[[bytearray], bytes],
    known: bool,
) -> None:
    program = copy_of_sleep(tmp_path)
    with running(program) as pid, running(program) as neighbour:
        truth = told(bpf, pid)
        told(bpf, neighbour)
        if not known:
            bpf._forget(pid)
        tampered(monkeypatch, lambda number, record: how(record) if number == pid else record)
        record, other = look(bpf, pid), look(bpf, neighbour)
    assert (record.provenance, other.provenance) == (pb.PROVENANCE_PROC, pb.PROVENANCE_KERNEL)
    for name in ("start_ticks", "executable_path", "executable_inode", "command_line", "on_disk_mismatch"):
        assert getattr(record, name) == getattr(truth, name)
    assert other.executable_inode == truth.executable_inode


def test_a_process_gone_before_its_arguments_are_read_is_none(
    bpf: BpfCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(SLEEP) as pid:
        told(bpf, pid)

        def end(number: int, record: bytearray) -> bytearray:
            if number == pid:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            return record

        tampered(monkeypatch, end)
        found = list(bpf.sweep(FULL, None))
    assert None in found
    assert pid not in {sighting.pid for sighting in found if sighting}
    assert pid not in bpf._known


@pytest.mark.parametrize("how", ["refused", "damaged"])
def test_an_iterator_that_fails_is_replaced_by_proc_and_said_once(
    programs: Programs, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how == "refused":
        programs = msgspec.structs.replace(programs, tasks=-1)
    else:
        monkeypatch.setattr(tasks, "read_groups", lambda _: iter([b"no record, but long enough" * 20]))
    with (
        contextlib.closing(BpfCollector(programs=programs)) as collector,
        running(SLEEP) as pid,
        capture_logs() as logs,
    ):
        records = [look(collector, pid) for _ in range(2)]
    assert [entry["event"] for entry in logs] == ["task_iterator_failed"]
    assert {record.provenance for record in records} == {pb.PROVENANCE_PROC}
    assert list(records[0].command_line) == [str(SLEEP), "300"]


@needs_root
def test_an_image_on_layers_of_two_file_systems_is_the_one_stat_names(
    bpf: BpfCollector, tmp_path: Path
) -> None:
    with contextlib.ExitStack() as stack:
        lower = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/dev/shm")))
        for name in ("upper", "work", "merged"):
            (tmp_path / name).mkdir()
        program = tmp_path / "merged/sleeper"
        shutil.copy(SLEEP, lower / "sleeper")
        layers = f"lowerdir={lower},upperdir={tmp_path}/upper,workdir={tmp_path}/work"
        mount = ["mount", "-t", "overlay", "none", "-o", layers, str(tmp_path / "merged")]
        if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
            pytest.skip("no overlay can be mounted here")
        stack.callback(subprocess.run, ["umount", str(tmp_path / "merged")], check=True)
        pids = [stack.enter_context(running(program)) for _ in range(3)]
        status = Path(f"/proc/{pids[0]}/exe").stat()
        for pid in pids:
            told(bpf, pid)
        for _ in range(3):
            found = swept(bpf, FULL)
            for pid in pids:
                sighting, record = found[pid]
                assert sighting.image == (
                    *(status.st_dev, status.st_ino, status.st_size),
                    *(status.st_mtime_ns, status.st_ctime_ns),
                )
                assert not record.on_disk_mismatch
                assert record.provenance == pb.PROVENANCE_KERNEL


def test_two_sweeps_at_once_tell_the_same(bpf: BpfCollector, tmp_path: Path) -> None:
    with zoo(tmp_path) as pids:
        one, other = bpf.sweep(FULL, None), bpf.sweep(FULL, None)
        found: list[dict[int, Sighting]] = [{}, {}]
        for pair in zip(one, other, strict=False):
            for sightings, sighting in zip(found, pair, strict=True):
                if sighting:
                    sightings[sighting.pid] = sighting
        for sightings, rest in zip(found, (one, other), strict=True):
            sightings.update({sighting.pid: sighting for sighting in rest if sighting})
        for pid in pids.values():
            one_told, other_told = (plain(each[pid], record_of(each[pid])) for each in found)
            assert {**one_told, "status": 0} == {**other_told, "status": 0}


@pytest.mark.parametrize("budget", [0, 3])
def test_only_as_many_descriptors_stay_open_as_may(programs: Programs, budget: int) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with contextlib.closing(BpfCollector(programs=programs, held_descriptors=budget)) as collector:
        opened = len(os.listdir("/proc/self/fd")) - before  # users and images open none
        for _ in range(3):
            list(collector.sweep(FULL, None))
            assert len(os.listdir("/proc/self/fd")) - before - opened <= budget
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_ended_leaves_nothing_behind(bpf: BpfCollector) -> None:
    with running(SLEEP) as pid:
        told(bpf, pid)
        known = bpf._known[pid]
    list(bpf.sweep(FULL, None))
    assert pid not in bpf._known
    assert known.handle._arguments == -1


@needs_root
def test_what_the_kernel_tells_but_proc_refuses_is_named(bpf: BpfCollector) -> None:
    reading, writing = os.pipe()
    with running(SLEEP) as pid:
        told(bpf, pid)

        def body() -> None:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            os.write(writing, seen(bpf, pid).payload)

        assert reap(child_of(body)) == 0
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        record = pb.ProcessRecord.FromString(file.read())
    if record.provenance == pb.PROVENANCE_PROC:
        pytest.skip("this kernel lets only the privileged use the iterator")
    assert not record.accessible
    assert (record.executable_path, record.executable_inode) == (str(SLEEP), 0)
    assert list(record.command_line) == [str(SLEEP), "300"]
    assert {(e.field, e.reason) for e in record.exceptions if e.reason} == {(13, "denied"), (16, "denied")}
    assert record.cwd == os.getcwd()

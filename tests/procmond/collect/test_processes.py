"""psutil as the truth. One rule: both collectors tell the same of every live process, field by field."""

from __future__ import annotations

import contextlib
import os
import time
from contextlib import closing

import psutil
import pytest

from common.pb import ipc_pb2 as pb
from procmond.collect.processes import PsutilCollector
from procmond.collect.procfs import ProcfsCollector
from procmond.collect.sighting import Wanted
from procmond.collect.text import text
from tests.procmond.collect.made import look, made, record_of
from tests.support.images import SLEEP, running

MEASURES = {"cpu_usage", "cpu_time_ns", "memory_usage", "collection_time", "status", "threads"}
"""Change between two readings."""
ONLY_ONE_KNOWS = {"login_uid", "cgroup", "container_id", "pid_namespace", "mount_namespace", "script_path"}


def told(record: pb.ProcessRecord) -> dict[str, object]:
    """What can be compared, in the form psutil gives it."""
    fields: dict[str, object] = {}
    for field in record.DESCRIPTOR.fields:
        if field.name in MEASURES | ONLY_ONE_KNOWS | {"exceptions"}:
            continue
        value = getattr(record, field.name)
        fields[field.name] = list(value) if hasattr(value, "append") else value
    if record.is_kernel_thread:
        del fields["name"]  # a kernel worker's says what it works on right now
    fields["cwd"] = record.cwd.removesuffix(" (deleted)")
    # psutil splits at spaces what a process wrote over its arguments.
    fields["command_line"] = " ".join(record.command_line)
    return fields


def test_both_tell_the_same_of_every_live_process() -> None:
    compared = 0
    with (
        closing(ProcfsCollector()) as procfs,
        made("os.setsid(); ready()"),
        running(SLEEP),
        made("ready()", "", "a b", "ü", "\udcfe"),
    ):
        portable = PsutilCollector(boot_time=procfs.boot_time())
        for _ in range(2):
            ours = {s.pid: s for s in procfs.sweep(Wanted(full=True), None) if s}
            psutils = {s.pid: s for s in portable.sweep(Wanted(full=True), None) if s}
            again = {s.pid: s for s in procfs.sweep(Wanted(full=True), None) if s}
            for pid in ours.keys() & psutils.keys() & again.keys():
                one, two = told(record_of(ours[pid])), told(record_of(psutils[pid]))
                with contextlib.suppress(psutil.NoSuchProcess):  # the collector reads them as ours does
                    two["command_line"] = text(os.fsencode(" ".join(psutil.Process(pid).cmdline())))
                if one != told(record_of(again[pid])):
                    continue  # it changed meanwhile, and psutil saw either
                assert one == two
                assert ours[pid].image == psutils[pid].image
                assert ours[pid].image_state == psutils[pid].image_state
                compared += 1
    assert compared > 10


def test_both_measure_the_same_of_a_process_that_rests() -> None:
    procfs, truth_boot = ProcfsCollector(), psutil.boot_time()
    with made("import time\nwhile time.process_time() < 0.2: pass\nready()") as process:
        for collector in (procfs, PsutilCollector()):
            record = look(collector, process.pid)
            truth = psutil.Process(process.pid)
            with truth.oneshot():
                cpu = sum(truth.cpu_times()[:2])
                assert record.cpu_time_ns == round(cpu * 1e9)
                assert record.threads == truth.num_threads()
                assert record.status == pb.PROCESS_STATUS_SLEEPING
                # The kernel's count is inexact by a batch of pages per processor.
                assert abs(record.memory_usage - truth.memory_info().rss) <= 1 << 20
                oldest = time.clock_gettime(time.CLOCK_BOOTTIME) - truth.create_time() + truth_boot
                assert 100 * cpu / oldest <= record.cpu_usage <= 100
                assert abs(record.start_time - truth.create_time()) <= 2
    procfs.close()


def test_a_name_is_the_kernels_and_not_lengthened_by_psutil() -> None:
    with made("must(libc.prctl(15, b'python3-is-long', 0, 0, 0)); ready()") as process:
        assert look(PsutilCollector(), process.pid).name == "python3-is-long"


def test_what_psutil_does_not_know_is_marked_missing() -> None:
    record = look(PsutilCollector(), os.getpid())
    unsupported = {e.field for e in record.exceptions if e.reason == "unsupported"}
    assert unsupported == {record.DESCRIPTOR.fields_by_name[name].number for name in ONLY_ONE_KNOWS}
    assert record.accessible


def test_psutil_is_not_asked_for_what_a_process_may_make_endless(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cmdline", "environ"):
        monkeypatch.setattr(psutil.Process, name, lambda self: pytest.fail("asked"))
    with made("ready()", "x" * 100_000) as process:
        record = look(PsutilCollector(), process.pid, Wanted(full=True, environment=True))
    assert len("\0".join(record.command_line)) == 32 * 1024
    assert record.command_line_length > 100_000
    assert record.environment


def test_where_there_is_no_proc_psutil_still_tells_the_specifications_facts() -> None:
    # A proc that is not there stands for another operating system.
    collector = PsutilCollector(proc="/nonexistent")
    with running(SLEEP) as pid:
        record = look(collector, pid)
        start = psutil.Process(pid).create_time()
    assert (record.name, record.ppid, record.executable_path) == (SLEEP.name, os.getpid(), str(SLEEP))
    assert list(record.command_line) == [str(SLEEP), "300"]
    assert abs(record.start_time - start) <= 2
    assert collector.boot_id() == ""

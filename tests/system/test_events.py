"""Live events end to end: real processes, the real kernel, the real socket."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.messages import (
    ErrorCode,
    EventSource,
    HashState,
    ProcessEvent,
    ProcessEventKind,
    ProcessFilter,
    Provenance,
)
from procmond.collect.procfs_parse import parse_stat
from procmond.events.pump import boot_ns
from tests.support.daemons import Client, Procmond, eventually
from tests.support.live import (
    CREDENTIALS,
    EXEC,
    EXIT,
    FORK,
    GAP,
    SNAPSHOT,
    SNAPSHOT_END,
    Live,
    capabilities,
    response,
)
from tests.support.privilege import needs_root
from tests.support.proofs import COMMAND_LINE, HASH, TRUE, Stretch, missing, record, run, started
from tests.support.tracepoints import Tracepoints

pytestmark = needs_root

SLEEP = os.path.realpath("/bin/sleep")
MIB_IN_KIB = 1024
SOURCES = {"ebpf": EventSource.EBPF, "connector": EventSource.PROCESS_CONNECTOR}


@pytest.fixture(scope="module", params=SOURCES)
def watched(request: pytest.FixtureRequest) -> Iterator[Procmond]:
    """One procmond for each source that the kernel feeds."""
    with started("--event-source", request.param) as procmond:
        yield procmond


@pytest.fixture(scope="module")
def ebpf() -> Iterator[Procmond]:
    with started("--event-source", "ebpf") as procmond:
        yield procmond


def source_of(procmond: Procmond) -> EventSource:
    return response(procmond).event_source


def start_of(pid: int) -> int:
    """start_ticks: numbers are used again and again on a busy machine."""
    return parse_stat(Path(f"/proc/{pid}/stat").read_bytes()).start_ticks


def ended_after(live: Live, pid: int, since_ns: int) -> None:
    """Take frames until who has this number since then has ended: numbers come round."""
    live.until(lambda: any(one.boot_time_ns >= since_ns for one in live.of(EXIT, pid)))


# ------------------------------------------------------------------------------------------ every process


def test_every_run_is_told_once_with_its_arguments_or_why_they_are_missing(watched: Procmond) -> None:
    with Live(watched) as live:
        pids = [run(TRUE, f"tag{number}") for number in range(150)]
        live.exited(pids)
        for number, pid in enumerate(pids):
            assert [one.kind for one in live.events if one.pid == pid and one.kind in {FORK, EXEC, EXIT}] == [
                FORK,
                EXEC,
                EXIT,
            ]
            (ran,) = live.of(EXEC, pid)
            if record(ran).command_line:
                assert record(ran).command_line == (TRUE, f"tag{number}")
            else:
                assert missing(ran, COMMAND_LINE) == "exited"
        # Where all ended before they were looked at, as they may for the connector, one that stays is told.
        stays = subprocess.Popen([SLEEP, "3001"])
        live.until(lambda: bool(live.of(EXEC, stays.pid)))
        stays.kill()
        stays.wait()
        live.exited([stays.pid])
        told = live.tagged("tag")
        assert max((told + live.tagged("3001")).values()) == 1
        if source_of(watched) is EventSource.EBPF:
            assert len(told) == 150
        assert not live.gaps()


def test_an_exec_says_who_ran_what_where(ebpf: Procmond, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with Live(ebpf) as live:
        child = subprocess.Popen([TRUE, "where", "--password=hunter2"], cwd=tmp_path, user=1234, group=1235)
        child.wait()
        live.exited([child.pid])
        (forked,), (ran,), (ended,) = (live.of(kind, child.pid) for kind in (FORK, EXEC, EXIT))
        found = record(ran)
        assert found.executable_path == TRUE
        assert found.command_line == (TRUE, "where", "--password=[REDACTED]")
        assert found.redacted
        assert (found.real_uid, found.effective_uid, found.real_gid) == (1234, 1234, 1235)
        assert (found.cwd, found.ppid, found.name) == (str(tmp_path), os.getpid(), "true")
        assert found.provenance is Provenance.KERNEL
        assert found.executable_hash == hashlib.sha256(Path(TRUE).read_bytes()).hexdigest()
        assert found.reparented is False
        assert (forked.parent_pid, forked.start_ticks) == (os.getpid(), ran.start_ticks)
        assert (ended.exit_code, ended.exit_signal, ended.start_ticks) == (0, None, ran.start_ticks)
        assert ended.run_time_ns is not None
        assert forked.boot_time_ns <= ran.boot_time_ns <= ended.boot_time_ns
        assert abs(ran.wall_time_ms - time.time() * 1000) < 60_000


def test_exits_say_how(watched: Procmond) -> None:
    with Live(watched) as live:
        code = run("/bin/sh", "-c", "exit 42")
        killed = subprocess.Popen(["/bin/sleep", "60"])
        killed.terminate()
        killed.wait()
        live.exited([code, killed.pid])
        (ended,), (shot,) = live.of(EXIT, code), live.of(EXIT, killed.pid)
        assert (ended.exit_code, ended.exit_signal) == (42, None)
        assert (shot.exit_code, shot.exit_signal) == (None, signal.SIGTERM)


def test_threads_are_not_processes(watched: Procmond) -> None:
    code = "import threading\nfor _ in range(20): t = threading.Thread(target=int); t.start(); t.join()"
    with Live(watched) as live:
        pid = run(sys.executable, "-S", "-c", code)
        live.exited([pid])
        born = [one for one in live.of(FORK) if one.parent_pid == pid]
        assert not born
        assert Counter(one.kind for one in live.events if one.pid == pid) == {FORK: 1, EXEC: 1, EXIT: 1}


# -------------------------------------------------------------------------------------- ways to run a thing


def test_vfork_and_posix_spawn(watched: Procmond) -> None:
    with Live(watched) as live:
        spawned = os.posix_spawn(TRUE, [TRUE, "spawned"], {})
        os.waitpid(spawned, 0)
        live.exited([spawned])
        assert [one.kind for one in live.events if one.pid == spawned] == [FORK, EXEC, EXIT]


def test_a_script_names_itself_beside_its_interpreter(ebpf: Procmond, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh -u\nexit 5\n")
    script.chmod(0o755)
    with Live(ebpf) as live:
        absolute = run(str(script), "x")
        relative = run("./script", cwd=tmp_path)
        live.exited([absolute, relative])
        for pid in (absolute, relative):
            (ran,) = live.of(EXEC, pid)
            assert record(ran).executable_path == os.path.realpath("/bin/sh")
            assert record(ran).script_path == str(script)
            assert live.of(EXIT, pid)[0].exit_code == 5
        assert record(live.of(EXEC, absolute)[0]).command_line == ("/bin/sh", "-u", str(script), "x")
        assert record(live.of(EXEC, relative)[0]).invoked_path == "./script"


def test_fexecve_and_memfd(ebpf: Procmond) -> None:
    with Live(ebpf) as live:
        pids = []
        for kind in ("file", "memory"):
            pid = os.fork()
            if pid == 0:
                with contextlib.suppress(BaseException):
                    descriptor = os.open(TRUE, os.O_RDONLY)
                    if kind == "memory":
                        source, descriptor = descriptor, os.memfd_create("hidden", 0)
                        os.sendfile(descriptor, source, 0, os.fstat(source).st_size)
                    os.execve(descriptor, ["from", kind], {})
                os._exit(99)
            os.waitpid(pid, 0)
            pids.append(pid)
        live.exited(pids)
        file, memory = (record(live.of(EXEC, pid)[0]) for pid in pids)
        assert (file.executable_path, file.command_line) == (TRUE, ("from", "file"))
        assert memory.command_line == ("from", "memory")
        assert memory.memory_backed
        assert memory.on_disk_mismatch
        assert not memory.file_exists
        assert "hidden" in (memory.executable_path or "")


def test_an_exec_from_a_thread_is_its_processs(watched: Procmond) -> None:
    code = (
        "import os, threading\n"
        f"threading.Thread(target=lambda: os.execv({TRUE!r}, ['true', 'thread'])).start()"
    )
    with Live(watched) as live:
        pid = run(sys.executable, "-S", "-c", code)
        live.exited([pid])
        _, second = live.of(EXEC, pid)
        assert record(second).command_line in {("true", "thread"), ()}
        assert len(live.of(EXIT, pid)) == 1


def test_long_arguments_are_cut_at_the_bound_with_their_length(ebpf: Procmond) -> None:
    many = [str(number) for number in range(1000)]
    long = "x" * 60_000
    with Live(ebpf) as live:
        pids = [run(TRUE, *many), run(TRUE, long, "last")]
        live.exited(pids)
        whole, cut = (record(live.of(EXEC, pid)[0]) for pid in pids)
        assert whole.command_line == (TRUE, *many)
        assert whole.command_line_length == 0
        assert sum(len(one) for one in cut.command_line) < 32 * 1024
        assert cut.command_line_length == len(f"{TRUE}\0{long}\0last\0")
        assert missing(live.of(EXEC, pids[1])[0], COMMAND_LINE) == "cut"


def test_a_relative_path_and_a_symbolic_link_are_resolved(ebpf: Procmond, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(TRUE)
    with Live(ebpf) as live:
        pid = run("./link", cwd=tmp_path)
        live.exited([pid])
        found = record(live.of(EXEC, pid)[0])
        assert (found.executable_path, found.invoked_path) == (TRUE, "./link")


def test_changed_credentials_are_told(watched: Procmond) -> None:
    if "credentials are not seen" in response(watched).event_source_reason:
        pytest.skip(response(watched).event_source_reason)
    with Live(watched) as live:
        pid = os.fork()
        if pid == 0:
            os.setresuid(1234, 1234, 1234)
            time.sleep(0.2)  # long enough to be looked at: the connector tells no ids
            os._exit(0)
        os.waitpid(pid, 0)
        live.exited([pid])
        changed = live.of(CREDENTIALS, pid)
        assert changed
        assert record(changed[-1]).real_uid == 1234


def test_a_parent_that_has_gone_is_reparented(ebpf: Procmond) -> None:
    with Live(ebpf) as live:
        code = f"(sleep 0.3; exec {TRUE} orphan) & echo $!"
        with subprocess.Popen(["/bin/sh", "-c", code], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            orphan = int(process.stdout.readline())
        live.exited([orphan])
        assert live.of(FORK, orphan)[0].parent_pid == process.pid
        (ran,) = [one for one in live.of(EXEC, orphan) if "orphan" in record(one).command_line]
        assert record(ran).reparented is True
        assert record(ran).ppid != process.pid


# ------------------------------------------------------------------------------------------------- hashes


def test_short_lived_images_carry_a_proven_hash_also_new_ones(ebpf: Procmond, tmp_path: Path) -> None:
    programs = []
    for number in range(40):
        program = tmp_path / f"new{number}"
        shutil.copy(TRUE, program)
        with program.open("ab") as file:
            file.write(b"%d" % number)
        programs.append(program)
    time.sleep(0.1)  # the last change of each lies longer back than the kernel's clock steps
    with Live(ebpf) as live:
        pids = [run(str(program)) for program in programs]
        live.exited(pids)
        proven = 0
        for pid, program in zip(pids, programs, strict=True):
            found = record(live.of(EXEC, pid)[0])
            if found.hash_state is HashState.OK:
                assert found.executable_hash == hashlib.sha256(program.read_bytes()).hexdigest()
                (how,) = [one.provenance for one in found.exceptions if one.field == HASH]
                assert how in {Provenance.PROC, Provenance.FILE}
                proven += 1
            else:
                assert found.executable_hash is None
        assert proven >= 38
        again = [run(TRUE) for _ in range(50)]
        live.exited(again)
        assert all(record(live.of(EXEC, pid)[0]).hash_state is HashState.OK for pid in again)


def test_an_image_rewritten_right_after_it_ran_is_never_hashed_wrong(ebpf: Procmond, tmp_path: Path) -> None:
    good = Path(TRUE).read_bytes()
    innocent = good + b"innocent"
    program = tmp_path / "program"
    with Live(ebpf) as live:
        pids = []
        for _ in range(60):
            program.write_bytes(good)
            program.chmod(0o755)
            pids.append(run(str(program)))
            program.write_bytes(innocent)
        live.exited(pids)
        hashes = {record(live.of(EXEC, pid)[0]).executable_hash for pid in pids}
        assert hashes <= {None, hashlib.sha256(good).hexdigest()}


def test_a_huge_executable_delays_no_other_event(ebpf: Procmond, tmp_path: Path) -> None:
    huge, large = tmp_path / "huge", tmp_path / "large"
    for program, size in ((huge, 200 << 30), (large, 500 << 20)):
        shutil.copy(TRUE, program)
        os.truncate(program, size)
    loop = f"i=0; while [ $i -lt 30 ]; do {huge}; {large}; {TRUE} beside; i=$((i+1)); done"
    with Live(ebpf) as live:
        busy = subprocess.Popen(["/bin/sh", "-c", loop])
        live.exited([busy.pid])
        busy.wait()
        live.until(lambda: sum(record(one).executable_path == str(large) for one in live.of(EXEC)) == 30)
        states = {record(one).hash_state for one in live.of(EXEC) if record(one).executable_path == str(huge)}
        assert states == {HashState.TOO_LARGE}
        assert len(live.tagged("beside")) == 1
        assert live.tagged("beside")["beside"] == 30
        first = next(one for one in live.of(EXEC) if record(one).executable_path == str(large))
        came_before = live.of(EXEC)[: live.of(EXEC).index(first)]
        overtook = [one for one in came_before if one.boot_time_ns > first.boot_time_ns]
        assert any("beside" in record(one).command_line for one in overtook), "while the large one was read"


# ------------------------------------------------------------------------------------ snapshot and filters


def test_nothing_falls_between_the_snapshot_and_the_events_and_nothing_is_told_twice(
    watched: Procmond,
) -> None:
    keeps_sleeping = "exec /bin/sleep 30"
    processes: list[subprocess.Popen[bytes]] = []
    live = Live(watched)
    try:
        # While the snapshot is under way:
        processes += (subprocess.Popen(["/bin/sh", "-c", keeps_sleeping]) for _ in range(60))
        keys = {(process.pid, start_of(process.pid)) for process in processes}
        live.until(lambda: bool(live.of(SNAPSHOT_END)))

        def told(key: tuple[int, int]) -> list[ProcessEvent]:
            return [one for one in live.events if (one.pid, one.start_ticks) == key]

        def running(key: tuple[int, int]) -> bool:
            images = [one for one in told(key) if one.kind in {SNAPSHOT, EXEC}]
            if told(key)[:1] and told(key)[0].kind is FORK:  # the shell may show sleep already when looked at
                return len(images) == 2
            return bool(images) and (record(images[-1]).name == "sleep" or not record(images[-1]).name)

        live.until(lambda: all(running(key) for key in keys))
        for key in keys:
            mine = told(key)
            beginnings = [one for one in mine if one.kind in {SNAPSHOT, FORK}]
            assert len(beginnings) == 1, "one beginning"
            assert mine[0] is beginnings[0]
            if beginnings[0].kind is FORK:
                assert [one.kind for one in mine] == [FORK, EXEC, EXEC]
    finally:
        for process in processes:
            process.kill()
            process.wait()
        live.client.close()


def test_a_stream_of_a_tree_has_its_children_and_nobody_else(watched: Procmond) -> None:
    with subprocess.Popen(["/bin/sh"], stdin=subprocess.PIPE) as shell:
        assert shell.stdin is not None
        with Live(watched, ProcessFilter(pids=(shell.pid,))) as live:
            assert [one.pid for one in live.of(SNAPSHOT)] == [shell.pid]
            outside = run(TRUE, "outside")
            shell.stdin.write(b"/bin/sh -c '/bin/true inside; exit 0'; exit 3\n")
            shell.stdin.flush()
            shell.wait()
            live.until(lambda: len(live.of(EXIT)) == 3)
            assert outside not in {one.pid for one in live.events}
            family = {shell.pid} | {one.pid for one in live.of(FORK)}
            assert {one.pid for one in live.events if one.kind is not SNAPSHOT_END} == family
            assert len(live.of(EXEC)) == 2


def test_names_patterns_and_kinds_choose(ebpf: Procmond) -> None:
    only = int(ProcessEventKind.EXEC)
    with Live(ebpf, ProcessFilter(executable_pattern=f"{TRUE}"), event_kinds=(only,)) as live:
        run("/bin/sh", "-c", "exit 0")
        run(TRUE, "chosen")
        live.until(lambda: bool(live.tagged("chosen")))
        assert {one.kind for one in live.events} == {EXEC, SNAPSHOT_END}
        assert {record(one).executable_path for one in live.of(EXEC)} == {TRUE}


def test_further_digests_and_the_environment_are_for_who_asks(ebpf: Procmond) -> None:
    environment = {"LD_PRELOAD": "/nowhere.so", "SECRET": "x"}
    with Live(ebpf, digests=("md5",), environment=True) as asking, Live(ebpf) as plain:
        process = subprocess.Popen(["/bin/sleep", "0.2"], env=environment, stderr=subprocess.DEVNULL)
        process.wait()
        asking.exited([process.pid])
        plain.exited([process.pid])
        found = record(asking.of(EXEC, process.pid)[0])
        sleep = Path(os.path.realpath("/bin/sleep")).read_bytes()
        assert {one.algorithm: one.value for one in found.digests} == {"md5": hashlib.md5(sleep).hexdigest()}
        assert [(one.name, one.value) for one in found.environment] == [("LD_PRELOAD", "/nowhere.so")]
        other = record(plain.of(EXEC, process.pid)[0])
        assert not other.digests
        assert not other.environment
        assert other.executable_hash == found.executable_hash


# --------------------------------------------------------------------------------------- losses and ends


def test_a_subscriber_that_stops_reading_gets_a_gap_where_it_stopped_and_all_is_accounted_for(
    ebpf: Procmond, counters: Tracepoints
) -> None:
    argument = "x" * 6_000  # so that the queue is full of bytes before it is full of events
    loop = f"i=0; while [ $i -lt 1500 ]; do {TRUE} stalled$i $0; i=$((i+1)); done"
    with Live(ebpf) as reading, Live(ebpf) as stalled:
        before = ebpf.memory_kib()
        stretch = Stretch(ebpf, counters)
        busy = subprocess.Popen(["/bin/sh", "-c", loop, argument])
        reading.until(lambda: len(reading.tagged("stalled")) == 1500, 120)
        busy.wait()
        assert ebpf.memory_kib() - before < 16 * MIB_IN_KIB
        assert not reading.gaps(), "one that does not read costs the others nothing"
        stretch.finish(stalled)
        lost = stretch.prove(stalled)
        assert lost[EXEC] > 0
        gaps = [one.gap for one in stalled.of(GAP) if one.gap is not None]
        assert {gap.reason for gap in gaps} == {"subscriber_queue_full"}
        assert stalled.end is not None
        assert stalled.end.summary is not None
        assert stalled.end.summary.events_lost == lost.total()


def test_a_full_ring_is_a_gap_by_kind_and_a_fresh_snapshot(ebpf: Procmond) -> None:
    with Live(ebpf) as live:
        collector = ebpf.children()["collector"]
        os.kill(collector, signal.SIGSTOP)
        try:  # 2 MiB hold some 1,500 short processes
            run("/bin/sh", "-c", f"i=0; while [ $i -lt 4000 ]; do {TRUE} ring$i; i=$((i+1)); done")
        finally:
            os.kill(collector, signal.SIGCONT)
        live.until(lambda: len(live.of(SNAPSHOT_END)) == 2)
        after_ns = boot_ns()
        ended_after(live, run(TRUE, "after"), after_ns)
        first = live.of(GAP)[0].gap
        assert first is not None
        assert first.reason == "kernel_ring_full"  # others may follow: what had piled up comes all at once
        # Others run things too, so the gap may hold more than what is missing here, never less.
        live.until(lambda: 4000 - len(live.tagged("ring")) <= live.gaps()[EXEC])
        told = live.tagged("ring")
        assert max(told.values()) == 1
        assert len(told) > 500, "what was in the ring is not lost"
        eventually(lambda: "kernel_ring_full" in response(ebpf).event_source_reason)

        def reported() -> int:
            summary = capabilities(ebpf).summary
            assert summary is not None
            return sum(loss.count for loss in summary.losses if loss.kind is EXEC)

        # What is reported follows once a second: what this reader did not take in time may not be in it yet.
        eventually(lambda: reported() >= live.gaps()[EXEC])


def test_a_killed_collector_is_a_gap_of_known_size_and_a_fresh_snapshot(watched: Procmond) -> None:
    with Live(watched) as live:
        first = [run(TRUE, f"first{number}") for number in range(50)]
        live.exited(first)
        loop = f"i=0; while [ $i -lt 300 ]; do {TRUE} under$i; i=$((i+1)); done"
        under = subprocess.Popen(["/bin/sh", "-c", loop])
        # One that stays is told before, again by the snapshot, and not a third time.
        stays = subprocess.Popen([SLEEP, "300"])
        live.until(lambda: bool(live.of(EXEC, stays.pid)))
        os.kill(watched.children()["collector"], signal.SIGKILL)
        live.until(lambda: bool(live.of(GAP)))
        (gap,) = live.of(GAP)
        assert gap.gap is not None
        assert gap.gap.reason == "collector_lost"
        assert 0 < gap.gap.from_boot_time_ns < gap.gap.to_boot_time_ns
        live.until(lambda: len(live.of(SNAPSHOT_END)) == 2)
        after_gap = live.events[live.events.index(gap) + 1 :]
        assert after_gap[0].kind in {SNAPSHOT, SNAPSHOT_END}
        told = [one.kind for one in after_gap if one.pid == stays.pid]
        assert told == [SNAPSHOT]
        stays.kill()
        stays.wait()
        under.wait()
        live.exited([stays.pid, under.pid])
        lost = live.gaps()
        if source_of(watched) is EventSource.EBPF:
            # Others run things too, so the gap may hold more than what is missing here, never less.
            # What waits for a hash comes after the end of the shell that started it.
            live.until(lambda: 300 - len(live.tagged("under")) <= lost[EXEC])
        assert set(live.tagged("under").values()) <= {1}  # none where all were gone before they were read
        assert gap.gap.count == lost.total()
        end = live.cancel()
        assert end.summary is not None
        assert end.summary.events_lost == lost.total()


def test_a_collector_killed_before_the_first_frame_costs_nothing(ebpf: Procmond) -> None:
    collector = ebpf.children()["collector"]
    os.kill(collector, signal.SIGSTOP)
    live = Live(ebpf)
    capabilities(ebpf)  # answered by the front: so it has read the question as well
    os.kill(collector, signal.SIGKILL)
    with live:
        assert not live.of(GAP)


def test_sigterm_ends_a_stream_with_its_reason() -> None:
    with started("--event-source", "ebpf") as procmond, Live(procmond) as live:
        assert procmond.process is not None
        procmond.process.terminate()
        while live.receive():
            pass
        assert live.end is not None
        assert live.end.error_code is ErrorCode.SHUTTING_DOWN
        assert live.end.summary is not None
        assert procmond.process.wait(timeout=6) == 0


def test_live_events_delay_no_other_answer(ebpf: Procmond) -> None:
    with Live(ebpf) as live, ebpf.connect() as client:
        loop = f"i=0; while [ $i -lt 200 ]; do {TRUE}; i=$((i+1)); done"
        busy = subprocess.Popen(["/bin/sh", "-c", loop])
        times = []
        while busy.poll() is None:
            began = time.monotonic()
            assert _hash_of(client) is not None
            times.append(time.monotonic() - began)
        live.exited([busy.pid])
        assert sorted(times)[len(times) // 2] < 0.1


def _hash_of(client: Client) -> object:
    from common.messages import HashCheck, new_hash_check_task

    return client.ask(new_hash_check_task("hash", HashCheck(executable_path=TRUE)))[0].hash_result


# --------------------------------------------------------------------------------------- choice and falls


def test_the_choice_and_its_reason_are_told() -> None:
    with started() as procmond:
        answer = response(procmond)
        assert answer.event_source is not EventSource.UNSPECIFIED
        assert answer.capabilities is not None
        assert answer.capabilities.advanced is not None
        assert answer.capabilities.advanced.realtime == (answer.event_source is not EventSource.POLLING)
        assert procmond.log("collector_ready")[-1]["event_source"] == answer.event_source.name.lower()


def test_without_its_capabilities_ebpf_falls_back_to_the_connector() -> None:
    libc = ctypes.CDLL(None)

    def drop() -> None:
        for capability in (21, 38, 39):  # CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF
            libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP: the exec then drops them

    procmond = Procmond()
    try:
        with _preexec(drop):
            procmond.start()
        answer = response(procmond)
        assert answer.event_source is EventSource.PROCESS_CONNECTOR
        assert "CAP_BPF" in answer.event_source_reason
        with Live(procmond) as live:
            pid = run(TRUE, "x")
            live.exited([pid])
    finally:
        procmond.close()


def test_where_the_kernel_tells_nothing_polling_says_what_it_cannot_see() -> None:
    with started("--event-source", "polling") as procmond:
        answer = response(procmond)
        assert answer.event_source is EventSource.POLLING
        assert "does not see processes that start and end between" in answer.event_source_reason
        assert answer.capabilities is not None
        assert answer.capabilities.advanced is not None
        assert not answer.capabilities.advanced.kernel_level
        with Live(procmond) as live, contextlib.ExitStack() as stack:
            child = subprocess.Popen(["/bin/sleep", "60"])
            stack.callback(child.wait)
            stack.callback(child.kill)
            live.until(lambda: bool(live.of(EXEC, child.pid)), 60)
            found = record(live.of(EXEC, child.pid)[0])
            assert found.command_line == ("/bin/sleep", "60")
            assert found.executable_hash is not None
            child.kill()
            child.wait()
            live.exited([child.pid])
            assert live.of(EXIT, child.pid)[0].exit_code is None


def test_a_source_that_was_named_and_does_not_work_is_no_start() -> None:
    libc = ctypes.CDLL(None)
    procmond = Procmond("--event-source", "ebpf")

    def drop() -> None:
        for capability in (21, 38, 39):
            libc.prctl(24, capability, 0, 0, 0)

    with _preexec(drop), pytest.raises(AssertionError, match="event_source: ebpf does not work here"):
        procmond.start()
    assert procmond.process is not None
    assert procmond.process.wait(timeout=5) == 2
    procmond.close()


@contextlib.contextmanager
def _preexec(function: object) -> Iterator[None]:
    """Everything started in this block runs `function` before its exec."""
    original = subprocess.Popen.__init__

    def patched(self: object, *arguments: object, **options: object) -> None:
        original(self, *arguments, preexec_fn=function, **options)  # type: ignore[call-overload]

    subprocess.Popen.__init__ = patched  # type: ignore[method-assign]
    try:
        yield
    finally:
        subprocess.Popen.__init__ = original  # type: ignore[method-assign]

"""Live events against the kernel's own count of them, and against a workload that knows what it did."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.messages import HashState, ProcessEvent, Provenance
from tests.support.daemons import Procmond
from tests.support.live import EXEC, EXIT, FORK, Live
from tests.support.privilege import needs_root
from tests.support.proofs import (
    COMMAND_LINE,
    TRUE,
    Stretch,
    hash_provenance,
    missing,
    record,
    run,
    started,
    told_whole,
    within,
)
from tests.support.tracepoints import Tracepoints

pytestmark = needs_root

RUNS = 3000


@pytest.fixture(scope="module")
def ebpf() -> Iterator[Procmond]:
    with started("--event-source", "ebpf") as procmond:
        yield procmond


@pytest.fixture(scope="module")
def connector() -> Iterator[Procmond]:
    with started("--event-source", "connector") as procmond:
        yield procmond


def shells(number: int) -> list[subprocess.Popen[bytes]]:
    """So many that start RUNS processes among them, tag0 to tag2999, each as fast as it can."""
    share = RUNS // number
    script = f"i=$1; while [ $i -lt $2 ]; do {TRUE} tag$i; i=$((i+1)); done"
    return [
        subprocess.Popen(["/bin/sh", "-c", script, "sh", str(first), str(first + share)])
        for first in range(0, RUNS, share)
    ]


def with_threads() -> subprocess.Popen[bytes]:
    """A process that makes 300 threads, two at a time."""
    code = (
        "import threading\n"
        "for _ in range(150):\n"
        "    pair = [threading.Thread(target=int) for _ in range(2)]\n"
        "    [one.start() for one in pair]; [one.join() for one in pair]"
    )
    return subprocess.Popen([sys.executable, "-I", "-S", "-c", code])


def follow(live: Live, processes: list[subprocess.Popen[bytes]]) -> None:
    """Take what comes until these have ended."""

    def ended() -> bool:
        return all(process.poll() is not None for process in processes)

    while not ended():
        within(live, ended, 1.0)


@pytest.mark.parametrize("number", [1, 4])
def test_of_3000_processes_every_event_is_told_with_arguments_exit_code_and_hash(
    ebpf: Procmond, counters: Tracepoints, number: int
) -> None:
    with Live(ebpf) as live:
        live.exited([run(TRUE, "seen before")])
        stretch = Stretch(ebpf, counters)
        threaded, parents = with_threads(), shells(number)
        follow(live, [threaded, *parents])
        stretch.finish(live)
        lost = stretch.prove(live)
        assert not lost.total()
        lives = {
            record(ran).command_line[1]: (born, ran, ended)
            for born, ran, ended in told_whole(stretch.events(live)).values()
            if len(record(ran).command_line) == 2
        }
        tags = [f"tag{number}" for number in range(RUNS)]
        assert [tag for tag in tags if tag not in lives] == []
        shell_pids = {process.pid for process in parents}
        for tag in tags:
            born, ran, ended = lives[tag]
            assert record(ran).command_line == (TRUE, tag)
            assert born.parent_pid in shell_pids
            assert born.start_ticks == ran.start_ticks == ended.start_ticks
            assert (ended.exit_code, ended.exit_signal) == (0, None)
            assert record(ran).hash_state is HashState.OK
            assert hash_provenance(ran) in {Provenance.PROC, Provenance.FILE}
        assert Counter(one.kind for one in live.events if one.pid == threaded.pid) == {
            FORK: 1,
            EXEC: 1,
            EXIT: 1,
        }


def test_of_the_connector_every_exec_is_told_and_missing_arguments_are_marked(
    connector: Procmond, counters: Tracepoints
) -> None:
    with Live(connector) as live:
        stretch = Stretch(connector, counters)
        processes = [with_threads(), *shells(4)]
        follow(live, processes)
        parents = {process.pid for process in processes}
        stretch.finish(live)
        lost = stretch.prove(live)
        assert not lost.total()
        mine = {one.pid for one in live.of(FORK) if one.parent_pid in parents}
        assert len(mine) == RUNS
        ran = [one for one in live.of(EXEC) if one.pid in mine]
        assert len(ran) == RUNS
        whole = 0
        for one in ran:
            arguments = record(one).command_line
            if arguments:
                assert arguments[0] == TRUE
                whole += 1
            else:
                assert missing(one, COMMAND_LINE) == "exited"
        assert [one.exit_code for one in live.of(EXIT) if one.pid in mine] == [0] * RUNS
        print(f"with arguments: {whole / RUNS:.1%}")


def test_new_short_lived_images_carry_a_proven_hash(ebpf: Procmond, tmp_path: Path) -> None:
    number = 300
    true = Path(TRUE).read_bytes()
    hashes = {}
    for index in range(number):
        program = tmp_path / f"new{index:03}"
        content = true + b"%d" % index
        program.write_bytes(content)
        program.chmod(0o755)
        hashes[str(program)] = hashlib.sha256(content).hexdigest()
    time.sleep(0.1)  # a file that was changed just now proves nothing, see proof.SETTLED_NS
    with Live(ebpf) as live:
        shell = run("/bin/sh", "-c", f"for each in {tmp_path}/new*; do $each; done")
        live.until(lambda: sum(record(one).executable_path in hashes for one in live.of(EXEC)) == number)
        ran = [one for one in live.of(EXEC) if record(one).executable_path in hashes]
        assert {one.parent_pid for one in live.of(FORK) if one.pid in {each.pid for each in ran}} == {shell}
        proven = [one for one in ran if record(one).hash_state is HashState.OK]
        for one in proven:
            assert record(one).executable_hash == hashes[record(one).executable_path or ""]
            assert hash_provenance(one) in {Provenance.PROC, Provenance.FILE}
        for one in ran:
            assert (record(one).executable_hash is None) == (record(one).hash_state is not HashState.OK)
        assert len(proven) >= number * 0.95


@pytest.mark.parametrize("source", ["ebpf", "connector"])
def test_a_number_that_is_used_again_at_once_never_gets_the_last_holders_facts(
    source: str, request: pytest.FixtureRequest
) -> None:
    procmond: Procmond = request.getfixturevalue(source)
    last_pid = Path("/proc/sys/kernel/ns_last_pid")
    images = {0: TRUE, 1: os.path.realpath("/bin/false")}
    with Live(procmond) as live:
        number = run(images[0])
        codes = [0]
        for _ in range(400):
            code = 1 - codes[-1]
            if source == "connector":
                time.sleep(1 / os.sysconf("SC_CLK_TCK"))  # what /proc says of two is told apart by a tick
            last_pid.write_text(str(number - 1))
            if run(images[code], "again") == number:
                codes.append(code)
            if len(codes) == 60:
                break
        assert len(codes) > 20, "others took the number nearly each time"

        def told() -> list[list[ProcessEvent]]:
            return [life for life in lives(live, number) if life[0].parent_pid == os.getpid()]

        live.until(lambda: sum(life[-1].kind is EXIT for life in told()) == len(codes))
        ours = told()
        assert [life[-1].exit_code for life in ours] == codes
        for life, code in zip(ours, codes, strict=True):
            assert [one.kind for one in life] == [FORK, EXEC, EXIT]
            born, ran, ended = life
            assert record(born).executable_path not in images.values(), "not the last holder's"
            assert record(ran).executable_path in {images[code], None}
            assert record(ended).executable_path in {images[code], None}
            if record(ran).command_line:
                assert record(ran).command_line[0] == images[code]
            if record(ran).executable_hash:
                content = Path(images[code]).read_bytes()
                assert record(ran).executable_hash == hashlib.sha256(content).hexdigest()


def lives(live: Live, pid: int) -> list[list[ProcessEvent]]:
    """What was told of each holder of this number that was seen to begin."""
    found: list[list[ProcessEvent]] = []
    for one in live.events:
        if one.pid == pid and one.kind is FORK:
            found.append([one])
        elif one.pid == pid and one.kind in {EXEC, EXIT} and found:
            found[-1].append(one)
    return found


# ------------------------------------------------------------------------------- other mounts, other roots


@pytest.fixture
def overlay(tmp_path: Path) -> Iterator[dict[str, Path]]:
    """A mounted overlay: its lower and its merged directory."""
    tmp_path.chmod(0o755)
    places = {name: tmp_path / name for name in ("lower", "upper", "work", "merged")}
    for place in places.values():
        place.mkdir()
    options = "lowerdir={lower},upperdir={upper},workdir={work}".format_map(places)
    told = subprocess.run(
        ["mount", "-t", "overlay", "overlay", "-o", options, str(places["merged"])],
        capture_output=True,
        text=True,
        check=False,
    )
    if told.returncode:
        pytest.skip(f"no overlayfs here: {told.stderr.strip()}")
    yield places
    subprocess.run(["umount", "--lazy", str(places["merged"])], check=True)


def test_images_on_overlayfs_are_proven_or_marked_never_wrong(
    ebpf: Procmond, overlay: dict[str, Path]
) -> None:
    true = Path(TRUE).read_bytes()
    lower, merged = overlay["lower"], overlay["merged"]
    for index in range(20):
        (lower / f"below{index}").write_bytes(true + b"below%d" % index)
        (lower / f"below{index}").chmod(0o755)
        (merged / f"above{index}").write_bytes(true + b"above%d" % index)
        (merged / f"above{index}").chmod(0o755)
    time.sleep(0.1)
    truth: dict[int, str] = {}

    def ran(program: Path) -> None:
        truth[run(str(program))] = hashlib.sha256(program.read_bytes()).hexdigest()

    with Live(ebpf) as live:
        for index in range(20):
            ran(merged / f"below{index}")
            ran(merged / f"above{index}")
            with (merged / f"below{index}").open("ab") as file:  # copied up, and another image now
                file.write(b"changed")
            ran(merged / f"below{index}")
        time.sleep(0.1)
        settled = set(truth)
        for index in range(20):
            ran(merged / f"below{index}")
            ran(merged / f"above{index}")
        settled = set(truth) - settled
        live.exited(truth)
        proven = 0
        states: Counter[HashState] = Counter()
        for pid, expected in truth.items():
            found = record(live.of(EXEC, pid)[-1])
            if found.executable_hash is None:
                states[found.hash_state] += 1
            else:
                assert found.executable_hash == expected
                proven += pid in settled
        print(f"proven of those that were left alone: {proven} of {len(settled)}; others: {states}")
        assert set(states) <= {HashState.GONE, HashState.PENDING}, "why there is none"
        assert proven >= len(settled) * 0.95


def test_an_image_in_a_container_is_proven_or_marked_never_its_namesake_outside(
    ebpf: Procmond, tmp_path: Path
) -> None:
    tmp_path.chmod(0o755)
    place = tmp_path / "place"
    place.mkdir()
    (place / "true").write_bytes(Path(TRUE).read_bytes() + b"outside")
    (place / "true").chmod(0o755)
    inside = Path(TRUE).read_bytes() + b"inside"
    (tmp_path / "inside").write_bytes(inside)
    (tmp_path / "inside").chmod(0o755)
    script = (
        f"mount -t tmpfs none {place} && cp -p {tmp_path}/inside {place}/true && sleep 0.1 && "
        f"for i in 1 2 3 4 5; do {place}/true contained$i; done; exit 3"
    )
    with Live(ebpf) as live:
        outer = run("unshare", "--mount", "--pid", "--fork", "--mount-proc", "/bin/sh", "-c", script)
        live.exited([outer])
        tags = {f"contained{index}" for index in range(1, 6)}
        live.until(lambda: tags <= set(live.tagged("contained")))
        own = os.stat("/proc/self/ns/pid").st_ino
        for one in live.of(EXEC):
            found = record(one)
            if not tags & set(found.command_line):
                continue
            assert found.executable_path == str(place / "true")
            assert found.pid_namespace != own
            assert live.of(FORK, one.pid), "by its number in our own namespace"
            (ended,) = live.of(EXIT, one.pid)
            assert ended.exit_code == 0
            assert found.executable_hash in {None, hashlib.sha256(inside).hexdigest()}
            if found.executable_hash is None:
                assert hash_provenance(one) is Provenance.MISSING or found.hash_state is HashState.PENDING

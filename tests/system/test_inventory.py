"""Both real daemons under two uids; what the agent received is compared with psutil and sha256sum."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from common.messages import HashState, ProcessRecord, ProcessStatus
from tests.support.agents import AGENT_UID, one_sweep
from tests.support.daemons import Procmond, public_directory
from tests.support.privilege import needs_root

WORKER_UIDS = (61_001, 61_002)

pytestmark = needs_root


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    path = Path(public_directory())
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def processes(folder: Path) -> Iterator[dict[str, int]]:
    """Processes made to be looked at, by what is special about them."""
    with contextlib.ExitStack() as stack:

        def start(arguments: list[str], *, executable: Path | None = None, user: int | None = None) -> int:
            process = subprocess.Popen(
                arguments, executable=executable, user=user, group=user, stdout=subprocess.DEVNULL
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process.pid

        def copy(name: str) -> Path:
            target = folder / name
            shutil.copy("/bin/sleep", target)
            return target

        found = {f"user-{uid}": start(["/bin/sleep", str(uid)], user=uid) for uid in WORKER_UIDS}
        deleted = copy("deleted")
        found["deleted"] = start([str(deleted), "301"])
        deleted.unlink()
        replaced = copy("replaced")
        found["replaced"] = start([str(replaced), "302"])
        shutil.copy("/bin/cat", folder / "new")
        (folder / "new").rename(replaced)
        found["renamed"] = start(["[kworker/0:1]", "303"], executable=copy("disguised"))
        script = folder / "script.sh"
        script.write_text("#!/bin/sh\nread line\n")
        script.chmod(0o755)
        process = subprocess.Popen([str(script)], stdin=subprocess.PIPE)
        stack.callback(process.communicate)
        found["script"] = process.pid
        memory = os.memfd_create("payload")
        with open("/bin/sleep", "rb") as source:
            os.sendfile(memory, source.fileno(), 0, os.fstat(source.fileno()).st_size)
        found["memfd"] = start(["payload", "304"], executable=Path(f"/proc/{os.getpid()}/fd/{memory}"))
        os.close(memory)
        hostile = ["/bin/sh", "-c", "read line", "\x1b[31mred", "new\nline", os.fsdecode(b"\xff\xfe")]
        process = subprocess.Popen(hostile, stdin=subprocess.PIPE)
        stack.callback(process.communicate)
        found["hostile"] = process.pid
        zombie = subprocess.Popen([sys.executable, "-c", "pass"])
        os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
        stack.callback(zombie.wait)
        found["zombie"] = zombie.pid
        yield found


@pytest.fixture(scope="module", params=["auto", "procfs", "psutil"])
def records(request: pytest.FixtureRequest, processes: dict[str, int]) -> dict[str, ProcessRecord]:
    """What the agent received of them, through either collector."""
    assert isinstance(request.param, str)
    with Procmond(
        "--allow-user", str(AGENT_UID), "--allow-group", str(AGENT_UID), "--collector", request.param
    ) as procmond:
        inventory = one_sweep(procmond)
        assert procmond.pid in inventory
        assert os.stat(f"/proc/{procmond.pid}").st_uid == 0
    return {name: inventory[pid] for name, pid in processes.items()}


LIVING = ("user-61001", "user-61002", "deleted", "replaced", "renamed", "script", "memfd", "hostile")


@pytest.mark.parametrize("name", LIVING)
def test_each_fact_is_what_psutil_says(records: dict[str, ProcessRecord], name: str) -> None:
    record = records[name]
    process = psutil.Process(record.pid)
    with process.oneshot():
        assert record.ppid == process.ppid()
        assert record.name == Path(f"/proc/{record.pid}/comm").read_text().rstrip("\n")
        assert record.start_time is not None
        assert abs(record.start_time - process.create_time()) <= 2, "both round"
        assert record.user_id == str(process.uids().real)
        assert record.real_uid == process.uids().real
        assert record.effective_uid == process.uids().effective
        assert record.real_gid == process.gids().real
        assert record.threads == process.num_threads()
        assert record.status is ProcessStatus.SLEEPING
        assert record.cwd == process.cwd()
        assert record.memory_usage is not None
        assert record.memory_usage == pytest.approx(process.memory_info().rss, rel=0.5)
        assert record.accessible
        if name != "hostile":
            assert list(record.command_line) == process.cmdline()
        if name not in {"deleted", "replaced", "memfd"}:
            assert record.executable_path == process.exe()


@pytest.mark.parametrize("name", LIVING)
def test_the_hash_is_what_sha256sum_says_of_the_running_image(
    records: dict[str, ProcessRecord], name: str
) -> None:
    record = records[name]
    said = subprocess.run(
        ["sha256sum", f"/proc/{record.pid}/exe"], capture_output=True, text=True, check=True
    ).stdout
    assert (record.executable_hash, record.hash_algorithm) == (said.split()[0], "sha256")
    assert record.hash_state is HashState.OK


def test_images_that_are_not_the_file_at_their_name_are_marked(
    records: dict[str, ProcessRecord], folder: Path
) -> None:
    def marks(name: str) -> tuple[bool, bool, bool]:
        record = records[name]
        return record.on_disk_mismatch, record.file_exists, record.memory_backed

    assert marks("deleted") == (True, False, False)
    assert marks("replaced") == (True, True, False)
    assert marks("memfd") == (True, False, True)
    assert marks("renamed") == (False, True, False)
    assert records["deleted"].executable_path == str(folder / "deleted")
    assert records["replaced"].executable_path == str(folder / "replaced")
    assert records["renamed"].executable_path == str(folder / "disguised")
    assert records["renamed"].command_line[0] == "[kworker/0:1]"


def test_hostile_text_arrives_as_it_is_and_invalid_bytes_escaped(records: dict[str, ProcessRecord]) -> None:
    assert records["hostile"].command_line[-3:] == ("\x1b[31mred", "new\nline", r"\xff\xfe")


def test_a_zombie_has_a_record_and_no_hash(records: dict[str, ProcessRecord]) -> None:
    zombie = records["zombie"]
    assert zombie.status is ProcessStatus.ZOMBIE
    assert zombie.executable_hash is None
    assert zombie.hash_state is HashState.NO_EXECUTABLE

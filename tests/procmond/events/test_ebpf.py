"""Loading, and every reason it can fail for."""

from __future__ import annotations

import mmap
import os
import subprocess
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from common.messages import ProcessEventKind
from procmond.events import ebpf, libbpf, tasks
from procmond.events.ebpf import Reason, Unavailable
from procmond.events.ring import EventRing
from tests.procmond.events.workload import TRUE, Recorder

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: loads eBPF programs")


def reason(loaded: ebpf.Programs | Unavailable) -> Reason:
    assert isinstance(loaded, Unavailable)
    assert loaded.detail
    return loaded.reason


def succeeds(child: Callable[[], None]) -> bool:
    """Whether `child`, run in a forked process, raises nothing."""
    pid = os.fork()
    if pid == 0:
        try:
            child()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


def become_nobody() -> None:
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def test_an_installation_without_the_object_says_so(tmp_path: Path) -> None:
    assert reason(ebpf.load(str(tmp_path / "exec.bpf.o"))) is Reason.NO_OBJECT


def test_a_kernel_without_types_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "object").touch()
    monkeypatch.setattr(ebpf, "_BTF", str(tmp_path / "vmlinux"))
    assert reason(ebpf.load(str(tmp_path / "object"))) is Reason.NO_BTF


@needs_root
def test_a_missing_libbpf_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "object").touch()
    monkeypatch.setattr(libbpf, "_NAME", "libbpf-that-is-not-there.so.1")
    assert reason(ebpf.load(str(tmp_path / "object"))) is Reason.NO_LIBBPF


@needs_root
def test_a_libbpf_that_is_another_library_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "object").touch()
    monkeypatch.setattr(libbpf, "_NAME", "libc.so.6")
    assert reason(ebpf.load(str(tmp_path / "object"))) is Reason.NO_LIBBPF


@needs_root
def test_missing_capabilities_are_named(tmp_path: Path) -> None:
    (tmp_path / "object").touch()
    tmp_path.chmod(0o755)

    def child() -> None:
        os.chdir(tmp_path)
        become_nobody()
        assert reason(ebpf.load("object")) is Reason.DENIED

    assert succeeds(child)


@needs_root
def test_a_file_that_is_no_object_fails_and_leaves_nothing_open(tmp_path: Path) -> None:
    damaged = tmp_path / "object"
    before = set(os.listdir("/proc/self/fd"))
    for content in (b"", b"\x7fELF", Path(TRUE).read_bytes()):
        damaged.write_bytes(content)
        assert reason(ebpf.load(str(damaged))) is Reason.FAILED
    assert set(os.listdir("/proc/self/fd")) == before


def test_closing_leaves_nothing_open_and_nothing_attached(programs: ebpf.Programs) -> None:
    before = set(os.listdir("/proc/self/fd"))
    second = ebpf.load()
    assert isinstance(second, ebpf.Programs)
    with mmap.mmap(second.counters, mmap.PAGESIZE, prot=mmap.PROT_READ) as counters:
        subprocess.run([TRUE], check=True)
        assert any(counters)
        second.close()
        ended = counters[:]
        subprocess.run([TRUE], check=True)
        assert counters[:] == ended
    assert set(os.listdir("/proc/self/fd")) == before


def test_what_is_missing_is_told_with_its_reason(programs: ebpf.Programs) -> None:
    assert ("credentials" in programs.missing) != (ProcessEventKind.CREDENTIALS in programs.programs)
    assert ("tasks" in programs.missing) == (programs.tasks is None)
    assert all(why.detail for why in programs.missing.values())


def test_a_reader_needs_no_rights_at_all(programs: ebpf.Programs, recorder: Recorder) -> None:
    recorder.catch_up()

    def reader() -> None:
        become_nobody()
        ring = EventRing(programs)
        subprocess.run([TRUE], check=True)
        assert len(ring.drain()) >= 3
        assert ring.accounts()[ProcessEventKind.EXEC].seen > 0
        if programs.tasks is not None:
            assert os.getpid() in {task.pid for task in tasks.read_tasks(programs)}

    assert succeeds(reader)

"""One file, read once: digests as hashlib's, and a state for everything that may be wrong with it."""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from common.messages import HashState
from procmond.collect.digest import READ_ONLY, Digester, identity_of, open_image, supported_algorithms
from procmond.collect.hash_cache import HashOutcome
from procmond.collect.sighting import FileIdentity
from tests.support.images import SLEEP, copy_of_sleep, running
from tests.support.privilege import needs_root

CHUNK = 4096


def opener(path: Path) -> Callable[[], int]:
    return lambda: os.open(path, READ_ONLY)


def digest(path: Path, *algorithms: str, digester: Digester | None = None) -> HashOutcome:
    return (digester or Digester()).digest(
        opener(path), identity_of(path.stat()), algorithms or ("sha256",), bytearray(CHUNK)
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(3 * CHUNK + 17))
    return path


def test_sha256_is_always_there_and_first() -> None:
    assert supported_algorithms()[0] == "sha256"
    assert set(supported_algorithms()) <= {"sha256", "sha512", "sha1", "md5", "blake3"}


def test_blake3_is_there_exactly_where_its_package_is() -> None:
    assert ("blake3" in supported_algorithms()) is (importlib.util.find_spec("blake3") is not None)


@pytest.mark.skipif("blake3" not in supported_algorithms(), reason="the blake3 package is not installed")
def test_blake3_of_nothing_is_the_published_one(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    value = digest(tmp_path / "empty", "sha256", "blake3").digests[1].value
    assert value == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK])
def test_all_digests_of_one_pass_are_those_of_the_content(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    path = tmp_path / "file"
    path.write_bytes(content)
    algorithms = [name for name in ("sha256", "sha512", "sha1", "md5") if name in supported_algorithms()]
    outcome = digest(path, *algorithms)
    assert outcome.state is HashState.OK
    assert outcome.bytes == size
    assert {one.algorithm: one.value for one in outcome.digests} == {
        name: hashlib.new(name, content).hexdigest() for name in algorithms
    }


def test_a_running_image_is_read_from_the_process_after_its_file_is_gone(tmp_path: Path) -> None:
    path = copy_of_sleep(tmp_path)
    with running(path) as pid:
        path.unlink()
        identity = identity_of(os.stat(f"/proc/{pid}/exe"))
        outcome = Digester().digest(lambda: open_image(pid), identity, ("sha256",), bytearray(CHUNK))
    assert outcome.state is HashState.OK
    assert outcome.digests[0].value == hashlib.sha256(SLEEP.read_bytes()).hexdigest()


def test_a_file_above_the_cap_is_not_read(file: Path) -> None:
    assert digest(file, digester=Digester(max_bytes=CHUNK)) == HashOutcome(HashState.TOO_LARGE)


def test_a_sparse_file_of_200_gigabytes_is_not_read(file: Path) -> None:
    os.truncate(file, 200 << 30)
    assert digest(file) == HashOutcome(HashState.TOO_LARGE)


def test_the_deadline_ends_a_read_between_chunks(file: Path) -> None:
    ticks = iter(range(100))
    outcome = digest(file, digester=Digester(deadline_s=2, clock=lambda: next(ticks)))
    assert outcome == HashOutcome(HashState.TIMED_OUT, bytes=2 * CHUNK)


def test_a_read_that_nobody_waits_for_ends_between_chunks(file: Path) -> None:
    answers = iter([False, True])
    outcome = Digester().digest(
        opener(file), identity_of(file.stat()), ("sha256",), bytearray(CHUNK), lambda: next(answers)
    )
    assert outcome == HashOutcome(HashState.PENDING, bytes=CHUNK)


def written_while_read(change: Callable[[], object], file: Path) -> HashOutcome:
    """The outcome when `change` happens after the first of several chunks."""
    chunks = itertools.count()

    def step() -> bool:
        if next(chunks) == 1:
            change()
        return False

    return Digester().digest(opener(file), identity_of(file.stat()), ("sha256",), bytearray(CHUNK), step)


def test_a_file_that_shrinks_while_it_is_read_gives_no_hash(file: Path) -> None:
    outcome = written_while_read(lambda: os.truncate(file, CHUNK), file)
    assert outcome == HashOutcome(HashState.CHANGED, bytes=CHUNK)


def test_a_file_that_grows_while_it_is_read_is_not_read_for_ever(file: Path) -> None:
    outcome = written_while_read(lambda: os.truncate(file, 1 << 30), file)
    assert outcome.state is HashState.CHANGED
    assert outcome.bytes <= 4 * CHUNK


def test_a_file_overwritten_behind_the_reader_gives_no_hash(file: Path) -> None:
    before = file.stat()

    def overwrite() -> None:
        while file.stat().st_ctime_ns == before.st_ctime_ns:  # the kernel's clock for it ticks in steps
            with file.open("r+b") as stream:
                stream.write(b"x" * 10)
            os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))

    outcome = written_while_read(overwrite, file)
    assert outcome == HashOutcome(HashState.CHANGED, bytes=before.st_size)


def test_another_file_than_the_one_asked_for_is_gone_not_hashed(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(file.read_bytes())
    outcome = Digester().digest(opener(other), identity_of(file.stat()), ("sha256",), bytearray(CHUNK))
    assert outcome == HashOutcome(HashState.GONE)


def test_a_process_that_ended_is_gone() -> None:
    with running(SLEEP) as pid:
        identity = identity_of(os.stat(f"/proc/{pid}/exe"))
    outcome = Digester().digest(lambda: open_image(pid), identity, ("sha256",), bytearray(CHUNK))
    assert outcome == HashOutcome(HashState.GONE)


def test_a_fifo_is_not_regular_and_does_not_make_anybody_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert digest(tmp_path / "fifo") == HashOutcome(HashState.NOT_REGULAR)


def test_a_directory_is_not_regular(tmp_path: Path) -> None:
    assert digest(tmp_path) == HashOutcome(HashState.NOT_REGULAR)


@pytest.mark.parametrize(
    ("number", "state"),
    [
        (errno.EACCES, HashState.DENIED),
        (errno.EPERM, HashState.DENIED),
        (errno.ENOENT, HashState.GONE),
        (errno.ESRCH, HashState.GONE),
        (errno.ENXIO, HashState.NOT_REGULAR),
        (errno.EIO, HashState.IO_ERROR),
        (errno.EMFILE, HashState.IO_ERROR),
    ],
)
def test_what_the_kernel_refuses_becomes_a_state(file: Path, number: int, state: HashState) -> None:
    def fail() -> int:
        raise OSError(number, os.strerror(number))

    outcome = Digester().digest(fail, identity_of(file.stat()), ("sha256",), bytearray(CHUNK))
    assert outcome == HashOutcome(state)


def test_an_error_in_the_middle_of_a_file_is_an_io_error(tmp_path: Path) -> None:
    status = tmp_path.stat()  # reading a directory fails with EISDIR, after open and fstat went well
    descriptor = os.open(tmp_path, os.O_RDONLY)

    class Blind(Digester):
        def _judge(self, status: os.stat_result, identity: FileIdentity) -> HashState:
            return HashState.OK

    outcome = Blind().digest(lambda: descriptor, identity_of(status), ("sha256",), bytearray(CHUNK))
    assert outcome == HashOutcome(HashState.IO_ERROR)


def test_no_descriptor_is_left_open(file: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    digest(file)
    digest(file, digester=Digester(max_bytes=1))
    digest(file, digester=Digester(deadline_s=-1))
    assert len(os.listdir("/proc/self/fd")) == before


@needs_root
def test_an_image_that_its_owner_may_not_read_is_hashed_by_root(tmp_path: Path) -> None:
    path = copy_of_sleep(tmp_path)
    path.chmod(0o711)
    for folder in (tmp_path, *tmp_path.parents):
        if folder != Path("/") and folder.stat().st_uid == os.geteuid() and folder != Path("/tmp"):
            folder.chmod(folder.stat().st_mode | 0o011)
    with running(path, user=65534) as pid:
        identity = identity_of(os.stat(f"/proc/{pid}/exe"))
        outcome = Digester().digest(lambda: open_image(pid), identity, ("sha256",), bytearray(CHUNK))
    assert outcome.state is HashState.OK

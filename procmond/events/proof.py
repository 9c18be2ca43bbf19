"""Hashes of images that ran, also of processes that are gone. One rule: a digest counts only if inode, size,
modification and change time prove that the bytes read are the bytes that ran.

The kernel says at exec which inode runs, in which state. What has the same inode, size and change time has
the same content, unless it was changed again within the resolution of change times. The device must agree
too, or somebody would lay a twin with the same numbers on another file system; but the kernel's device is not
what stat reports on btrfs and overlayfs, so there it must only not be that of any other kind. Three ways,
best first:

- the file was hashed before, long enough after its last change;
- /proc/PID/exe, opened at once: the kernel lets nobody write to what runs, so what was opened is what ran,
  and a later change shows in the change time;
- the file at the path, when the process is gone: sound unless the file was changed just before it ran.
"""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from common.errors import DaemonEyeError
from common.messages import HashState, Provenance
from procmond.collect.hash_cache import Algorithms, HashOutcome
from procmond.collect.hashing import HashEngine
from procmond.collect.sighting import FileIdentity
from procmond.collect.vetting import Descriptor, Obstacle, follow, mounts

SETTLED_NS: Final = 20_000_000
"""A file changed less than this before it ran may have been changed again without a trace: change times move
in steps of a timer tick, 10 ms at most. Tried: 279 of 300 rewrites right after the exec went unseen without
this rule, none with it."""
MAX_PROVEN: Final = 16 * 1024
"""Images whose identity by stat is known, the longest unused forgotten first."""
MAX_READING: Final = 256
"""Images held open for the hash engine at a time; beyond, the next sweep has to do it."""
LOCAL_DEVICES_S: Final = 1.0
"""Seconds between looks at the mounts for the sake of a device that is not known."""

_LOOK: Final = os.O_PATH | os.O_CLOEXEC
_FINE_GRAINED: Final = frozenset({"ext4", "xfs", "btrfs", "tmpfs"})
"""Whose change times move with every change somebody could see, since Linux 6.13 (FS_MGTIME). Since 6.13,
too, the kernel again refuses to write to what runs."""
_OWN_DEVICES: Final = frozenset({"btrfs", "overlay"})
"""Whose stat reports devices of their own, which no mount shows."""
_FINE_GRAINED_SINCE: Final = (6, 13)

GONE: Final = HashOutcome(HashState.GONE)
PENDING: Final = HashOutcome(HashState.PENDING)
TOO_LARGE: Final = HashOutcome(HashState.TOO_LARGE)
NO_IMAGE: Final = HashOutcome(HashState.NO_EXECUTABLE)


class KernelImage(NamedTuple):
    """What the kernel said of the image when it began to run."""

    device: int
    """s_dev, in stat's encoding."""
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


class Ran(NamedTuple):
    """An exec as far as its image is concerned."""

    pid: int
    image: KernelImage
    path: str | None
    """In its mount namespace, mostly also in ours; None when it is not whole."""
    settled: bool
    """The file's last change lay SETTLED_NS or more before the exec."""


class Answer(NamedTuple):
    """The digests, or the future that will have them, and how they are proven."""

    outcome: HashOutcome | asyncio.Future[HashOutcome]
    provenance: Provenance


class Prover:
    """Asks the hash engine for what ran. Belongs to the engine's loop."""

    def __init__(
        self, engine: HashEngine, max_file_bytes: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine = engine
        self._max_file_bytes = max_file_bytes
        self._clock = clock
        self._proven: OrderedDict[KernelImage, FileIdentity] = OrderedDict()
        self._reading: dict[tuple[KernelImage, Algorithms], asyncio.Future[HashOutcome]] = {}
        self._fine_grained = _kernel_release() >= _FINE_GRAINED_SINCE
        self._memory_device = _memory_device()
        self._local: Mapping[tuple[int, int], str] = {}
        self._looked = float("-inf")

    def known(self, ran: Ran, algorithms: Algorithms) -> HashOutcome | None:
        """What is known without looking at any file."""
        image = ran.image
        if image.size > self._max_file_bytes:
            return TOO_LARGE
        identity = self._proven.get(image)
        if identity is None or not ran.settled:
            return None
        self._proven.move_to_end(image)
        return self._engine.cached(identity, algorithms)

    def seize(self, ran: Ran) -> Descriptor | None:
        """The running image, held by a descriptor that reads nothing; None when it is gone, or not the one.

        Call it as soon as the exec is known. A file system that may never answer is not asked.
        """
        kind = self._kind_of(ran.image.device)
        if kind is None or not (ran.settled or (self._fine_grained and kind in _FINE_GRAINED)):
            return None
        try:
            held = Descriptor(os.open(f"/proc/{ran.pid}/exe", _LOOK))
        except OSError:
            return None
        return held if self._is_same(ran.image, held.identity) else None

    def ask(self, ran: Ran, held: Descriptor | None, algorithms: Algorithms) -> Answer:
        """The digests of what ran; `held` is what `seize` gave."""
        known = self.known(ran, algorithms)
        if known is not None:
            return Answer(known, Provenance.FILE)
        reading = self._reading.get((ran.image, algorithms))
        if reading is not None and not reading.done() and (ran.settled or held is not None):
            return Answer(reading, Provenance.FILE)
        if len(self._reading) >= MAX_READING:
            return Answer(PENDING, Provenance.MISSING)
        provenance = Provenance.PROC
        if held is None:
            provenance = Provenance.FILE
            held = self._at_path(ran)
        if held is None:
            return Answer(GONE, Provenance.MISSING)
        return Answer(self._read(ran.image, held, algorithms), provenance)

    def ask_alive(self, pid: int, identity: FileIdentity, algorithms: Algorithms, *, read: bool) -> Answer:
        """The digests of the image that a process was just seen to run."""
        known = self._engine.cached(identity, algorithms)
        if known is not None:
            return Answer(known, Provenance.PROC)
        if not read or len(self._reading) >= MAX_READING:
            return Answer(PENDING, Provenance.MISSING)
        image = KernelImage(*identity)
        reading = self._reading.get((image, algorithms))
        if reading is not None and not reading.done():
            return Answer(reading, Provenance.PROC)
        try:
            # No read that may not come back: it was looked at just now, and the look was guarded.
            held = Descriptor(os.open(f"/proc/{pid}/exe", _LOOK))
        except OSError:
            return Answer(GONE, Provenance.MISSING)
        if held.identity != identity:
            return Answer(GONE, Provenance.MISSING)
        return Answer(self._read(image, held, algorithms), Provenance.PROC)

    def _at_path(self, ran: Ran) -> Descriptor | None:
        if ran.path is None or not ran.settled:
            return None
        try:
            found = follow(ran.path)
        except (UnicodeError, ValueError, DaemonEyeError):
            return None
        if isinstance(found, Obstacle) or not self._is_same(ran.image, found.identity):
            return None
        return found

    def _read(
        self, image: KernelImage, held: Descriptor, algorithms: Algorithms
    ) -> asyncio.Future[HashOutcome]:
        if not stat.S_ISREG(held.status.st_mode):
            future: asyncio.Future[HashOutcome] = asyncio.get_running_loop().create_future()
            future.set_result(HashOutcome(HashState.NOT_REGULAR))
            return future
        self._proven[image] = held.identity
        self._proven.move_to_end(image)
        if len(self._proven) > MAX_PROVEN:
            self._proven.popitem(last=False)
        future = self._engine.submit(held.open_for_reading, held.identity, algorithms)
        key = (image, algorithms)
        self._reading[key] = future
        future.add_done_callback(lambda _: self._reading.pop(key, None))
        return future

    def _is_same(self, image: KernelImage, identity: FileIdentity) -> bool:
        """Whether a file, by stat, is the one that ran, in the state in which it ran."""
        if image[1:] != identity[1:]:
            return False
        kind = self._kind_of(image.device)
        if kind is None or kind in _OWN_DEVICES:
            return self._local.get(_numbers(identity.device), "overlay") in _OWN_DEVICES
        return image.device == identity.device

    def _kind_of(self, device: int) -> str | None:
        """The type of a local file system; None for one that is not, or is not known."""
        if device == self._memory_device:
            return "tmpfs"
        kind = self._local.get(_numbers(device))
        if kind is None and self._clock() - self._looked >= LOCAL_DEVICES_S:
            self._looked = self._clock()
            try:
                self._local = mounts().devices()
            except OSError:
                self._local = {}
            kind = self._local.get(_numbers(device))
        return kind


def _numbers(device: int) -> tuple[int, int]:
    return os.major(device), os.minor(device)


def _kernel_release() -> tuple[int, int]:
    major, _, rest = os.uname().release.partition(".")
    minor = rest.partition(".")[0].partition("-")[0]
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else (0, 0)


def _memory_device() -> int | None:
    """Where memfds live: the kernel's own tmpfs, which is mounted nowhere."""
    try:
        descriptor = os.memfd_create("device")
    except OSError:
        return None
    try:
        return os.fstat(descriptor).st_dev
    finally:
        os.close(descriptor)

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
from collections import OrderedDict
from typing import Final, NamedTuple

from common.errors import DaemonEyeError
from common.messages import HashState, Provenance
from procmond.collect.guard import Guard
from procmond.collect.guarded import blocks_image
from procmond.collect.hash_cache import Algorithms, HashOutcome
from procmond.collect.lanes import HashLanes
from procmond.collect.mounts import MountTable
from procmond.collect.sighting import FileIdentity
from procmond.collect.vetting import Descriptor, Obstacle, follow
from procmond.pulse import Stage

SETTLED_NS: Final = 20_000_000
"""A file changed less than this before it ran may have been changed again without a trace: change times move
in steps of a timer tick, 10 ms at most. Tried: 279 of 300 rewrites right after the exec went unseen without
this rule, none with it."""
MAX_PROVEN: Final = 16 * 1024
"""Images whose identity by stat is known, the longest unused forgotten first."""
MAX_READING: Final = 256
"""Images held open for the hash engine at a time; beyond, the next sweep has to do it."""
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
        self, engine: HashLanes, max_file_bytes: int, memory_device: int, guard: Guard | None = None
    ) -> None:
        """`memory_device` is st_dev of memfds, see `mounts.find_memory_device`."""
        self._engine = engine
        self._max_file_bytes = max_file_bytes
        self._memory_device = memory_device
        self._guard = guard or Guard()
        self._proven: OrderedDict[KernelImage, FileIdentity] = OrderedDict()
        self._reading: dict[tuple[KernelImage, Algorithms], asyncio.Future[HashOutcome]] = {}
        self._fine_grained = _kernel_release() >= _FINE_GRAINED_SINCE
        self._mounts = Filesystems()

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
        # By now it may run another image, which lies anywhere.
        if blocks_image(self._guard, ran.pid):
            return None
        try:
            held = Descriptor(os.open(f"/proc/{ran.pid}/exe", _LOOK))
        except OSError:
            return None
        finally:
            self._guard.leave()
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
            # What lives on a file system that may never answer is left to the next sweep.
            alive = self._kind_of(ran.image.device) is None and os.path.exists(f"/proc/{ran.pid}")
            return Answer(PENDING if alive else GONE, Provenance.MISSING)
        future = self._engine.submit(held.open_for_reading, held.identity, algorithms)
        return Answer(self._read(ran.image, held, algorithms, future), provenance)

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
        if blocks_image(self._guard, pid):
            return Answer(PENDING, Provenance.MISSING)
        try:
            held = Descriptor(os.open(f"/proc/{pid}/exe", _LOOK))
        except OSError:
            return Answer(GONE, Provenance.MISSING)
        finally:
            self._guard.leave()
        if held.identity != identity:
            return Answer(GONE, Provenance.MISSING)
        future = self._engine.submit_image(pid, identity, algorithms, held=held)
        return Answer(self._read(image, held, algorithms, future), Provenance.PROC)

    def _at_path(self, ran: Ran) -> Descriptor | None:
        if ran.path is None or not ran.settled:
            return None
        self._guard.enter(Stage.IMAGE, 0, 0)
        try:
            found = follow(ran.path)
        except (UnicodeError, ValueError, DaemonEyeError):
            return None
        finally:
            self._guard.leave()
        if isinstance(found, Obstacle) or not self._is_same(ran.image, found.identity):
            return None
        return found

    def _read(
        self,
        image: KernelImage,
        held: Descriptor,
        algorithms: Algorithms,
        future: asyncio.Future[HashOutcome],
    ) -> asyncio.Future[HashOutcome]:
        self._proven[image] = held.identity
        self._proven.move_to_end(image)
        if len(self._proven) > MAX_PROVEN:
            self._proven.popitem(last=False)
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
            return (self._mounts.kind_of(identity.device) or "overlay") in _OWN_DEVICES
        return image.device == identity.device

    def _kind_of(self, device: int) -> str | None:
        """The type of a local file system; None for one that is not, or is not known."""
        return "tmpfs" if device == self._memory_device else self._mounts.kind_of(device)


class Filesystems:
    """The types of local file systems, by the kernel's device."""

    def __init__(self) -> None:
        self._table = MountTable()
        self._mounts: object = None
        self._kinds: dict[tuple[int, int], str] = {}

    def kind_of(self, device: int) -> str | None:
        """The type; None where no mount of ours shows it, or it may never answer."""
        try:
            mounts = self._table.mounts()
        except OSError:
            return None
        if mounts is not self._mounts:
            self._mounts = mounts
            self._kinds = {mount.device: mount.kind for mount in mounts if not mount.remote}
        return self._kinds.get((os.major(device), os.minor(device)))


def _kernel_release() -> tuple[int, int]:
    major, _, rest = os.uname().release.partition(".")
    minor = rest.partition(".")[0].partition("-")[0]
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else (0, 0)

"""Images as the task iterator names them, and as stat(2) does. One rule: one process's image is taken for
another's only where the kernel's numbers prove that it is the same file in the same state.

The iterator tells inode, size, times and name of every image, but the device that stat(2) reports is another
on btrfs and overlayfs, and whether a file still stands at its name has to be looked up. Both are asked
through /proc once per sweep for all processes that run the same file. Between the iterator's record and that
look a process may run something else, on purpose: then inode, size, times or name differ, and the look is
refused.
"""

from __future__ import annotations

import time
from typing import Final, NamedTuple
from weakref import WeakValueDictionary

import msgspec

from common.messages import HashState
from procmond.collect.images import NO_IMAGE, Image, Images, Verdict
from procmond.collect.sighting import FileIdentity
from procmond.collect.text import text
from procmond.events.facts import IMAGE_DELETED, TaskFacts

_DELETED: Final = b" (deleted)"


class _Witness(NamedTuple):
    """A process that was looked at through /proc."""

    process: tuple[int, int, int]
    """pid, start, exec id."""
    device: int
    """st_dev of its image then."""
    boot_ns: int
    """After the look."""
    sweep: int


class Place(msgspec.Struct, weakref=True):
    """One file in one state under one name, and what is known of it."""

    identity: FileIdentity
    """As the kernel has it: the device is s_dev."""
    name: bytes
    link: bytes
    """What /proc/PID/exe says of it: the name, with ` (deleted)` behind it when that is gone."""
    image: Image = NO_IMAGE
    """What was last seen through /proc."""
    device: int | None = None
    """st_dev, once it is proven."""
    witness: _Witness | None = None
    sweep: int = 0
    """The last in which `image` was seen to hold for every process here."""


class TaskImages:
    """Looks at what the iterator named."""

    def __init__(self, images: Images) -> None:
        self._images = images
        self._places: WeakValueDictionary[tuple[object, ...], Place] = WeakValueDictionary()
        self.sweep = 0
        """The number of the present sweep: what was seen in an earlier one is looked at again."""

    def begin(self) -> None:
        """A new sweep begins."""
        self.sweep += 1
        self._images.begin()

    def place(self, task: TaskFacts) -> Place:
        """Where the image of `task` is; HAS_IMAGE must be set. The same object for as long as it is held."""
        identity = FileIdentity(task.device, task.inode, task.size, task.mtime_ns, task.ctime_ns)
        link = task.path + _DELETED if task.flags & IMAGE_DELETED else task.path
        # Of two mount namespaces each may have another file system at the same place.
        key = (identity, link, task.mount_namespace)
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = Place(identity, task.path, link)
        return place

    def look(self, place: Place, task: TaskFacts, folder: bytes) -> Image:
        """The image of `task`, which was found at `place`; `folder` is its /proc/PID/.

        Raises:
            ProcessLookupError: by now it runs something else, or nothing.
        """
        image = self._images.look(folder, folder + b"exe", place.image)
        if image.identity is None:
            if image.state is HashState.NO_EXECUTABLE:
                raise ProcessLookupError(task.pid)
            return unseen(place, image.state)
        if image.link != place.link or image.identity[1:] != place.identity[1:]:
            raise ProcessLookupError(task.pid)
        device = image.identity.device
        if place.device is None:
            self._prove(place, task, device)
        elif device != place.device:
            place.device = place.witness = None
            raise ProcessLookupError(task.pid)
        if image == place.image:
            image = place.image  # one object for all sweeps, so that records made of it are known again
        place.image = image
        if place.device is not None and not image.verdict.on_disk_mismatch:
            place.sweep = self.sweep
        return image

    def _prove(self, place: Place, task: TaskFacts, device: int) -> None:
        """Where the kernel's device is another, a look tells what the process ran then, not whether that was
        still what the iterator had seen. The next record of the same process, with the same exec id, does.
        """
        process = task.pid, task.start_ns, task.exec_id
        witness = place.witness
        if device == place.identity.device:
            place.device = device
        elif witness is None or (witness.process != process and witness.sweep != self.sweep):
            now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            place.witness = _Witness(process, device, now, self.sweep)
        elif witness.process == process and witness.boot_ns < task.boot_ns:
            place.witness = None
            if witness.device == device:
                place.device = device


def unseen(place: Place, state: HashState) -> Image:
    """An image that cannot be looked at, for the reason `state`: the kernel has told its name."""
    verdict = Verdict(text(place.name), file_exists=False, on_disk_mismatch=False, memory_backed=False)
    return Image(state, None, verdict, place.link)

"""What collectors work with. One rule: what is the same for all of them is decided here, once."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import NamedTuple, TypedDict

from procmond.collect.arguments import Presenter
from procmond.collect.boot import read_boot_id, read_boot_time
from procmond.collect.environment import ENVIRONMENT_NAMES
from procmond.collect.guard import Guard
from procmond.collect.images import Images
from procmond.collect.mounts import find_memory_device
from procmond.collect.sighting import Redact
from procmond.collect.users import Users


class Given(TypedDict, total=False):
    """What a collector may be given; what is not has a default."""

    proc: str
    """Where the kernel shows processes; default /proc."""
    boot_time: int
    """Unix seconds, the server's, fixed once for its life; default: read now."""
    users: Users
    guard: Guard
    """Default: one that withholds nothing."""
    memory_device: int
    """st_dev of memfds; default: find out."""
    environment_names: Collection[str]
    """Variables that may be shown."""


class Means(NamedTuple):
    """What a collector has."""

    proc: str
    boot_id: str
    boot_time: int
    users: Users
    guard: Guard
    memory_device: int
    images: Images
    redact: Redact | None
    """Replaces secrets in arguments; None: they are shown."""
    presenter: Presenter
    environment_names: Collection[str]

    @property
    def linux(self) -> bool:
        """Whether `proc` is there and has the kernel's form."""
        return os.path.exists(f"{self.proc}/self/stat")

    def share(self) -> Given:
        """What another collector is to be given to work beside this one."""
        return Given(
            proc=self.proc,
            boot_time=self.boot_time,
            users=self.users,
            guard=self.guard,
            memory_device=self.memory_device,
            environment_names=self.environment_names,
        )


def make_means(redact: Redact | None, given: Given) -> Means:
    """Fill in what is not given."""
    proc = given.get("proc", "/proc")
    memory_device = given["memory_device"] if "memory_device" in given else find_memory_device()
    return Means(
        proc=proc,
        boot_id=read_boot_id(proc),
        boot_time=given["boot_time"] if "boot_time" in given else read_boot_time(),
        users=given["users"] if "users" in given else Users(),
        guard=given["guard"] if "guard" in given else Guard(),
        memory_device=memory_device,
        images=Images(proc, memory_device),
        redact=redact,
        presenter=Presenter(redact),
        environment_names=given.get("environment_names", ENVIRONMENT_NAMES),
    )

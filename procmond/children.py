"""What the two children are. One rule: each gives up its rights before it looks at anything from outside."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable

import msgspec

from common.accounts import Identity
from common.logs import get_logger
from procmond.collect.guard import Guard
from procmond.collect.service import serve as serve_collector
from procmond.collect.settings import CollectorSettings
from procmond.confine.roles import confine_collector, confine_front
from procmond.confinement import Confinement
from procmond.events.choice import Opened
from procmond.front.service import serve as serve_front
from procmond.front.settings import FrontSettings
from procmond.pulse import Pulse
from procmond.quarantine import Withheld

LoopFactory = Callable[[], asyncio.AbstractEventLoop] | None

_log = get_logger("procmond")


class Rights(msgspec.Struct, frozen=True):
    """What the children keep, decided by the supervisor before it confines itself."""

    required: bool = True
    """Whether a child that cannot confine itself ends instead of serving."""
    front: Identity | None = None
    """Whom the front becomes; None: it stays who it is."""
    front_group: int = 0
    collector_group: int = 0
    """Process groups by which the supervisor can end them."""


class Children:
    """Bodies of the two processes; each is called in a forked process and ends it by returning."""

    def __init__(self, rights: Rights, loops: LoopFactory, when_confined: Callable[[], None]) -> None:
        """`loops` makes their event loops; loaded by now, because a confined process loads no code.

        `when_confined` is called in each child once its rights are gone and before it serves.
        """
        self.rights = rights
        self._loops = loops
        self._when_confined = when_confined

    def front(self, listener: socket.socket, supervisor: socket.socket, settings: FrontSettings) -> None:
        """Be the front until told to end. Raises: ConfinementError."""
        rights = self.rights
        os.setpgid(0, rights.front_group)
        _keep_only(listener.fileno(), supervisor.fileno())
        uid, gid = rights.front or (None, None)
        confinement = confine_front(uid, gid, required=rights.required)
        _announce("front", confinement)
        self._when_confined()
        with asyncio.Runner(loop_factory=self._loops) as runner:
            settings = msgspec.structs.replace(settings, front=confinement)
            runner.run(serve_front(listener, supervisor, settings))

    def collector(
        self,
        line: socket.socket,
        settings: CollectorSettings,
        pulse: Pulse,
        withheld: Withheld,
        opened: Opened,
    ) -> None:
        """Be the collector until its line ends. Raises: ConfinementError."""
        rights = self.rights
        os.setpgid(0, rights.collector_group)
        _keep_only(line.fileno(), *opened.descriptors())
        confinement = confine_collector(required=rights.required)
        _announce("collector", confinement)
        self._when_confined()
        with asyncio.Runner(loop_factory=self._loops) as runner:
            runner.run(serve_collector(line, settings, Guard(pulse, withheld), confinement, opened))


def _keep_only(*descriptors: int) -> None:
    """Let go of every descriptor but the standard three and these.

    Else a child taken over would find the lock file, open for writing, and what procmond was started with.
    The numbers stay taken, by a pipe that has ended: an object that still believes one to be its own would
    otherwise close what came there after it.
    """
    ended, writer = os.pipe()
    os.close(writer)
    kept = {0, 1, 2, ended, *descriptors}
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        if descriptor not in kept:
            os.dup2(ended, descriptor, inheritable=False)


def _announce(child: str, confinement: Confinement) -> None:
    if confinement.missing:
        _log.warning("child_not_confined", child=child, missing=list(confinement.missing))

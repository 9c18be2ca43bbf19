"""The front as a process: accepts peers, hears the supervisor, ends in time. One rule: it owns sessions."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from typing import Final

import msgspec

from common import codec, limits
from common.channel import open_channel
from common.credentials import PeerCredentials, peer_credentials, peer_groups
from common.errors import Busy, Denied, ShuttingDown
from common.framing import encode_frame
from common.logs import get_logger
from common.messages import EventSource, Permission
from procmond import control
from procmond.front import answers
from procmond.front.admission import Admission
from procmond.front.relay import Relay
from procmond.front.session import Session
from procmond.front.settings import FrontSettings
from procmond.link import Hello

_REPORT_INTERVAL_S: Final = 1.0
"""How often the supervisor is told what an administrator wants to see, if it changed."""

_DESCRIPTORS_SHORT: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_ACCEPT_RETRY_S: Final = 0.1
"""Seconds to wait when the system has no descriptor for a new connection; the backlog keeps the peer."""

_log = get_logger("procmond.front")


class Front:
    """Everything one front process holds."""

    def __init__(self, listener: socket.socket, supervisor: socket.socket, settings: FrontSettings) -> None:
        self._listener = listener
        self._supervisor = supervisor
        self._admission = Admission(settings)
        self._greeted = asyncio.Event()
        self._limitations: tuple[str, ...] = ()
        """Said last."""
        self._relay = Relay(settings.max_frame_size, self._hello)
        self._sessions: set[Session] = set()
        self._ended = 0
        self._said: tuple[object, ...] = ()
        """What is known of the collector in the log."""
        self._stop = asyncio.Event()

    async def serve(self) -> None:
        """Answer peers until the supervisor says so, or is gone."""
        loop = asyncio.get_running_loop()
        self._supervisor.setblocking(False)
        self._listener.setblocking(False)
        loop.add_reader(self._supervisor.fileno(), self._hear)
        async with asyncio.TaskGroup() as group:
            self._group = group
            accepting = group.create_task(self._accept(), name="accept")
            reporting = group.create_task(self._report(), name="report")
            await self._stop.wait()
            accepting.cancel()
            reporting.cancel()
            await self._end_sessions()
        loop.remove_reader(self._supervisor.fileno())

    # -------------------------------------------------------------------------------------------- peers

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(self._listener)
            except OSError as error:
                if error.errno not in _DESCRIPTORS_SHORT:
                    raise
                _log.error("accept_failed", error=str(error))
                await asyncio.sleep(_ACCEPT_RETRY_S)
                continue
            self._admit(sock)

    def _admit(self, sock: socket.socket) -> None:
        """Let the peer in, or close before a byte of it is read."""
        try:
            peer = peer_credentials(sock)
            permission = self._admission.permission(peer.uid, {peer.gid, *peer_groups(sock)})
            self._admission.connect(peer.uid)
        except Denied:
            _log.warning("peer_denied", peer_uid=peer.uid, peer_gid=peer.gid, peer_pid=peer.pid)
            sock.close()
        except Busy as error:
            _log.warning("peer_turned_away", peer_uid=peer.uid, peer_pid=peer.pid, error=str(error))
            with contextlib.suppress(OSError):  # best effort: it is closed in any case
                sock.send(encode_frame(codec.encode_result(answers.failure("", error))))
            sock.close()
        except OSError as error:
            _log.warning("peer_lost", error=str(error))
            sock.close()
        else:
            name = f"session-{peer.uid}-{peer.pid}"
            self._group.create_task(self._converse(sock, peer, permission, self._admission), name=name)

    async def _examined(self, sock: socket.socket) -> None:
        """The supervisor asks whether we answer. It has limits of its own: peers who use up theirs keep
        nobody from telling a busy server from a dead one."""
        admission = Admission(self._admission.settings)
        peer = peer_credentials(sock)
        admission.connect(peer.uid)
        await self._converse(sock, peer, Permission.QUERY, admission)

    async def _converse(
        self, sock: socket.socket, peer: PeerCredentials, permission: Permission, admission: Admission
    ) -> None:
        settings = admission.settings
        try:
            channel = await open_channel(
                sock,
                max_frame_size=settings.max_frame_size,
                frame_deadline_s=settings.frame_deadline_s,
                stall_limit_s=settings.stall_limit_s,
            )
            session = Session(channel, peer, permission, admission, self._relay)
            self._sessions.add(session)
            if self._stop.is_set():  # it was let in while the others were told to end
                session.abort()
            try:
                await session.run()
            finally:
                self._sessions.discard(session)
                self._ended += session.answered
        finally:
            admission.disconnect(peer.uid)

    async def _end_sessions(self) -> None:
        reason = ShuttingDown("procmond is ending; reconnect and ask again")
        sessions = tuple(self._sessions)
        try:
            async with asyncio.timeout(limits.SHUTDOWN_GRACE_S):
                await asyncio.gather(*(session.end(reason) for session in sessions))
        except TimeoutError:
            _log.warning("sessions_abandoned", count=len(self._sessions))
        for session in tuple(self._sessions):
            session.abort()

    # --------------------------------------------------------------------------------------- supervisor

    def _hear(self) -> None:
        try:
            message, descriptor = control.receive(self._supervisor)
        except BlockingIOError:
            return
        except (control.Closed, ConnectionResetError):
            self._stop.set()  # nobody is left to serve for
            return
        if isinstance(message, control.NewCollector) and descriptor is not None:
            line = socket.socket(fileno=descriptor)
            line.setblocking(False)
            self._group.create_task(self._relay.attach(line), name="attach-collector")
        elif isinstance(message, control.Examine) and descriptor is not None:
            self._group.create_task(self._examined(socket.socket(fileno=descriptor)), name="self-check")
        elif isinstance(message, control.Configure):
            mine = self._admission.settings.front
            self._admission.settings = msgspec.structs.replace(message.settings, front=mine)
        elif isinstance(message, control.ShutDown):
            self._stop.set()

    def _hello(self, hello: Hello) -> None:
        events = hello.events
        said = (hello.collector, events.source, events.reason)
        if said != self._said:  # a greeting comes again whenever an account in it has changed
            self._said = said
            source = EventSource(events.source).name.lower()
            _log.info(
                "collector_ready",
                collector=hello.collector,
                event_source=source,
                event_source_reason=events.reason,
            )
        if hello.limitations != self._limitations:  # not again for each collector that replaces another
            self._limitations = hello.limitations
            # Not a warning: what a container cannot see is as it should be, and the agent tells in any case.
            _log.info("view_limited", limitations=list(hello.limitations))
        if not self._greeted.is_set():
            self._greeted.set()
            control.send(self._supervisor, control.Ready())

    async def _report(self) -> None:
        last: control.Report | None = None
        while True:
            await asyncio.sleep(_REPORT_INTERVAL_S)
            report = control.Report(
                connections=self._admission.connections,
                tasks=self._admission.tasks,
                answered=self._ended + sum(session.answered for session in self._sessions),
                refused=self._admission.refusals.total(),
            )
            if report != last:
                with contextlib.suppress(BlockingIOError):  # it is busy; the next report says as much
                    control.send(self._supervisor, report)
                last = report


async def serve(listener: socket.socket, supervisor: socket.socket, settings: FrontSettings) -> None:
    """Be the front until told to end."""
    await Front(listener, supervisor, settings).serve()

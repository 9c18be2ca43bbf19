"""Starts front and collector, replaces them, talks to the service manager. One rule: it does nothing else.

It is one thread that sleeps in poll and forks; there is no event loop here, because a fork must not copy a
running one. The children start from this process as it is, with everything imported, so replacing one needs
no file and no exec. Each ends when its line to us or to the other ends.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import selectors
import signal
import socket
import time
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from common.logs import get_logger
from common.service import Notifier, watchdog_interval
from procmond import control
from procmond.children import Children
from procmond.collect.settings import CollectorSettings
from procmond.events.choice import Opened
from procmond.front.settings import FrontSettings
from procmond.frontline import FrontLine
from procmond.pulse import LOOK_INTERVAL_S
from procmond.restarts import Restarts
from procmond.selfcheck import CHECKS_PER_WATCHDOG, DEFAULT_INTERVAL_S, SelfCheck
from procmond.watch import Watch

GRACE_S: Final = 4.3
"""Seconds from SIGTERM until children that are left are killed; the whole exit is promised within 5."""
_KILL_WAIT_S: Final = 0.3
"""Seconds a killed child has to be gone; one that hangs in the kernel is abandoned."""
_MAX_FAILED_STARTS: Final = 5
"""Children that end early in a row before anything was served, or fronts at any time: then the start, or
the service, has failed and the service manager decides."""

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_log = get_logger("procmond.supervisor")


class Child(NamedTuple):
    """A process we started."""

    name: str
    pid: int
    descriptor: int
    """Its pidfd: readable when it has ended (pidfd_open(2))."""
    began: float


class Supervisor:
    """The two children and what must outlive them."""

    def __init__(
        self,
        listener: socket.socket,
        front: FrontSettings,
        collector: CollectorSettings,
        opened: Opened,
        bodies: Children,
        reload: Callable[[], FrontSettings | None],
        notifier: Notifier,
    ) -> None:
        """`opened` is kept over all collectors, so that what one had not taken the next one gets.

        `reload` reads the configuration again for SIGHUP; None when it is no good, which it logged.
        """
        self._listener = listener
        self._front_settings = front
        self._collector_settings = collector
        self._opened = opened
        self._bodies = bodies
        self._reload = reload
        self._notifier = notifier
        self._notify = notifier.send
        self._selector = selectors.DefaultSelector()
        self._children: dict[str, Child] = {}
        self._abandoned: set[Child] = set()
        self._restarts = Restarts()
        self._served = False
        self._stop_at: float | None = None
        self._status = 0
        self._watch = Watch()
        interval = (watchdog_interval() or DEFAULT_INTERVAL_S * CHECKS_PER_WATCHDOG) / CHECKS_PER_WATCHDOG
        self._check = SelfCheck(notifier, self._selector, self._hand_over, interval)
        self._front = FrontLine(self._selector, self._heard, self._check.drop)

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT; 0, or 1 when the children cannot be kept running."""
        receiver, sender = socket.socketpair()
        for end in (receiver, sender):
            end.setblocking(False)
        previous = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, lambda *_: None)
        self._wakeup = (receiver, sender)
        self._selector.register(receiver, selectors.EVENT_READ, lambda: self._signalled(receiver))
        # What is loaded now lives as long as we do. Out of the collector's sight it stays shared with the
        # children: every look at an object writes to its page.
        gc.collect()
        gc.freeze()
        try:
            self._start("front")
            self._start("collector")
            while self._children or self._restarts:
                self._turn()
        finally:
            signal.set_wakeup_fd(previous)
            self._check.drop()
            self._selector.close()
            receiver.close()
            sender.close()
        return self._status

    # --------------------------------------------------------------------------------------------- loop

    def _turn(self) -> None:
        for key, _ in self._selector.select(self._timeout()):
            key.data()
        now = time.monotonic()
        for name in self._restarts.take(now):
            self._start(name)
        if self._checking():
            self._check.turn(now)
        if self._stop_at is not None and now >= self._stop_at:
            self._kill_all()
        collector = self._children.get("collector")
        if collector is not None and self._watch.stalled(collector.pid, now):
            self._replace(collector)

    def _checking(self) -> bool:
        somebody_listens = self._served and self._notifier.connected
        return somebody_listens and self._front.is_open and self._stop_at is None

    def _timeout(self) -> float:
        moments = [*self._restarts.moments(), time.monotonic() + LOOK_INTERVAL_S]
        if self._checking():
            moments.append(self._check.due)
        if self._stop_at is not None:
            moments.append(self._stop_at)
        return max(0.0, min(moments) - time.monotonic())

    def _signalled(self, receiver: socket.socket) -> None:
        for number in receiver.recv(64):
            if number == signal.SIGHUP:
                self._configure()
            else:
                self._stop(f"signal {signal.Signals(number).name}")

    def _configure(self) -> None:
        self._notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        settings = self._reload()
        if settings is not None:
            before = self._front_settings
            if settings.max_frame_size != before.max_frame_size:
                _log.warning(
                    "setting_needs_restart", key="limits.max_frame_size", in_force=before.max_frame_size
                )
            settings = msgspec.structs.replace(
                settings, supervisor=before.supervisor, max_frame_size=before.max_frame_size
            )
            self._front_settings = settings
            self._front.tell(control.Configure(settings))
        self._notify("READY=1")

    def _stop(self, reason: str) -> None:
        if self._stop_at is not None:
            return
        _log.info("procmond_stopping", reason=reason)
        self._notify("STOPPING=1")
        self._stop_at = time.monotonic() + GRACE_S
        self._restarts.cancel()
        self._check.drop()
        if "front" in self._children:
            # The collector ends when the front's end of its line is gone.
            self._front.tell(control.ShutDown())
        else:
            self._kill_all()

    # ----------------------------------------------------------------------------------------- children

    def _start(self, name: str) -> None:
        if name == "front":
            self._start_front()
        else:
            self._start_collector()

    def _start_front(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

        def body() -> None:
            ours.close()
            self._opened.close()
            self._bodies.front(self._listener, theirs, self._front_settings)

        self._fork("front", body)
        theirs.close()
        self._front.open(ours)

    def _start_collector(self) -> None:
        theirs, front = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)

        pulse = self._watch.begin()
        withheld = self._watch.withheld(time.monotonic())

        def body() -> None:
            front.close()
            self._listener.close()
            self._front.close_in_child()
            self._bodies.collector(theirs, self._collector_settings, pulse, withheld, self._opened)

        self._fork("collector", body)
        theirs.close()
        self._front.tell(control.NewCollector(), front.fileno())
        front.close()

    def _fork(self, name: str, body: Callable[[], None]) -> None:
        pid = os.fork()
        if pid == 0:
            self._be_child(name, body)
        descriptor = os.pidfd_open(pid)
        child = self._children[name] = Child(name, pid, descriptor, time.monotonic())
        self._selector.register(descriptor, selectors.EVENT_READ, lambda: self._ended(child))
        _log.info("child_started", child=name, pid=pid)

    def _be_child(self, name: str, body: Callable[[], None]) -> None:
        """In the child: never returns, whatever happens."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in _SIGNALS:
                # A terminal or a service manager signals all of us; only the supervisor decides what ends.
                signal.signal(number, signal.SIG_IGN)
            for child in (*self._children.values(), *self._abandoned):
                os.close(child.descriptor)
            for end in self._wakeup:
                end.close()
            self._selector.close()
            self._check.close_in_child()
            self._notifier.close()
            body()
            status = 0
        except Exception as error:  # noqa: BLE001 - the last frame of a process: said, then ended with status 1
            _log.error("child_failed", child=name, exc_info=error)
        finally:
            os._exit(status)

    def _ended(self, child: Child) -> None:
        if self._children.get(child.name) is not child:
            return  # killed and reaped by what was handled just before
        self._selector.unregister(child.descriptor)
        os.close(child.descriptor)
        _, status = os.waitpid(child.pid, 0)
        del self._children[child.name]
        if child.name == "front":
            self._front.drop()
        if self._stop_at is not None:
            return
        failures = self._restarts.ended(child.name, began=child.began, now=time.monotonic())
        _log.error("child_ended", child=child.name, pid=child.pid, status=os.waitstatus_to_exitcode(status))
        if failures >= _MAX_FAILED_STARTS and (child.name == "front" or not self._served):
            self._status = 1
            self._stop(f"the {child.name} cannot be kept running")

    def _kill_all(self) -> None:
        for child in tuple(self._children.values()):
            if self._kill(child):
                self._ended(child)
            else:
                self._abandon(child)

    def _replace(self, collector: Child) -> None:
        """A read of the collector does not come back: end it, and start one that leaves the culprit alone."""
        if self._kill(collector):
            self._ended(collector)
        else:
            self._abandon(collector)
        if self._stop_at is None:
            self._restarts.start_now("collector", time.monotonic())

    def _kill(self, child: Child) -> bool:
        """Whether it is gone; one that hangs in the kernel may not be."""
        rights = self._bodies.rights
        group = rights.front_group if child.name == "front" else rights.collector_group
        # By group, as the system call filter pins it; the front may have a uid of its own, out of reach.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
        poll = select.poll()
        poll.register(child.descriptor, select.POLLIN)
        return bool(poll.poll(_KILL_WAIT_S * 1000))

    def _abandon(self, child: Child) -> None:
        _log.error("child_abandoned", child=child.name, pid=child.pid)
        del self._children[child.name]
        self._abandoned.add(child)
        self._watch.abandoned()
        self._selector.modify(child.descriptor, selectors.EVENT_READ, lambda: self._freed(child))

    def _freed(self, child: Child) -> None:
        """What an abandoned one waited for has answered, or is gone: it has ended after all."""
        self._selector.unregister(child.descriptor)
        os.close(child.descriptor)
        os.waitpid(child.pid, 0)
        self._abandoned.remove(child)
        _log.info("abandoned_child_ended", child=child.name, pid=child.pid)
        present = self._children.get("collector")
        if self._watch.freed() and present is not None and self._stop_at is None:
            self._replace(present)

    # -------------------------------------------------------------------------------------------- front

    def _heard(self, message: control.ControlMessage) -> None:
        if isinstance(message, control.Ready) and not self._served:
            self._served = True
            _log.info("procmond_ready")
            self._notify("READY=1")
        elif isinstance(message, control.Report):
            self._check.clients = message.connections

    def _hand_over(self, descriptor: int) -> None:
        self._front.tell(control.Examine(), descriptor)

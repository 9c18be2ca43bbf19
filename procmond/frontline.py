"""The supervisor's end of its line to the front. One rule: whatever a front says, the supervisor goes on."""

from __future__ import annotations

import os
import selectors
import socket
from collections.abc import Callable

from common.errors import MessageError
from common.logs import get_logger
from procmond import control

_log = get_logger("procmond.supervisor")


class FrontLine:
    """The line to the front there is now, if there is one."""

    def __init__(
        self,
        selector: selectors.BaseSelector,
        heard: Callable[[control.ControlMessage], None],
        dropped: Callable[[], None],
    ) -> None:
        """`heard` gets each message, `dropped` is called before the line is let go of."""
        self._selector = selector
        self._heard = heard
        self._dropped = dropped
        self._socket: socket.socket | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is a front to speak to."""
        return self._socket is not None

    def open(self, ours: socket.socket) -> None:
        """Take over our end of a new line."""
        ours.setblocking(False)
        self._socket = ours
        self._selector.register(ours, selectors.EVENT_READ, self._hear)

    def tell(self, message: control.ControlMessage, descriptor: int | None = None) -> None:
        """Say it, with a copy of the descriptor; a front that is ending need not hear it."""
        if self._socket is None:
            return
        try:
            control.send(self._socket, message, descriptor)
        except OSError as error:  # it is ending; what follows is decided when it has
            _log.warning("front_not_told", message=type(message).__name__, error=str(error))

    def drop(self) -> None:
        """Let go of the line, if there is one: the front then ends."""
        self._dropped()
        if self._socket is not None:
            self._selector.unregister(self._socket)
            self.close_in_child()

    def close_in_child(self) -> None:
        """In a forked child, whose copy of the selector is not the supervisor's."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _hear(self) -> None:
        if self._socket is None:
            return
        try:
            message, descriptor = control.receive(self._socket)
        except BlockingIOError:
            return
        except (control.Closed, ConnectionResetError):
            self.drop()
            return
        except MessageError as error:
            _log.error("front_not_understood", error=str(error))
            return
        if descriptor is not None:
            os.close(descriptor)  # it has none to give; a front taken over could fill our table with them
        self._heard(message)

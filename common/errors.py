"""Every error DaemonEye raises on purpose. One rule: the name says what happened, the class whose fault.

DaemonEyeError
+-- PeerError                     the other side broke the contract; its connection is closed
|   +-- FrameError
|   |   +-- FrameEmpty            length 0
|   |   +-- FrameTooLarge         length above the limit
|   |   +-- ChecksumMismatch      CRC-32C differs
|   |   +-- FrameTruncated        the stream ended inside a frame
|   |   +-- FrameTimeout          a frame that began was not complete in time
|   |   +-- ReaderStalled         takes nothing while we have something to write
|   +-- MessageError
|       +-- TaskIdError           a task_id under which nothing can be answered
|       +-- DecodeError           the payload is not the message it should be
|       +-- SequenceError         an answer's frames are not 0, 1, 2, ...
|       +-- EventOrderError       a live stream's events are not numbered upwards
+-- TaskError                     a task ended with a typed refusal; `code` goes over the wire
|   +-- InvalidTask               field, value, bound
|   +-- Unsupported, Denied, Busy, DeadlineExceeded, Cancelled, TooLarge, NotFound, Refused,
|       ShuttingDown, ProtocolViolation, InternalError
+-- ConfigError                   wrong usage or configuration: exit status 2
|   +-- AlreadyRunning            another instance holds the lock
+-- Unreachable                   who, where, what to try: exit status 3
|   +-- UntrustedServer           the socket's owner is not who it should be
+-- ConnectionLost                the connection ended with work in flight
+-- CircuitOpen                   not tried: too many failures, and not yet time
+-- ConfinementError              a process could not give up its rights
"""

from __future__ import annotations

from common.messages import ErrorCode


class DaemonEyeError(Exception):
    """Base of all; `str()` is one line for a person."""


class PeerError(DaemonEyeError):
    """The other side broke the contract."""


class FrameError(PeerError):
    """Bytes that are not a frame of ours."""


class FrameEmpty(FrameError):
    """A frame of length 0: no message encodes to nothing."""

    def __init__(self) -> None:
        super().__init__("frame of length 0; a payload has at least 1 byte")


class FrameTooLarge(FrameError):
    """The announced or offered length is above the limit."""

    def __init__(self, length: int, limit: int) -> None:
        super().__init__(f"frame of {length} bytes; the limit is {limit}")
        self.length = length
        self.limit = limit


class ChecksumMismatch(FrameError):
    """The payload's CRC-32C is not the one in the header."""

    def __init__(self, expected: int, actual: int) -> None:
        super().__init__(f"checksum {actual:#010x}; the header says {expected:#010x}")
        self.expected = expected
        self.actual = actual


class FrameTruncated(FrameError):
    """The stream ended inside a frame."""

    def __init__(self, received: int, expected: int) -> None:
        super().__init__(f"stream ended after {received} of {expected} bytes of a frame")
        self.received = received
        self.expected = expected


class FrameTimeout(FrameError):
    """A frame that began was not complete in time."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"frame not complete {seconds:g} s after its first byte")
        self.seconds = seconds


class ReaderStalled(FrameError):
    """The peer took nothing for too long while we had something to write."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"peer took nothing for {seconds:g} s")
        self.seconds = seconds


class MessageError(PeerError):
    """A frame whose payload breaks the contract."""


class TaskIdError(MessageError):
    """A task_id that is empty, too long, or in flight already: nothing can be answered under it."""


class DecodeError(MessageError):
    """The payload does not decode as the message expected."""

    def __init__(self, message: str, detail: str) -> None:
        super().__init__(f"not a {message}: {detail}")
        self.message = message
        self.detail = detail


class SequenceError(MessageError):
    """A frame of an answer is missing, repeated, or follows the last one."""

    def __init__(self, task_id: str, expected: int, actual: int) -> None:
        super().__init__(f"task {task_id!r}: frame {actual} where {expected} was due")
        self.task_id = task_id
        self.expected = expected
        self.actual = actual


class EventOrderError(MessageError):
    """An event's number was there already, or is below one that was."""

    def __init__(self, expected: int, actual: int) -> None:
        super().__init__(f"event {actual} of a live stream where {expected} or more was due")
        self.expected = expected
        self.actual = actual


class TaskError(DaemonEyeError):
    """A task ended with a typed refusal. `code` is what goes over the wire; `str()` is `error_message`."""

    code = ErrorCode.UNSPECIFIED


class InvalidTask(TaskError):
    """The task contradicts itself or breaks a bound."""

    code = ErrorCode.INVALID

    def __init__(self, field: str, value: object, bound: str) -> None:
        super().__init__(f"{field}: {value}; {bound}" if bound else field)
        self.field = field
        self.value = value
        self.bound = bound


class Unsupported(TaskError):
    """A task type, option or algorithm this server does not know."""

    code = ErrorCode.UNSUPPORTED


class Denied(TaskError):
    """This peer may not ask this."""

    code = ErrorCode.DENIED


class Busy(TaskError):
    """A limit on work in flight is reached; try again."""

    code = ErrorCode.BUSY


class DeadlineExceeded(TaskError):
    """The deadline passed; what was sent before it is valid."""

    code = ErrorCode.DEADLINE


class Cancelled(TaskError):
    """The client cancelled the task."""

    code = ErrorCode.CANCELLED


class TooLarge(TaskError):
    """The answer does not fit one frame and the client did not ask for a stream."""

    code = ErrorCode.TOO_LARGE


class NotFound(TaskError):
    """The target does not exist, or no longer."""

    code = ErrorCode.NOT_FOUND


class Refused(TaskError):
    """A path that root will not open."""

    code = ErrorCode.REFUSED


class ShuttingDown(TaskError):
    """The server is ending."""

    code = ErrorCode.SHUTTING_DOWN


class ProtocolViolation(TaskError):
    """The server says that we broke the contract, and closes the connection."""

    code = ErrorCode.PROTOCOL


class InternalError(TaskError):
    """The server's own fault."""

    code = ErrorCode.INTERNAL


class ConfigError(DaemonEyeError):
    """Wrong usage or configuration; the line names file or flag, key and expectation. Exit status 2."""


class AlreadyRunning(ConfigError):
    """Another instance holds the lock."""


class Unreachable(DaemonEyeError):
    """Nobody answers. Exit status 3."""

    def __init__(self, who: str, where: str, remedy: str) -> None:
        super().__init__(f"cannot reach {who} at {where}: {remedy}")
        self.who = who
        self.where = where
        self.remedy = remedy


class UntrustedServer(Unreachable):
    """Somebody answers who is not the server we were told to expect."""


class ConnectionLost(DaemonEyeError):
    """The connection ended with work in flight."""


class CircuitOpen(DaemonEyeError):
    """Not tried: too many failures in a row, and it is not yet time for the next attempt."""


class ConfinementError(DaemonEyeError):
    """A process could not give up the rights it must not keep."""


_BY_CODE: dict[int, type[TaskError]] = {
    kind.code: kind
    for kind in (
        Unsupported,
        Denied,
        Busy,
        DeadlineExceeded,
        Cancelled,
        TooLarge,
        NotFound,
        Refused,
        ShuttingDown,
        ProtocolViolation,
        InternalError,
    )
}


def error_for(code: int, message: str) -> TaskError:
    """The typed error a DetectionResult stands for.

    `code` is its `error_code`; one this version does not know, or none at all (servers that speak only the
    specification), gives a plain `TaskError`. `message` is its `error_message`.
    """
    if code == ErrorCode.INVALID:
        field, _, rest = message.partition(": ")
        value, _, bound = rest.rpartition("; ")
        # A server that words it otherwise is quoted whole.
        return InvalidTask(field, value, bound) if value and bound else InvalidTask(message, "", "")
    return _BY_CODE.get(code, TaskError)(message)

"""Structured logs: one JSON object per line on stderr, for journald. One rule: logging never ends the daemon.

    log = get_logger(__name__)
    log.info("task_expired", deadline_s=30.0)

`event` is a noun and a verb. What holds for a whole task or connection (task_id, peer) is bound once, with
`structlog.contextvars.bound_contextvars`. An exception (`exc_info=True`, or one nobody caught) is rendered as
its type, its message and where it was raised; the traceback is there only at level debug. A line that cannot
be written is counted, and the count is logged as soon as writing works again.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import sys
import traceback
from types import TracebackType
from typing import Any, Final, Literal, cast

import structlog
from structlog.typing import EventDict, ExcInfo, FilteringBoundLogger, WrappedLogger

Level = Literal["debug", "info", "warning", "error"]

STDERR: Final = 2

_PRIORITIES: Final = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
"""sd-daemon(3): a line that goes to the journal may begin with one, in angle brackets."""

MAX_TEXT_CHARACTERS: Final = 2048
"""Of one value. Journald cuts lines at 48 KiB (LineMax=), and a cut line is no JSON."""

MAX_TRACEBACK_CHARACTERS: Final = 16_384
"""Of a traceback, its end: the innermost frames say most."""


def get_logger(name: str) -> FilteringBoundLogger:
    """A logger whose lines carry `logger`: pass `__name__`."""
    return cast("FilteringBoundLogger", structlog.get_logger(logger_name=name))


def configure(level: Level, component: str) -> None:
    """Send every log line of this process to stderr as JSON; may be called again (after a fork, on reload).

    `component` names the process (`procmond.front`). The standard library's logging and uncaught exceptions
    go the same way, so that stderr holds nothing but JSON lines.
    """
    _occupy_standard_descriptors()
    _WRITER.to_journal = _is_journal(STDERR)
    threshold = getattr(logging, level.upper())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _Finisher(component, with_traceback=level == "debug"),
            structlog.processors.JSONRenderer(serializer=json.dumps, default=repr),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=lambda *_: _WRITER,
        # Loggers live at module level: a cached one would keep the level and component of its first use.
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_Bridge()], level=max(threshold, logging.INFO), force=True)
    sys.excepthook = _log_uncaught


def _occupy_standard_descriptors() -> None:
    """Open /dev/null for any of 0, 1, 2 that is closed: else the next socket or file would become stderr."""
    for descriptor in range(STDERR + 1):
        try:
            fcntl.fcntl(descriptor, fcntl.F_GETFD)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is `descriptor`


def _is_journal(descriptor: int) -> bool:
    """Whether the service manager connected `descriptor` to the journal (systemd.exec(5), JOURNAL_STREAM)."""
    status = os.fstat(descriptor)
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class _Writer:
    """Writes lines to descriptor 2 as they come, unbuffered; see the module's rule."""

    def __init__(self) -> None:
        self._lost = 0
        self.to_journal = False
        """Whether lines begin with the priority that makes `journalctl -p warning` work."""

    def debug(self, line: str) -> None:
        self._put(line, "debug")

    def info(self, line: str) -> None:
        self._put(line, "info")

    def warning(self, line: str) -> None:
        self._put(line, "warning")

    def error(self, line: str) -> None:
        self._put(line, "error")

    def critical(self, line: str) -> None:
        self._put(line, "critical")

    msg = info  # structlog calls the method named after the level, or this

    def _put(self, line: str, level: str) -> None:
        if self._lost:
            notice = {"event": "log_lines_lost", "count": self._lost, "level": "warning", "logger": __name__}
            if not self._write(self._marked(json.dumps(notice), "warning")):
                self._lost += 1
                return
            self._lost = 0
        if not self._write(self._marked(line, level)):
            self._lost += 1

    def _marked(self, line: str, level: str) -> str:
        return f"<{_PRIORITIES[level]}>{line}" if self.to_journal else line

    @staticmethod
    def _write(line: str) -> bool:
        data = line.encode() + b"\n"
        try:
            while data:
                data = data[os.write(STDERR, data) :]
        except OSError:  # nobody reads (EPIPE), closed (EBADF), full (EAGAIN, ENOSPC): nothing to be done
            return False
        return True


_WRITER: Final = _Writer()


class _Finisher:
    """The last processor before rendering: component, exception, bounded texts."""

    def __init__(self, component: str, *, with_traceback: bool) -> None:
        self._component = component
        self._with_traceback = with_traceback

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        for key, value in event.items():
            if isinstance(value, str) and len(value) > MAX_TEXT_CHARACTERS:
                event[key] = f"{value[:MAX_TEXT_CHARACTERS]}... ({len(value)} characters)"
        event["component"] = self._component
        # Under its short name from here on: structlog's own functions have a parameter called `logger`.
        event["logger"] = event.pop("logger_name", "")
        if (error := _exception_of(event.pop("exc_info", None))) is not None:
            event.update(describe(error))
            if self._with_traceback:
                event["traceback"] = "".join(traceback.format_exception(error))[-MAX_TRACEBACK_CHARACTERS:]
        return event


def _exception_of(exc_info: ExcInfo | BaseException | bool | None) -> BaseException | None:
    """What the many things `exc_info` may be come down to."""
    if isinstance(exc_info, BaseException):
        return exc_info
    if isinstance(exc_info, tuple):
        return exc_info[1]
    return sys.exception() if exc_info else None


def describe(error: BaseException) -> dict[str, str]:
    """`error` in a line: `error_type`, `error`, and `error_at` (file:line) if it was raised.

    Of a group, as task groups raise, it is the first error inside that tells what happened.
    """
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    fields = {"error_type": type(error).__name__, "error": str(error)[:MAX_TEXT_CHARACTERS]}
    if frames := traceback.extract_tb(error.__traceback__, limit=-1):
        fields["error_at"] = f"{frames[-1].filename}:{frames[-1].lineno}"
    return fields


class _Bridge(logging.Handler):
    """Hands what asyncio and other libraries log to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log the record as `library_logged`, with its own logger's name."""
        fields: dict[str, Any] = {"message": record.getMessage()}
        if record.exc_info:
            fields["exc_info"] = record.exc_info
        # structlog knows the five standard levels only; a library may have made its own.
        level = min(record.levelno // 10 * 10, logging.CRITICAL)
        get_logger(record.name).log(level, "library_logged", **fields)


def _log_uncaught(
    _kind: type[BaseException], error: BaseException, _traceback: TracebackType | None, /
) -> None:
    get_logger(__name__).critical("process_crashed", exc_info=error)

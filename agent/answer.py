"""A whole answer, merged from its frames. One rule: an answer that is not whole says so in `error`. Pure."""

from __future__ import annotations

import msgspec

from common.errors import TaskError, error_for
from common.messages import (
    CapabilityResponse,
    CollectionSummary,
    DetectionResult,
    ErrorCode,
    ExecutableReport,
    HashResult,
    ProcessEvent,
    ProcessRecord,
)

PARTIAL = frozenset({ErrorCode.DEADLINE, ErrorCode.CANCELLED, ErrorCode.SHUTTING_DOWN})
"""Errors after which the frames sent before stay valid."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What procmond said to one task.

    `summary` is None and `boot_id` empty when the server knows only the specification. `error` is set when
    the answer ended early (deadline, cancel, shutdown): what is here is valid, and not all.
    """

    processes: tuple[ProcessRecord, ...] = ()
    hash_result: HashResult | None = None
    executables: tuple[ExecutableReport, ...] = ()
    events: tuple[ProcessEvent, ...] = ()
    summary: CollectionSummary | None = None
    boot_id: str = ""
    capability_response: CapabilityResponse | None = None
    error: TaskError | None = None


class Merger:
    """Takes the frames of one answer in order; a singular field keeps the last value, as in protobuf."""

    def __init__(self) -> None:
        self._processes: list[ProcessRecord] = []
        self._executables: list[ExecutableReport] = []
        self._events: list[ProcessEvent] = []
        self._hash_result: HashResult | None = None
        self._summary: CollectionSummary | None = None
        self._capability_response: CapabilityResponse | None = None
        self._boot_id = ""
        self._error: TaskError | None = None

    def add(self, frame: DetectionResult) -> None:
        """Take the next frame; a last one without success means that the answer ended early."""
        self._processes += frame.processes
        self._executables += frame.executables
        self._events += frame.events
        self._hash_result = frame.hash_result or self._hash_result
        self._summary = frame.summary or self._summary
        self._capability_response = frame.capability_response or self._capability_response
        self._boot_id = frame.boot_id or self._boot_id
        if not (frame.success or frame.more):
            self._error = failure_of(frame)

    def answer(self) -> Answer:
        """All that was added."""
        return Answer(
            processes=tuple(self._processes),
            hash_result=self._hash_result,
            executables=tuple(self._executables),
            events=tuple(self._events),
            summary=self._summary,
            boot_id=self._boot_id,
            capability_response=self._capability_response,
            error=self._error,
        )


def failure_of(frame: DetectionResult) -> TaskError:
    """The typed error that a frame without success stands for."""
    return error_for(frame.error_code, frame.error_message or "procmond gave no reason")

"""Merger: one answer out of its frames."""

from __future__ import annotations

from agent.answer import Answer, Merger
from common.errors import DeadlineExceeded, TaskError
from common.messages import (
    CapabilityResponse,
    CollectionSummary,
    DetectionResult,
    ErrorCode,
    ExecutableReport,
    HashResult,
    ProcessEvent,
    ProcessRecord,
    failure,
)


def merged(*frames: DetectionResult) -> Answer:
    merger = Merger()
    for frame in frames:
        merger.add(frame)
    return merger.answer()


def test_repeated_fields_are_joined_in_order_and_singular_ones_keep_the_last() -> None:
    records = [ProcessRecord(pid=pid) for pid in (3, 1, 2)]
    reports = [ExecutableReport(path=path) for path in ("/b", "/a")]
    answer = merged(
        DetectionResult(success=True, processes=(records[0],), boot_id="boot", executables=(reports[0],)),
        DetectionResult(success=True, processes=(records[1], records[2]), events=(ProcessEvent(pid=9),)),
        DetectionResult(
            success=True,
            executables=(reports[1],),
            summary=CollectionSummary(processes_seen=3),
            hash_result=HashResult(success=True),
            capability_response=CapabilityResponse(protocol_version=1),
        ),
    )
    assert answer == Answer(
        processes=tuple(records),
        executables=tuple(reports),
        events=(ProcessEvent(pid=9),),
        summary=CollectionSummary(processes_seen=3),
        hash_result=HashResult(success=True),
        capability_response=CapabilityResponse(protocol_version=1),
        boot_id="boot",
    )


def test_a_frame_without_success_becomes_the_typed_error() -> None:
    answer = merged(
        DetectionResult(success=True, processes=(ProcessRecord(pid=1),)),
        failure("", "30 s passed", ErrorCode.DEADLINE),
    )
    assert isinstance(answer.error, DeadlineExceeded)
    assert str(answer.error) == "30 s passed"
    assert len(answer.processes) == 1


def test_a_failure_that_gives_no_reason_says_so() -> None:
    answer = merged(DetectionResult())
    assert type(answer.error) is TaskError
    assert str(answer.error) == "procmond gave no reason"

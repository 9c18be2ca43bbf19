"""What the front says itself. One rule: every answer ends with a summary, even a refusal.

Fields are added to the collector's bytes by appending: concatenated protobuf messages merge, and the last
value of a field that is not repeated wins.
"""

from __future__ import annotations

from typing import Final

from common import __version__, codec, limits
from common.errors import TaskError
from common.messages import (
    AdvancedCapabilities,
    CapabilityResponse,
    CollectionCapabilities,
    CollectionSummary,
    DetectionResult,
    DetectionTask,
    ErrorCode,
    EventSource,
    Loss,
    MonitoringDomain,
    Permission,
    ProcessEventKind,
    TaskType,
)
from procmond.front import dispatch
from procmond.front.admission import Admission
from procmond.front.relay import Relay
from procmond.front.settings import FrontSettings
from procmond.link import Hello, SourceReport

OWN_FIELDS_BYTES: Final = 256
"""Room left in a frame for task_id (3 + 128), sequence (7), more (3) and nothing else."""


def complete(body: bytes, task_id: str, sequence: int, *, more: bool) -> bytes:
    """The collector's frame with what only the front knows."""
    return body + codec.encode_envelope(task_id, sequence, more=more)


def override(error: TaskError, summary: CollectionSummary | None = None) -> bytes:
    """What turns an answer's last frame into one that ended for `error`."""
    return codec.encode_result(
        DetectionResult(error_code=ErrorCode(error.code), error_message=_sentence(error), summary=summary)
    )


def failure(task_id: str, error: TaskError) -> DetectionResult:
    """A refusal."""
    return DetectionResult(
        task_id=task_id,
        error_code=ErrorCode(error.code),
        error_message=_sentence(error),
        summary=CollectionSummary(),
    )


def nothing(task: DetectionTask) -> DetectionResult:
    """Success, and nothing to say: a cancellation, or the reference's old negotiation."""
    return DetectionResult(task_id=task.task_id, success=True, summary=CollectionSummary())


def is_legacy_negotiation(task: DetectionTask) -> bool:
    """Whether this is how clients of the reference ask for capabilities (DESIGN 2.3)."""
    return (
        task.task_type == TaskType.ENUMERATE_PROCESSES
        and task.metadata == limits.LEGACY_NEGOTIATION_MARKER
        and task.process_filter is None
        and task.options is None
    )


def capabilities(
    task: DetectionTask, relay: Relay, admission: Admission, permission: Permission
) -> DetectionResult:
    """What this server can do for this peer, and in the summary what it refused and lost since it started."""
    hello = relay.hello
    events = hello.events if hello else SourceReport()
    source = EventSource(events.source)
    settings = admission.settings
    response = CapabilityResponse(
        negotiation_success=True,
        capabilities=CollectionCapabilities(
            supported_domains=(MonitoringDomain.PROCESS,),
            advanced=_advanced(source),
        ),
        server_version=__version__,
        protocol_version=limits.PROTOCOL_VERSION,
        task_types=dispatch.answered(),
        digests=hello.digests if hello else (),
        event_source=source,
        event_source_reason=_reason(events),
        max_frame_size=settings.max_frame_size,
        max_tasks_in_flight=settings.max_tasks_per_connection,
        retained_capabilities=_retained(settings, hello),
        confined=all(
            (settings.supervisor.filtered, settings.front.filtered, hello is not None and hello.confined)
        ),
        collector=hello.collector if hello else "",
        permission=permission,
        limitations=hello.limitations if hello else ("no collector is running at the moment",),
    )
    losses = admission.refusals + relay.losses
    return DetectionResult(
        task_id=task.task_id,
        success=True,
        capability_response=response,
        boot_id=hello.boot_id if hello else "",
        summary=CollectionSummary(
            losses=(
                *(Loss(reason=reason, count=count) for reason, count in sorted(losses.items())),
                *(
                    Loss(reason=reason, count=count, kind=ProcessEventKind(kind))
                    for reason, kind, count in events.losses
                ),
            ),
            events_delivered=events.delivered,
            events_lost=sum(count for _, _, count in events.losses),
            boot_time=hello.boot_time if hello else 0,
        ),
    )


def _retained(settings: FrontSettings, hello: Hello | None) -> tuple[str, ...]:
    """What any of the three processes kept, each once."""
    of_collector = hello.retained_capabilities if hello else ()
    kept = (*settings.supervisor.capabilities, *settings.front.capabilities, *of_collector)
    return tuple(sorted(set(kept)))


def _reason(events: SourceReport) -> str:
    """Why there is no better source, and what this one and its subscribers lost."""
    parts = [events.reason] if events.reason else []
    if events.losses:
        named = (
            f"{count} {ProcessEventKind(kind).name.lower()} ({reason})"
            for reason, kind, count in events.losses
        )
        parts.append(f"events lost since this collector began: {', '.join(named)}")
    return "; ".join(parts)


def _advanced(source: EventSource) -> AdvancedCapabilities:
    """What live events are good for: only the kernel tells of everything, and as it happens."""
    from_kernel = source in (EventSource.EBPF, EventSource.PROCESS_CONNECTOR)
    return AdvancedCapabilities(kernel_level=from_kernel, realtime=from_kernel, system_wide=True)


def _sentence(error: TaskError) -> str:
    return str(error)[: limits.MAX_ERROR_MESSAGE_BYTES]

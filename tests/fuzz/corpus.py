"""Valid inputs for the targets of the wire. One rule: every message type and every kind of field occurs."""

from __future__ import annotations

from typing import Final

from common import codec
from common.messages import (
    AdvancedCapabilities,
    CapabilityRequest,
    CapabilityResponse,
    CollectionCapabilities,
    CollectionOptions,
    CollectionSummary,
    DetectionResult,
    DetectionTask,
    Digest,
    EnvironmentVariable,
    ErrorCode,
    ExecutableReport,
    FieldProvenance,
    Gap,
    HashCheck,
    HashResult,
    Loss,
    MonitoringDomain,
    ProcessEvent,
    ProcessEventKind,
    ProcessFilter,
    ProcessRecord,
    Provenance,
    TaskType,
    new_enumerate_task,
    new_hash_check_task,
)

_RECORD: Final = ProcessRecord(
    pid=4711,
    ppid=1,
    name="sshd",
    executable_path="/usr/sbin/sshd",
    command_line=("sshd", "-D", ""),
    start_time=1_700_000_000,
    cpu_usage=0.5,
    memory_usage=2**40,
    start_ticks=2**63,
    digests=(Digest(algorithm="md5", value="d41d8cd98f00b204e9800998ecf8427e"),),
    exceptions=(FieldProvenance(field=5, provenance=Provenance.MISSING, reason="cut"),),
    environment=(EnvironmentVariable(name="LD_PRELOAD", value="/tmp/x.so"),),
    reparented=False,
)

_LOSS: Final = Loss(reason="kernel_ring_full", count=3, kind=ProcessEventKind.EXEC)

TASKS: Final = tuple(
    codec.encode_task(task)
    for task in (
        DetectionTask(task_id="t1"),
        new_enumerate_task(
            "enum-001",
            ProcessFilter(
                process_names=("firefox", "é"), pids=(1, 4_194_304), executable_pattern="/usr/[!b]*"
            ),
            stream=True,
            deadline_ms=30_000,
            options=CollectionOptions(digests=("sha512", "md5"), hash_budget_ms=9, environment=True),
        ),
        new_hash_check_task(
            "h", HashCheck(expected_hash="ab" * 32, hash_algorithm="sha256", executable_path="/bin/true")
        ),
        new_hash_check_task("p", HashCheck(), ProcessFilter(pids=(7, 8))),
        DetectionTask(
            task_id="m",
            task_type=TaskType.MONITOR_PROCESS_TREE,
            stream=True,
            options=CollectionOptions(live=True, event_kinds=(3, 4, 5)),
        ),
        DetectionTask(task_id="c", task_type=TaskType.CANCEL_TASK, target_task_id="m"),
        DetectionTask(
            task_id="n",
            task_type=TaskType.NEGOTIATE_CAPABILITIES,
            capability_request=CapabilityRequest(
                client_id="fuzz", requested_domains=(0, 1), client_version="1", protocol_version=1
            ),
        ),
        DetectionTask(task_id="u", task_type=55, metadata="capability_negotiation"),
    )
)

RESULTS: Final = tuple(
    codec.encode_result(result)
    for result in (
        DetectionResult(
            task_id="t1",
            success=True,
            processes=(_RECORD, ProcessRecord(pid=2)),
            more=True,
            sequence=1,
            boot_id="b",
        ),
        DetectionResult(
            task_id="e",
            error_code=ErrorCode.DEADLINE,
            error_message="late",
            summary=CollectionSummary(processes_seen=5, duration_us=2**40, losses=(_LOSS,), boot_time=-1),
        ),
        DetectionResult(
            hash_result=HashResult(hash_value="ab", algorithm="sha256", success=True, error_message="x"),
            executables=(ExecutableReport(path="/bin/true", running_pids=(1, 2, 3), modified_ns=-5),),
        ),
        DetectionResult(
            events=(
                ProcessEvent(kind=ProcessEventKind.EXIT, pid=3, process=_RECORD, exit_code=-1, exit_signal=9),
                ProcessEvent(kind=ProcessEventKind.GAP, gap=Gap(reason="x", count=2, losses=(_LOSS,))),
            )
        ),
        DetectionResult(
            capability_response=CapabilityResponse(
                capabilities=CollectionCapabilities(
                    supported_domains=(MonitoringDomain.PROCESS, MonitoringDomain.NETWORK),
                    advanced=AdvancedCapabilities(realtime=True),
                ),
                task_types=(TaskType.CANCEL_TASK,),
                digests=("sha256",),
            )
        ),
    )
)

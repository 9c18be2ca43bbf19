"""common.messages: values that cannot change, and the specification's constructors."""

from __future__ import annotations

import gc

import msgspec
import pytest

from common.messages import (
    CollectionOptions,
    CollectionSummary,
    DetectionResult,
    DetectionTask,
    ErrorCode,
    ExecutableReport,
    HashCheck,
    HashResult,
    Message,
    ProcessFilter,
    ProcessKey,
    ProcessRecord,
    TaskType,
    failure,
    hash_success,
    new_enumerate_task,
    new_hash_check_task,
    success,
)
from tests.support.wire import MESSAGE_TYPES


@pytest.mark.parametrize("kind", MESSAGE_TYPES, ids=lambda kind: kind.__name__)
def test_a_message_cannot_be_changed_and_costs_the_collector_nothing(kind: type[Message]) -> None:
    value = kind()
    with pytest.raises(AttributeError):
        setattr(value, kind.__struct_fields__[0], None)
    assert not gc.is_tracked(value)
    assert value == kind()
    assert hash(value) == hash(kind())


@pytest.mark.parametrize("kind", MESSAGE_TYPES, ids=lambda kind: kind.__name__)
def test_fields_are_given_by_name_only(kind: type[Message]) -> None:
    with pytest.raises(TypeError):
        kind(1)  # type: ignore[call-arg, unused-ignore]  # the point of the test


def test_an_enumerate_task_as_in_the_specification() -> None:
    wanted = ProcessFilter(process_names=("firefox", "chrome"), executable_pattern="/usr/bin/*")
    assert new_enumerate_task("filtered-001", wanted) == DetectionTask(
        task_id="filtered-001", task_type=TaskType.ENUMERATE_PROCESSES, process_filter=wanted
    )
    assert new_enumerate_task("enum-001").process_filter is None


def test_an_enumerate_task_takes_what_the_specification_does_not_know() -> None:
    task = new_enumerate_task("t", stream=True, deadline_ms=5, options=CollectionOptions(skip_hashes=True))
    assert (task.stream, task.deadline_ms, task.options) == (True, 5, CollectionOptions(skip_hashes=True))


def test_a_hash_check_as_in_the_specification() -> None:
    check = HashCheck(expected_hash="a1b2", hash_algorithm="sha256", executable_path="/usr/bin/suspicious")
    assert new_hash_check_task("verify-001", check) == DetectionTask(
        task_id="verify-001", task_type=TaskType.CHECK_PROCESS_HASH, hash_check=check
    )


def test_a_hash_check_of_running_images() -> None:
    task = new_hash_check_task("t", HashCheck(), ProcessFilter(pids=(7,)), stream=True, deadline_ms=9)
    assert task.process_filter == ProcessFilter(pids=(7,))
    assert (task.stream, task.deadline_ms) == (True, 9)


def test_success_carries_processes() -> None:
    records = (ProcessRecord(pid=1, name="init"),)
    summary = CollectionSummary(processes_seen=1)
    result = success("test-123", records, summary=summary, boot_id="b")
    assert result == DetectionResult(
        task_id="test-123", success=True, processes=records, summary=summary, boot_id="b"
    )
    assert result.error_message is None


def test_failure_says_why() -> None:
    assert failure("test-123", "Permission denied") == DetectionResult(
        task_id="test-123", success=False, error_message="Permission denied"
    )
    assert failure("t", "busy", ErrorCode.BUSY).error_code is ErrorCode.BUSY


def test_hash_success_carries_a_hash() -> None:
    found = HashResult(hash_value="ab", algorithm="sha256", file_path="/bin/true", success=True)
    report = ExecutableReport(path="/bin/true")
    assert hash_success("h", found, executables=(report,)) == DetectionResult(
        task_id="h", success=True, hash_result=found, executables=(report,)
    )


def test_a_pid_used_again_is_another_process() -> None:
    first, second = ProcessKey("boot", 42, 100), ProcessKey("boot", 42, 101)
    assert first != second
    assert first != ProcessKey("next boot", 42, 100)
    assert len({first, second, ProcessKey("boot", 42, 100)}) == 2


def test_zero_and_not_set_are_different() -> None:
    assert ProcessRecord(ppid=0) != ProcessRecord()
    assert msgspec.structs.replace(ProcessRecord(), ppid=0).ppid == 0

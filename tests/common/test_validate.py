"""common.validate: every bound at the bound and beyond, every contradiction, what refusals say."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings

from common import limits
from common.errors import InvalidTask, TaskError, TaskIdError, Unsupported
from common.messages import (
    CapabilityRequest,
    CollectionOptions,
    DetectionTask,
    HashCheck,
    ProcessFilter,
    TaskType,
    new_enumerate_task,
    new_hash_check_task,
)
from common.validate import DIGEST_HEX, check_expected_hash, check_task, check_task_id
from tests.support.wire import values

PATH = HashCheck(executable_path="/bin/true")
WIDE = "é"  # two bytes: the bounds are of bytes


def enumerate_with(**fields: Any) -> DetectionTask:
    return msgspec.structs.replace(new_enumerate_task("t1"), **fields)


def filtered(**fields: Any) -> DetectionTask:
    return new_enumerate_task("t1", ProcessFilter(**fields))


def hashing(**fields: Any) -> DetectionTask:
    return new_hash_check_task("t1", HashCheck(**fields))


def optioned(**fields: Any) -> DetectionTask:
    return new_enumerate_task("t1", options=CollectionOptions(**fields))


def live(**fields: Any) -> DetectionTask:
    options = CollectionOptions(live=True, **fields)
    return enumerate_with(task_type=TaskType.MONITOR_PROCESS_TREE, stream=True, options=options)


def negotiating(**fields: Any) -> DetectionTask:
    request = CapabilityRequest(**fields)
    return enumerate_with(task_type=TaskType.NEGOTIATE_CAPABILITIES, capability_request=request)


def cancelling(target: str) -> DetectionTask:
    return enumerate_with(task_type=TaskType.CANCEL_TASK, target_task_id=target)


# -------------------------------------------------------------------------------------------------- task_id


@pytest.mark.parametrize("task_id", ["a", "x" * 128, WIDE * 64])
def test_an_id_within_its_bounds_is_taken(task_id: str) -> None:
    check_task_id(task_id)


@pytest.mark.parametrize(("task_id", "length"), [("", 0), ("x" * 129, 129), (WIDE * 64 + "x", 129)])
def test_an_id_beyond_them_is_a_fault_of_the_connection(task_id: str, length: int) -> None:
    with pytest.raises(TaskIdError, match=f"^task_id: {length} bytes; 1 to 128 are allowed$"):
        check_task_id(task_id)


# --------------------------------------------------------------------------------------------------- bounds

AT_THE_BOUND = [
    enumerate_with(metadata="m" * 4096),
    enumerate_with(metadata=WIDE * 2048),
    enumerate_with(deadline_ms=limits.MAX_DEADLINE_MS),
    filtered(process_names=("n",) * 4096),
    filtered(process_names=("n" * 256, WIDE * 128, "")),
    filtered(pids=(1,) * 4096),
    filtered(pids=(limits.MAX_PID,)),
    filtered(executable_pattern="p" * 1024),
    hashing(executable_path="/" + "p" * 4095),
    *[
        hashing(executable_path="/x", hash_algorithm=name, expected_hash="aF" * (digits // 2))
        for name, digits in DIGEST_HEX.items()
    ],
    hashing(executable_path="/x", expected_hash="0" * 64),
    optioned(digests=("md5",) * 8),
    optioned(hash_budget_ms=limits.MAX_HASH_BUDGET_MS),
    live(event_kinds=(1,) * 16),
    live(event_kinds=(7,)),
    negotiating(client_id="c" * 128),
    negotiating(client_version="v" * 128),
    negotiating(requested_domains=(0,) * 16),
    negotiating(requested_domains=(3,)),
    cancelling("x" * 128),
]


@pytest.mark.parametrize("task", AT_THE_BOUND, ids=lambda task: repr(task)[:60])
def test_at_the_bound_a_task_is_taken(task: DetectionTask) -> None:
    check_task(task)


BEYOND = [
    (enumerate_with(metadata="m" * 4097), "metadata", "4097 bytes", "at most 4096 are allowed"),
    (enumerate_with(metadata=WIDE * 2048 + "m"), "metadata", "4097 bytes", "at most 4096 are allowed"),
    (enumerate_with(deadline_ms=86_400_001), "deadline_ms", 86_400_001, "0 to 86400000 are allowed"),
    (
        filtered(process_names=("n",) * 4097),
        "process_filter.process_names",
        "4097 items",
        "at most 4096 are allowed",
    ),
    (
        filtered(process_names=("fine", WIDE * 128 + "x")),
        "process_filter.process_names",
        "257 bytes",
        "at most 256 are allowed",
    ),
    (filtered(pids=(1,) * 4097), "process_filter.pids", "4097 items", "at most 4096 are allowed"),
    (filtered(pids=(1, 0)), "process_filter.pids", 0, "1 to 4194304 are allowed"),
    (filtered(pids=(4_194_305,)), "process_filter.pids", 4_194_305, "1 to 4194304 are allowed"),
    (
        filtered(executable_pattern="p" * 1025),
        "process_filter.executable_pattern",
        "1025 bytes",
        "at most 1024 are allowed",
    ),
    (
        hashing(executable_path="/" + "p" * 4096),
        "hash_check.executable_path",
        "4097 bytes",
        "at most 4096 are allowed",
    ),
    (
        hashing(executable_path="/x", hash_algorithm="x" * 33),
        "hash_check.hash_algorithm",
        "33 bytes",
        "at most 32 are allowed",
    ),
    *[
        (
            hashing(executable_path="/x", hash_algorithm=name, expected_hash="a" * wrong),
            "hash_check.expected_hash",
            f"{wrong} digits",
            f"{name} has {digits} hexadecimal ones",
        )
        for name, digits in DIGEST_HEX.items()
        for wrong in (digits - 1, digits + 1)
    ],
    (optioned(digests=("md5",) * 9), "options.digests", "9 items", "at most 8 are allowed"),
    (optioned(hash_budget_ms=600_001), "options.hash_budget_ms", 600_001, "0 to 600000 are allowed"),
    (live(event_kinds=(1,) * 17), "options.event_kinds", "17 items", "at most 16 are allowed"),
    (live(event_kinds=(0,)), "options.event_kinds", 0, "1 to 7 are allowed"),
    (live(event_kinds=(8,)), "options.event_kinds", 8, "1 to 7 are allowed"),
    (
        negotiating(client_id="c" * 129),
        "capability_request.client_id",
        "129 bytes",
        "at most 128 are allowed",
    ),
    (
        negotiating(client_version="v" * 129),
        "capability_request.client_version",
        "129 bytes",
        "at most 128 are allowed",
    ),
    (
        negotiating(requested_domains=(0,) * 17),
        "capability_request.requested_domains",
        "17 items",
        "at most 16 are allowed",
    ),
    (negotiating(requested_domains=(4,)), "capability_request.requested_domains", 4, "0 to 3 are allowed"),
    (negotiating(requested_domains=(-1,)), "capability_request.requested_domains", -1, "0 to 3 are allowed"),
    (cancelling(""), "target_task_id", "0 bytes", "1 to 128 are allowed"),
    (cancelling("x" * 129), "target_task_id", "129 bytes", "1 to 128 are allowed"),
]


@pytest.mark.parametrize(("task", "field", "value", "bound"), BEYOND)
def test_beyond_it_the_refusal_names_field_value_and_bound(
    task: DetectionTask, field: str, value: object, bound: str
) -> None:
    with pytest.raises(InvalidTask) as caught:
        check_task(task)
    assert (caught.value.field, caught.value.value, caught.value.bound) == (field, value, bound)
    assert str(caught.value) == f"{field}: {value}; {bound}"


# ------------------------------------------------------------------------------------------- contradictions

CONTRADICTIONS = [
    (enumerate_with(task_type=TaskType.CHECK_PROCESS_HASH), "hash_check", "not set"),
    (enumerate_with(hash_check=PATH), "hash_check", "set"),
    (
        enumerate_with(task_type=TaskType.CANCEL_TASK, target_task_id="t2", hash_check=PATH),
        "hash_check",
        "set",
    ),
    (
        new_hash_check_task("t1", PATH, ProcessFilter(pids=(1,))),
        "process_filter.pids",
        "set beside hash_check.executable_path",
    ),
    (new_hash_check_task("t1", HashCheck()), "hash_check.executable_path", "empty"),
    (new_hash_check_task("t1", HashCheck(), ProcessFilter()), "hash_check.executable_path", "empty"),
    (enumerate_with(task_type=TaskType.VERIFY_EXECUTABLE), "hash_check.executable_path", "empty"),
    (
        new_hash_check_task("t1", PATH, ProcessFilter(process_names=("sshd",))),
        "process_filter",
        "names or pattern",
    ),
    (
        new_hash_check_task("t1", HashCheck(), ProcessFilter(pids=(1,), executable_pattern="/bin/*")),
        "process_filter",
        "names or pattern",
    ),
    (hashing(executable_path="bin/true"), "hash_check.executable_path", "relative"),
    (hashing(executable_path="./true"), "hash_check.executable_path", "relative"),
    (hashing(executable_path="/bin/\0true"), "hash_check.executable_path", "contains NUL"),
    (hashing(executable_path="/x", expected_hash="g" * 64), "hash_check.expected_hash", "not hexadecimal"),
    (hashing(executable_path="/x", expected_hash="٣" * 64), "hash_check.expected_hash", "not hexadecimal"),
    (enumerate_with(target_task_id="t2"), "target_task_id", "set"),
    (cancelling("t1"), "target_task_id", "the task's own id"),
    (optioned(live=True), "options.live", "set"),
    (
        enumerate_with(task_type=TaskType.MONITOR_PROCESS_TREE, options=CollectionOptions(live=True)),
        "options.live",
        "set without stream",
    ),
    (optioned(event_kinds=(1,)), "options.event_kinds", "set without options.live"),
    (
        msgspec.structs.replace(hashing(executable_path="/x"), options=CollectionOptions(environment=True)),
        "options.environment",
        "set",
    ),
    (enumerate_with(capability_request=CapabilityRequest()), "capability_request", "set"),
]


@pytest.mark.parametrize(("task", "field", "value"), CONTRADICTIONS)
def test_a_contradiction_is_refused_and_says_what_to_do(task: DetectionTask, field: str, value: str) -> None:
    with pytest.raises(InvalidTask) as caught:
        check_task(task)
    assert (caught.value.field, caught.value.value) == (field, value)
    assert caught.value.bound


@pytest.mark.parametrize(
    "task",
    [
        new_enumerate_task("t1"),
        new_hash_check_task("t1", HashCheck(), ProcessFilter(pids=(1, 2))),
        new_hash_check_task("t1", PATH, ProcessFilter()),
        enumerate_with(task_type=TaskType.NEGOTIATE_CAPABILITIES),
        enumerate_with(task_type=TaskType.MONITOR_PROCESS_TREE, options=CollectionOptions(environment=True)),
        enumerate_with(task_type=TaskType.VERIFY_EXECUTABLE, process_filter=ProcessFilter(pids=(1,))),
        cancelling("t2"),
    ],
    ids=lambda task: repr(task)[:70],
)
def test_what_does_not_contradict_itself_is_taken(task: DetectionTask) -> None:
    check_task(task)


# ----------------------------------------------------------------------------------------------- unknown


@pytest.mark.parametrize("number", [4, 6, 99, 102, -1, 2**31 - 1])
def test_an_unknown_task_type_is_unsupported_and_says_which_are_known(number: int) -> None:
    with pytest.raises(Unsupported, match=f"task type {number} is not known here; .*CHECK_PROCESS_HASH"):
        check_task(enumerate_with(task_type=number))


@pytest.mark.parametrize(
    "task", [hashing(executable_path="/x", hash_algorithm="crc32"), optioned(digests=("md5", "crc32"))]
)
def test_an_algorithm_nobody_computes_is_unsupported(task: DetectionTask) -> None:
    with pytest.raises(Unsupported, match="'crc32' is not computed here; ask one of sha256, "):
        check_task(task)


def test_an_algorithm_this_server_lacks_is_unsupported() -> None:
    task = optioned(digests=("blake3",))
    check_task(task)
    with pytest.raises(Unsupported, match=r"'blake3' is not computed here; ask one of sha256$"):
        check_task(task, ("sha256",))


def test_the_name_of_an_algorithm_is_exact() -> None:
    with pytest.raises(Unsupported):
        check_task(hashing(executable_path="/x", hash_algorithm="SHA256"))


def test_no_expected_hash_is_none_to_check() -> None:
    check_expected_hash("", "md5")


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(task=values(DetectionTask, known=False))
def test_any_task_is_taken_or_refused_with_a_type(task: DetectionTask) -> None:
    refusal: TaskError | None = None
    try:
        check_task(task)
    except (InvalidTask, Unsupported) as error:
        refusal = error
    assert len(str(refusal).encode()) <= limits.MAX_ERROR_MESSAGE_BYTES

"""procmond.front.session: each rule of a conversation, with a bare client and a scripted collector."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from common.codec import encode, encode_task
from common.framing import encode_frame
from common.messages import (
    CapabilityRequest,
    CollectionOptions,
    CollectionSummary,
    DetectionResult,
    DetectionTask,
    ErrorCode,
    HashCheck,
    Permission,
    ProcessFilter,
    TaskType,
    new_enumerate_task,
    new_hash_check_task,
)
from procmond.front import answers, dispatch
from procmond.front.dispatch import Entry, Handler
from procmond.link import Kind
from tests.procmond.front.scripts import (
    LAST,
    PART,
    STOPPED,
    SUMMARY,
    cancel,
    negotiate,
    serve_one,
    still_there,
)
from tests.support.collector import HELLO
from tests.support.conversation import staged

MARKER = "capability_negotiation"


def task_with(task_id: str, **fields: Any) -> DetectionTask:
    return msgspec.structs.replace(new_enumerate_task(task_id), **fields)


# -------------------------------------------------------------------------------------------------- answers


async def test_an_answer_is_the_collectors_with_id_sequence_and_more() -> None:
    async with staged() as stage:
        conversation = await stage.converse()
        await conversation.ask(new_enumerate_task("t1", stream=True))
        request, _, _ = await stage.collector.asked()
        await stage.collector.say(Kind.PART, request, PART)
        await stage.collector.say(Kind.LAST, request, LAST)
        first, last = await conversation.result("t1"), await conversation.result("t1")
        assert [record.pid for record in (*first.processes, *last.processes)] == [1, 2, 3]
        assert [(frame.sequence, frame.more, frame.summary) for frame in (first, last)] == [
            (0, True, None),
            (1, False, SUMMARY),
        ]
        assert last.success
        assert last.error_code is ErrorCode.UNSPECIFIED


@pytest.mark.parametrize("permission", [Permission.QUERY, Permission.ADMINISTER])
async def test_the_collector_is_asked_the_task_and_told_who_asks(permission: Permission) -> None:
    async with staged() as stage:
        conversation = await stage.converse(permission)
        task = new_hash_check_task("h", HashCheck(executable_path="/bin/true"), deadline_ms=5000)
        await conversation.ask(task)
        _, question, asked = await stage.collector.asked()
        assert asked == task
        assert question.administrator is (permission is Permission.ADMINISTER)
        assert question.frame_limit + answers.OWN_FIELDS_BYTES == stage.admission.settings.max_frame_size


async def test_the_largest_answer_under_the_longest_id_still_fits_a_frame() -> None:
    async with staged() as stage:
        conversation = await stage.converse()
        task_id = "i" * 128
        await conversation.ask(new_enumerate_task(task_id), cancel("c", task_id))
        request, question, _ = await stage.collector.asked()
        await stage.collector.expect(Kind.CANCEL)
        overhead = len(encode(DetectionResult(boot_id="x" * 100_000))) - 100_000
        body = encode(DetectionResult(boot_id="x" * (question.frame_limit - overhead)))
        assert len(body) == question.frame_limit
        await stage.collector.say(Kind.STOPPED, request, body)
        assert (await conversation.result(task_id)).error_code is ErrorCode.CANCELLED


async def test_pipelined_tasks_are_answered_as_their_answers_come() -> None:
    async with staged() as stage:
        conversation = await stage.converse()
        await conversation.ask(*(new_enumerate_task(f"t{n}") for n in range(3)))
        requests = [(await stage.collector.asked())[0] for _ in range(3)]
        for n in (2, 0, 1):
            await stage.collector.say(Kind.LAST, requests[n], LAST)
            assert (await conversation.result(f"t{n}")).success


async def test_whole_answers_wait_for_a_peer_that_does_not_read() -> None:
    async with staged() as stage:
        conversation = await stage.converse()
        names = [f"t{n}" for n in range(16)]
        await conversation.ask(*(new_enumerate_task(name) for name in names))
        body = encode(DetectionResult(boot_id="x" * 900_000)) + LAST
        for _ in names:
            await stage.collector.say(Kind.LAST, (await stage.collector.asked())[0], body)
        await stage.collector.hello()
        while stage.relay.hello is None:
            await asyncio.sleep(0)
        assert stage.admission.tasks == len(names) - 1  # one frame is on its way, no more
        assert {(await conversation.result(name)).success for name in names} == {True}


async def test_negotiation_tells_what_this_server_can_do_for_this_peer() -> None:
    async with staged(max_tasks_per_connection=3) as stage:
        conversation = await stage.converse(Permission.ADMINISTER)
        await stage.collector.hello()
        while stage.relay.hello is None:
            await asyncio.sleep(0)
        request = CapabilityRequest(client_id="test", requested_domains=(0,), protocol_version=1)
        await conversation.ask(msgspec.structs.replace(negotiate("n"), capability_request=request))
        result = await conversation.result("n")
        offered = result.capability_response
        assert offered is not None
        assert offered.negotiation_success
        assert TaskType.ENUMERATE_PROCESSES in offered.task_types
        assert offered.digests == HELLO.digests
        assert offered.collector == HELLO.collector
        assert offered.max_tasks_in_flight == 3
        assert offered.permission is Permission.ADMINISTER
        assert result.boot_id == HELLO.boot_id
        assert result.summary is not None
        assert result.summary.boot_time == HELLO.boot_time


async def test_the_references_way_to_ask_for_capabilities_costs_nothing() -> None:
    async with staged(attached=False) as stage:
        conversation = await stage.converse()
        await conversation.ask(task_with("old", metadata=MARKER))
        result = await conversation.result("old")
        assert result == DetectionResult(task_id="old", success=True, summary=CollectionSummary())


@pytest.mark.parametrize(
    "fields",
    [
        {"metadata": MARKER, "process_filter": ProcessFilter(pids=(1,))},
        {"metadata": MARKER, "options": CollectionOptions()},
        {"metadata": MARKER + " "},
    ],
    ids=["with a filter", "with options", "another text"],
)
async def test_the_marker_counts_only_on_a_task_without_filter_and_options(fields: dict[str, Any]) -> None:
    async with staged() as stage:
        conversation = await stage.converse()
        await conversation.ask(task_with("new", **fields))
        request, _, _ = await stage.collector.asked()
        await stage.collector.say(Kind.LAST, request, LAST)
        assert (await conversation.result("new")).summary == SUMMARY


# ------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("task", "code", "sentence"),
    [
        (task_with("t", task_type=55), ErrorCode.UNSUPPORTED, "task type 55 is not known here"),
        (
            task_with("t", task_type=TaskType.CHECK_PROCESS_HASH),
            ErrorCode.INVALID,
            "hash_check: not set; CHECK_PROCESS_HASH needs one",
        ),
        (
            new_enumerate_task("t", ProcessFilter(pids=(0,))),
            ErrorCode.INVALID,
            "process_filter.pids: 0; 1 to 4194304 are allowed",
        ),
        (cancel("t", "nobody"), ErrorCode.NOT_FOUND, "task 'nobody' is not in flight here"),
    ],
    ids=["unknown type", "contradiction", "bound", "unknown target"],
)
async def test_a_well_formed_task_always_gets_a_typed_answer_and_the_connection_stays(
    task: DetectionTask, code: ErrorCode, sentence: str
) -> None:
    async with staged() as stage:
        conversation = await stage.converse()
        await conversation.ask(task)
        result = await conversation.result("t")
        assert result.error_code is code
        assert result.error_message is not None
        assert result.error_message.startswith(sentence)
        assert (result.success, result.more, result.summary) == (False, False, CollectionSummary())
        await still_there(conversation)


async def test_an_algorithm_the_collector_lacks_is_unsupported() -> None:
    async with staged() as stage:
        conversation = await stage.converse()
        await stage.collector.hello()
        while stage.relay.hello is None:
            await asyncio.sleep(0)
        await conversation.ask(new_enumerate_task("t", options=CollectionOptions(digests=("blake3",))))
        assert await conversation.refusal("t") is ErrorCode.UNSUPPORTED


async def test_what_is_not_in_the_table_is_unsupported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(dispatch.TABLE, TaskType.ENUMERATE_PROCESSES)
    async with staged() as stage:
        conversation = await stage.converse()
        await conversation.ask(new_enumerate_task("t"))
        assert await conversation.refusal("t") is ErrorCode.UNSUPPORTED
        await conversation.ask(negotiate("n"))
        offered = (await conversation.result("n")).capability_response
        assert offered is not None
        assert TaskType.ENUMERATE_PROCESSES not in offered.task_types


async def test_what_the_table_does_not_permit_this_peer_is_denied(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Entry(Handler.COLLECTOR, True, Permission.ADMINISTER)
    monkeypatch.setitem(dispatch.TABLE, TaskType.ENUMERATE_PROCESSES, entry)
    async with staged() as stage:
        conversation = await stage.converse(Permission.QUERY)
        await conversation.ask(new_enumerate_task("t"))
        assert await conversation.refusal("t") is ErrorCode.DENIED
        await serve_one(stage, await stage.converse(Permission.ADMINISTER), "t")


async def test_a_task_beyond_the_connections_limit_is_busy_at_once_and_later_served() -> None:
    async with staged(max_tasks_per_connection=2) as stage:
        conversation = await stage.converse()
        await conversation.ask(*(new_enumerate_task(f"t{n}") for n in range(3)))
        assert await conversation.refusal("t2") is ErrorCode.BUSY
        request, _, _ = await stage.collector.asked()
        await stage.collector.asked()
        await stage.collector.say(Kind.LAST, request, LAST)
        await conversation.result("t0")
        await serve_one(stage, conversation, "t2")


async def test_a_task_beyond_the_limit_of_all_is_busy_whoever_asks() -> None:
    async with staged(max_tasks=1) as stage:
        one, other = await stage.converse(), await stage.converse()
        await one.ask(new_enumerate_task("t"))
        await stage.collector.asked()
        await other.ask(new_enumerate_task("t"))
        assert await other.refusal("t") is ErrorCode.BUSY
        await still_there(other)


async def test_cancel_and_negotiation_are_exempt_from_the_limits() -> None:
    async with staged(max_tasks=1, max_tasks_per_connection=1) as stage:
        conversation = await stage.converse()
        await conversation.ask(new_enumerate_task("t"))
        request, _, _ = await stage.collector.asked()
        await still_there(conversation)
        await conversation.ask(cancel("c", "t"))
        await stage.collector.expect(Kind.CANCEL)
        await stage.collector.say(Kind.STOPPED, request, STOPPED)
        assert await conversation.refusal("t") is ErrorCode.CANCELLED
        assert (await conversation.result("c")).success


async def test_cancellations_of_one_connection_are_bounded_too() -> None:
    async with staged() as stage:
        conversation = await stage.converse()
        await conversation.ask(new_enumerate_task("t"), *(cancel(f"c{n}", "t") for n in range(17)))
        assert await conversation.refusal("c16") is ErrorCode.BUSY


# ------------------------------------------------------------------------------------------------ bad peers

GOOD = encode_frame(encode_task(new_enumerate_task("t")))


@pytest.mark.parametrize(
    "data",
    [
        bytes(8),
        (2**20 + 1).to_bytes(4, "little") + bytes(4),
        GOOD[:-1] + b"?",
        encode_frame(b"\xff\xff"),
        encode_frame(encode_task(DetectionTask(metadata="no id"))),
        encode_frame(encode_task(new_enumerate_task("i" * 129))),
    ],
    ids=["zero length", "oversized", "checksum", "undecodable", "empty id", "over-long id"],
)
async def test_a_bad_frame_gets_one_result_about_the_connection_and_the_close(data: bytes) -> None:
    async with staged() as stage:
        conversation = await stage.converse()
        await still_there(conversation)
        await conversation.raw(data)
        assert await conversation.refusal("") is ErrorCode.PROTOCOL
        await conversation.end()


async def test_half_a_frame_and_the_end_is_a_bad_frame() -> None:
    async with staged() as stage:
        conversation = await stage.converse()
        await conversation.raw(GOOD[:7])
        conversation.client.shutdown(1)
        assert await conversation.refusal("") is ErrorCode.PROTOCOL
        await conversation.end()


async def test_half_a_frame_held_open_is_a_bad_frame() -> None:
    async with staged(frame_deadline_s=0.1) as stage:
        conversation = await stage.converse()
        await conversation.raw(GOOD[:7])
        assert await conversation.refusal("") is ErrorCode.PROTOCOL
        await conversation.end()


async def test_work_under_way_is_stopped_by_a_bad_frame() -> None:
    async with staged() as stage:
        conversation = await stage.converse()
        await conversation.raw(GOOD)
        request, _, _ = await stage.collector.asked()
        await conversation.raw(bytes(8))
        assert await conversation.refusal("") is ErrorCode.PROTOCOL
        assert (await stage.collector.expect(Kind.CANCEL)).request == request
        await conversation.end()


async def test_an_id_used_again_in_flight_ends_the_connection_and_is_never_answered() -> None:
    async with staged() as stage:
        conversation = await stage.converse()
        await conversation.ask(new_enumerate_task("t"))
        request, _, _ = await stage.collector.asked()
        await conversation.ask(new_enumerate_task("t"))
        assert await conversation.refusal("") is ErrorCode.PROTOCOL
        assert (await stage.collector.expect(Kind.CANCEL)).request == request
        await conversation.end()


async def test_an_id_may_be_used_again_once_it_is_answered() -> None:
    async with staged() as stage:
        conversation = await stage.converse()
        for _ in range(20):
            await serve_one(stage, conversation, "t")


async def test_ids_of_other_connections_do_not_matter() -> None:
    async with staged() as stage:
        one, other = await stage.converse(), await stage.converse()
        for conversation in (one, other):
            await conversation.ask(new_enumerate_task("t"))
            await stage.collector.asked()
        await other.ask(cancel("c", "not mine"))
        assert await other.refusal("c") is ErrorCode.NOT_FOUND
        await still_there(one)

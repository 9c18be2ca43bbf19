"""procmond.front.session: answers that end early: cancel, deadline, lost peers, shutdown."""

from __future__ import annotations

import asyncio

import pytest

from common import limits
from common.codec import encode
from common.errors import ShuttingDown
from common.messages import CollectionSummary, DetectionResult, ErrorCode, ProcessRecord, new_enumerate_task
from procmond.front import relay as relay_module
from procmond.front.admission import Admission
from procmond.link import Kind
from tests.procmond.front.scripts import LAST, PART, STOPPED, SUMMARY, cancel, serve_one, still_there
from tests.support.collector import PATIENCE_S
from tests.support.conversation import staged

LARGE = encode(DetectionResult(processes=(ProcessRecord(pid=1, cwd="/" * (512 * limits.KIB)),)))
"""A frame that a socket's buffers do not hold."""


# --------------------------------------------------------------------------------------------------- cancel


async def test_a_cancelled_task_ends_with_its_summary_and_then_the_cancel_succeeds() -> None:
    async with staged() as stage:
        conversation = await stage.converse()
        await conversation.ask(new_enumerate_task("t", stream=True))
        request, _, _ = await stage.collector.asked()
        await stage.collector.say(Kind.PART, request, PART)
        assert (await conversation.result("t")).more
        await stage.collector.expect(Kind.CREDIT)
        await conversation.ask(cancel("c", "t"))
        assert (await stage.collector.expect(Kind.CANCEL)).request == request
        await stage.collector.say(Kind.STOPPED, request, STOPPED)
        ended = await conversation.result("t")
        assert (ended.error_code, ended.sequence, ended.more) == (ErrorCode.CANCELLED, 1, False)
        assert (ended.summary, ended.success) == (SUMMARY, False)
        assert await conversation.result("c") == DetectionResult(
            task_id="c", success=True, summary=CollectionSummary()
        )
        await still_there(conversation)


async def test_a_task_and_its_cancel_in_one_breath_is_a_cancelled_task() -> None:
    async with staged() as stage:
        conversation = await stage.converse()
        await conversation.ask(new_enumerate_task("t"), cancel("c", "t"))
        request, _, _ = await stage.collector.asked()
        await stage.collector.expect(Kind.CANCEL)
        await stage.collector.say(Kind.STOPPED, request, STOPPED)
        assert await conversation.refusal("t") is ErrorCode.CANCELLED
        assert (await conversation.result("c")).success


async def test_a_target_that_was_complete_just_before_is_not_found() -> None:
    async with staged() as stage:
        conversation = await stage.converse()
        await conversation.ask(new_enumerate_task("t"), cancel("c", "t"))
        request, _, _ = await stage.collector.asked()
        await stage.collector.expect(Kind.CANCEL)
        await stage.collector.say(Kind.LAST, request, LAST)
        assert (await conversation.result("t")).success
        assert await conversation.refusal("c") is ErrorCode.NOT_FOUND


async def test_a_finished_target_is_not_found() -> None:
    async with staged() as stage:
        conversation = await stage.converse()
        await serve_one(stage, conversation, "t")
        await conversation.ask(cancel("c", "t"))
        assert await conversation.refusal("c") is ErrorCode.NOT_FOUND


async def test_a_task_of_another_connection_cannot_be_cancelled() -> None:
    async with staged() as stage:
        one, other = await stage.converse(), await stage.converse()
        await one.ask(new_enumerate_task("t"))
        request, _, _ = await stage.collector.asked()
        await other.ask(cancel("c", "t"))
        assert await other.refusal("c") is ErrorCode.NOT_FOUND
        await stage.collector.say(Kind.LAST, request, LAST)
        assert (await one.result("t")).success


async def test_a_cancel_cannot_be_cancelled() -> None:
    async with staged() as stage:
        conversation = await stage.converse()
        await conversation.ask(new_enumerate_task("t"), cancel("c1", "t"), cancel("c2", "c1"))
        assert await conversation.refusal("c2") is ErrorCode.NOT_FOUND


async def test_a_collector_deaf_to_cancel_holds_no_answer_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(relay_module, "_CANCEL_GRACE_S", 0.01)
    async with staged() as stage:
        conversation = await stage.converse()
        await conversation.ask(new_enumerate_task("t"), cancel("c", "t"))
        assert await conversation.refusal("t") is ErrorCode.CANCELLED
        assert (await conversation.result("c")).success


# ------------------------------------------------------------------------------------------------- deadline


async def test_a_deadline_ends_the_answer_and_what_was_sent_stays_valid() -> None:
    async with staged() as stage:
        conversation = await stage.converse()
        await conversation.ask(new_enumerate_task("t", stream=True, deadline_ms=200))
        request, _, _ = await stage.collector.asked()
        await stage.collector.say(Kind.PART, request, PART)
        sent = await conversation.result("t")
        assert [record.pid for record in sent.processes] == [1, 2]
        await stage.collector.expect(Kind.CREDIT)
        # Nobody answers in time, so the collector is told to stop and says what it has seen.
        while (message := await stage.collector.next()).kind is Kind.CREDIT:
            pass
        assert (message.kind, message.request) == (Kind.CANCEL, request)
        await stage.collector.say(Kind.STOPPED, request, STOPPED)
        last = await conversation.result("t")
        assert (last.error_code, last.sequence, last.more) == (ErrorCode.DEADLINE, 1, False)
        assert (last.summary, last.success) == (SUMMARY, False)
        assert last.error_message == "the deadline passed; what came before it is valid"
        await still_there(conversation)


async def test_waiting_for_a_collector_counts_towards_the_deadline() -> None:
    async with staged(attached=False) as stage:
        conversation = await stage.converse()
        await conversation.ask(new_enumerate_task("t", deadline_ms=1))
        assert await conversation.refusal("t") is ErrorCode.DEADLINE
        collector = await stage.attach()
        await conversation.ask(new_enumerate_task("next"))
        assert (await collector.asked())[2].task_id == "next"  # the late one is not asked any more


async def test_a_task_that_names_no_deadline_has_the_servers() -> None:
    async with staged(task_deadline_s=0.01) as stage:
        conversation = await stage.converse()
        await conversation.ask(new_enumerate_task("t"))
        request, _, _ = await stage.collector.asked()
        await stage.collector.expect(Kind.CANCEL)
        await stage.collector.say(Kind.STOPPED, request, STOPPED)
        assert await conversation.refusal("t") is ErrorCode.DEADLINE


async def test_the_first_reason_to_stop_stands() -> None:
    async with staged() as stage:
        conversation = await stage.converse()
        await conversation.ask(new_enumerate_task("t", deadline_ms=1))
        request, _, _ = await stage.collector.asked()
        await stage.collector.expect(Kind.CANCEL)
        await conversation.ask(cancel("c", "t"))
        await still_there(conversation)  # so the cancel was read
        await stage.collector.say(Kind.STOPPED, request, STOPPED)
        assert await conversation.refusal("t") is ErrorCode.DEADLINE
        assert await conversation.refusal("c") is ErrorCode.NOT_FOUND


# -------------------------------------------------------------------------------------------- collectors


async def test_a_collector_lost_in_an_answer_is_our_fault_and_the_connection_lives() -> None:
    async with staged() as stage:
        conversation = await stage.converse()
        await conversation.ask(new_enumerate_task("t", stream=True))
        request, _, _ = await stage.collector.asked()
        await stage.collector.say(Kind.PART, request, PART)
        assert (await conversation.result("t")).more
        stage.collector.die()
        last = await conversation.result("t")
        assert (last.error_code, last.sequence, last.more) == (ErrorCode.INTERNAL, 1, False)
        assert last.summary == CollectionSummary()
        await still_there(conversation)


# ---------------------------------------------------------------------------------------------------- peers


async def test_a_peer_that_leaves_stops_the_work() -> None:
    async with staged() as stage:
        conversation = await stage.converse()
        await conversation.ask(new_enumerate_task("t"))
        request, _, _ = await stage.collector.asked()
        assert stage.admission.tasks == 1
        conversation.client.close()
        assert (await stage.collector.expect(Kind.CANCEL)).request == request
        async with asyncio.timeout(PATIENCE_S):
            await conversation.running
        assert stage.admission.tasks == 0


async def test_a_stopped_reader_costs_one_frame_and_no_credit() -> None:
    async with staged() as stage:
        conversation = await stage.converse()
        await conversation.ask(new_enumerate_task("t", stream=True))
        request, _, _ = await stage.collector.asked()
        await stage.collector.say(Kind.PART, request, LARGE)
        await stage.collector.say(Kind.PART, request, LARGE)
        await conversation.ask(new_enumerate_task("other"))
        await stage.collector.asked()  # the next word on the line: no credit came before it
        for _ in range(2):
            assert (await conversation.result("t")).more
            assert (await stage.collector.expect(Kind.CREDIT)).request == request


async def test_a_reader_that_takes_nothing_is_closed_and_its_work_stopped() -> None:
    async with staged(stall_limit_s=0.2) as stage:
        conversation = await stage.converse()
        await conversation.ask(new_enumerate_task("t", stream=True))
        request, _, _ = await stage.collector.asked()
        await stage.collector.say(Kind.PART, request, LARGE)
        assert (await stage.collector.expect(Kind.CANCEL)).request == request
        async with asyncio.timeout(PATIENCE_S):
            await conversation.running
        assert stage.admission.tasks == 0


# ------------------------------------------------------------------------------------------------- shutdown


async def test_shutting_down_ends_answers_and_takes_no_new_work() -> None:
    async with staged() as stage:
        conversation = await stage.converse()
        await conversation.ask(new_enumerate_task("t"))
        request, _, _ = await stage.collector.asked()
        ending = asyncio.create_task(conversation.session.end(ShuttingDown("procmond is ending")))
        await stage.collector.expect(Kind.CANCEL)
        await conversation.ask(new_enumerate_task("late"))
        assert await conversation.refusal("late") is ErrorCode.SHUTTING_DOWN
        await stage.collector.say(Kind.STOPPED, request, STOPPED)
        ended = await conversation.result("t")
        assert (ended.error_code, ended.summary) == (ErrorCode.SHUTTING_DOWN, SUMMARY)
        await conversation.end()
        await ending
        assert conversation.session.answered == 1


async def test_an_idle_connection_is_closed_without_a_word() -> None:
    async with staged() as stage:
        conversation = await stage.converse()
        await still_there(conversation)
        await conversation.session.end(ShuttingDown("procmond is ending"))
        await conversation.end()


async def test_a_task_told_to_stop_before_its_work_began_is_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    async with staged() as stage:
        conversation = await stage.converse()
        endings: list[asyncio.Task[None]] = []
        begin = Admission.begin

        def begin_and_end(admission: Admission, in_flight: int) -> None:
            begin(admission, in_flight)
            # Runs after the task is noted and before it asks the collector.
            endings.append(asyncio.create_task(conversation.session.end(ShuttingDown("procmond is ending"))))

        monkeypatch.setattr(Admission, "begin", begin_and_end)
        await conversation.ask(new_enumerate_task("t"))
        request, _, _ = await stage.collector.asked()
        assert (await stage.collector.expect(Kind.CANCEL)).request == request
        await stage.collector.say(Kind.STOPPED, request, STOPPED)
        assert await conversation.refusal("t") is ErrorCode.SHUTTING_DOWN
        await conversation.end()
        await asyncio.gather(*endings)


async def test_abort_ends_a_session_whatever_is_unsaid() -> None:
    async with staged() as stage:
        conversation = await stage.converse()
        await conversation.ask(new_enumerate_task("t"))
        await stage.collector.asked()
        conversation.session.abort()
        await conversation.end()
        conversation.session.abort()
        await stage.collector.expect(Kind.CANCEL)

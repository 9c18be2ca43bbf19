"""procmond.front.relay with a scripted collector at the end of a real socket pair."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from common.errors import InternalError
from procmond import link
from procmond.front import relay as relay_module
from procmond.front.relay import Exchange, Relay
from procmond.link import Hello, Kind, LinkMessage, Question
from tests.support.collector import HELLO, PATIENCE_S, ScriptedCollector

MAX_BODY = 1000


class Stage:
    """A relay and the collectors that came and went."""

    def __init__(self) -> None:
        self.greetings: list[Hello] = []
        self.relay = Relay(MAX_BODY, self.greetings.append)
        self._collectors: list[ScriptedCollector] = []

    async def collector(self) -> ScriptedCollector:
        """A new collector, attached."""
        collector = ScriptedCollector()
        self._collectors.append(collector)
        await self.relay.attach(collector.far_end)
        return collector

    async def lost(self, count: int) -> None:
        """Returns when the relay has noticed so many losses."""
        async with asyncio.timeout(PATIENCE_S):
            while self.relay.losses["collector_lost"] < count:
                await asyncio.sleep(0)

    async def arrived(self, collector: ScriptedCollector) -> None:
        """Returns when all the collector said so far has reached the relay."""
        before = len(self.greetings)
        await collector.hello()
        async with asyncio.timeout(PATIENCE_S):
            while len(self.greetings) == before:
                await asyncio.sleep(0)

    async def close(self) -> None:
        """Every collector dies, and the relay has closed its ends."""
        for collector in self._collectors:
            collector.die()
        async with asyncio.timeout(PATIENCE_S):
            while any(collector.far_end.fileno() != -1 for collector in self._collectors):
                await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def staged() -> AsyncIterator[Stage]:
    stage = Stage()
    try:
        yield stage
    finally:
        await stage.close()


def question(task: bytes) -> Question:
    """What the front asks for a peer."""
    return Question(False, MAX_BODY, task)


def asked_for(message: LinkMessage) -> bytes:
    """The task in a question as the collector gets it."""
    return link.decode_question(message.body).task


async def taken(exchange: Exchange) -> LinkMessage:
    """The exchange's next frame."""
    async with asyncio.timeout(PATIENCE_S):
        return await exchange.next()


async def test_an_answers_bytes_pass_through_unread() -> None:
    async with staged() as stage:
        collector = await stage.collector()
        exchange = stage.relay.ask(question(b"question"))
        asked = await collector.expect(Kind.ASK)
        assert asked_for(asked) == b"question"
        await collector.say(Kind.PART, asked.request, b"\xff not protobuf")
        await collector.say(Kind.LAST, asked.request, b"the end")
        assert await taken(exchange) == LinkMessage(Kind.PART, asked.request, b"\xff not protobuf")
        assert await taken(exchange) == LinkMessage(Kind.LAST, asked.request, b"the end")


async def test_answers_interleave() -> None:
    async with staged() as stage:
        collector = await stage.collector()
        one, other = stage.relay.ask(question(b"one")), stage.relay.ask(question(b"other"))
        requests = [(await collector.expect(Kind.ASK)).request for _ in range(2)]
        assert len(set(requests)) == 2
        await collector.say(Kind.LAST, requests[1], b"for other")
        await collector.say(Kind.LAST, requests[0], b"for one")
        assert (await taken(one)).body == b"for one"
        assert (await taken(other)).body == b"for other"


async def test_credit_is_given_for_each_frame_taken_and_not_before() -> None:
    async with staged() as stage:
        collector = await stage.collector()
        exchange = stage.relay.ask(question(b"question"))
        request = (await collector.expect(Kind.ASK)).request
        await collector.say(Kind.PART, request, b"1")
        await collector.say(Kind.PART, request, b"2")
        await taken(exchange)
        following = stage.relay.ask(question(b"next"))  # the next word on the line: no credit came before it
        await collector.expect(Kind.ASK)
        await taken(exchange)
        assert (await collector.expect(Kind.CREDIT)).request == request
        following.close()


async def test_a_cancelled_answer_still_ends_with_its_last_frame() -> None:
    async with staged() as stage:
        collector = await stage.collector()
        exchange = stage.relay.ask(question(b"question"))
        request = (await collector.expect(Kind.ASK)).request
        exchange.cancel()
        assert (await collector.expect(Kind.CANCEL)).request == request
        await collector.say(Kind.STOPPED, request, b"summary")
        assert await taken(exchange) == LinkMessage(Kind.STOPPED, request, b"summary")


async def test_a_collector_that_does_not_end_a_cancelled_answer_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(relay_module, "_CANCEL_GRACE_S", 0.01)
    async with staged() as stage:
        collector = await stage.collector()
        exchange = stage.relay.ask(question(b"question"))
        await collector.expect(Kind.ASK)
        exchange.cancel()
        with pytest.raises(InternalError, match="did not end this answer"):
            await taken(exchange)


async def test_a_question_closed_early_stops_the_work_and_its_late_frames_are_dropped() -> None:
    async with staged() as stage:
        collector = await stage.collector()
        closed, other = stage.relay.ask(question(b"closed")), stage.relay.ask(question(b"other"))
        requests = [(await collector.expect(Kind.ASK)).request for _ in range(2)]
        closed.close()
        assert (await collector.expect(Kind.CANCEL)).request == requests[0]
        await collector.say(Kind.LAST, requests[0], b"late")
        await collector.say(Kind.LAST, requests[1], b"fine")
        assert (await taken(other)).body == b"fine"


async def test_closing_an_ended_question_says_nothing() -> None:
    async with staged() as stage:
        collector = await stage.collector()
        exchange = stage.relay.ask(question(b"question"))
        request = (await collector.expect(Kind.ASK)).request
        await collector.say(Kind.LAST, request, b"end")
        await taken(exchange)
        exchange.close()
        stage.relay.ask(question(b"next"))
        await collector.expect(Kind.ASK)


async def test_a_greeting_is_remembered_and_passed_on() -> None:
    async with staged() as stage:
        collector = await stage.collector()
        assert stage.greetings == []
        await stage.arrived(collector)
        assert stage.relay.hello == HELLO
        assert stage.greetings == [HELLO]


# ------------------------------------------------------------------------------------------- whole answers


async def test_what_comes_while_nobody_waits_is_told() -> None:
    async with staged() as stage:
        collector = await stage.collector()
        told = asyncio.Event()
        exchange = stage.relay.ask(question(b"question"), arrived=told.set)
        request = (await collector.expect(Kind.ASK)).request
        assert exchange.take_whole() is None
        await collector.say(Kind.LAST, request, b"all")
        async with asyncio.timeout(PATIENCE_S):
            await told.wait()
        assert exchange.take_whole() == LinkMessage(Kind.LAST, request, b"all")
        assert exchange.take_whole() is None


async def test_an_answer_in_pieces_is_not_taken_whole() -> None:
    async with staged() as stage:
        collector = await stage.collector()
        exchange = stage.relay.ask(question(b"question"))
        request = (await collector.expect(Kind.ASK)).request
        await collector.say(Kind.PART, request, b"part")
        await collector.say(Kind.LAST, request, b"end")
        await stage.arrived(collector)
        assert exchange.take_whole() is None
        assert (await taken(exchange)).body == b"part"
        assert exchange.take_whole() is None
        assert (await taken(exchange)).body == b"end"


async def test_a_failure_is_told_too() -> None:
    async with staged() as stage:
        told = asyncio.Event()
        exchange = stage.relay.ask(question(b"question"), arrived=told.set)
        exchange.cancel()  # no collector ever came
        assert told.is_set()
        assert exchange.take_whole() is None
        with pytest.raises(InternalError):
            await exchange.next()


async def test_a_frame_larger_than_was_asked_for_costs_the_collector() -> None:
    async with staged() as stage:
        collector = await stage.collector()
        stage.relay.ask(Question(False, 100, b"question"))
        request = (await collector.expect(Kind.ASK)).request
        await collector.say(Kind.LAST, request, b"x" * 101)
        await stage.lost(1)


async def test_a_frame_without_credit_costs_the_collector() -> None:
    async with staged() as stage:
        collector = await stage.collector()
        exchange = stage.relay.ask(question(b"question"))
        request = (await collector.expect(Kind.ASK)).request
        for _ in range(link.INITIAL_CREDIT):
            await collector.say(Kind.PART, request, b"part")
        await stage.arrived(collector)
        await taken(exchange)
        await taken(exchange)  # the first is done with
        await collector.say(Kind.PART, request, b"part")
        await stage.arrived(collector)
        assert stage.relay.losses["collector_lost"] == 0
        await collector.say(Kind.PART, request, b"part")
        await stage.lost(1)


# ---------------------------------------------------------------------------------------- lost collectors


async def test_without_a_collector_a_question_waits_for_one() -> None:
    async with staged() as stage:
        exchange = stage.relay.ask(question(b"question"))
        collector = await stage.collector()
        asked = await collector.expect(Kind.ASK)
        assert asked_for(asked) == b"question"
        await collector.say(Kind.LAST, asked.request, b"answer")
        assert (await taken(exchange)).body == b"answer"
        assert not stage.relay.losses


async def test_a_question_of_which_nothing_was_handed_on_is_asked_again() -> None:
    async with staged() as stage:
        first = await stage.collector()
        exchange = stage.relay.ask(question(b"question"))
        await first.expect(Kind.ASK)
        first.die()
        await stage.lost(1)
        second = await stage.collector()
        asked = await second.expect(Kind.ASK)
        assert asked_for(asked) == b"question"
        await second.say(Kind.LAST, asked.request, b"answer")
        assert (await taken(exchange)).body == b"answer"


async def test_what_a_dead_collector_said_and_nobody_took_is_void() -> None:
    async with staged() as stage:
        first = await stage.collector()
        exchange = stage.relay.ask(question(b"question"))
        request = (await first.expect(Kind.ASK)).request
        await first.say(Kind.PART, request, b"half of the dead one")
        await stage.arrived(first)
        first.die()
        await stage.lost(1)
        second = await stage.collector()
        await second.say(Kind.LAST, (await second.expect(Kind.ASK)).request, b"whole of the new one")
        assert await taken(exchange) == LinkMessage(Kind.LAST, request, b"whole of the new one")


async def test_a_whole_answer_outlives_its_collector() -> None:
    async with staged() as stage:
        collector = await stage.collector()
        exchange = stage.relay.ask(question(b"question"))
        request = (await collector.expect(Kind.ASK)).request
        await collector.say(Kind.PART, request, b"1")
        await collector.say(Kind.LAST, request, b"2")
        await stage.arrived(collector)
        collector.die()
        await stage.lost(1)
        assert [(await taken(exchange)).body for _ in range(2)] == [b"1", b"2"]


async def test_an_answer_that_had_begun_fails() -> None:
    async with staged() as stage:
        collector = await stage.collector()
        exchange = stage.relay.ask(question(b"question"))
        request = (await collector.expect(Kind.ASK)).request
        await collector.say(Kind.PART, request, b"handed on")
        await taken(exchange)
        collector.die()
        with pytest.raises(InternalError, match="the collector was lost in this answer"):
            await taken(exchange)
        second = await stage.collector()
        stage.relay.ask(question(b"another"))
        assert asked_for(await second.expect(Kind.ASK)) == b"another"


async def test_a_question_is_asked_again_once_only() -> None:
    async with staged() as stage:
        first = await stage.collector()
        exchange = stage.relay.ask(question(b"deadly"))
        await first.expect(Kind.ASK)
        first.die()
        await stage.lost(1)
        second = await stage.collector()
        await second.expect(Kind.ASK)
        second.die()
        with pytest.raises(InternalError):
            await taken(exchange)
        assert stage.relay.losses == {"collector_lost": 2}


async def test_a_question_closed_while_it_waits_is_not_asked() -> None:
    async with staged() as stage:
        stage.relay.ask(question(b"given up")).close()
        stage.relay.ask(question(b"wanted"))
        collector = await stage.collector()
        assert asked_for(await collector.expect(Kind.ASK)) == b"wanted"


async def test_a_question_cancelled_while_it_waits_fails_at_once() -> None:
    async with staged() as stage:
        exchange = stage.relay.ask(question(b"question"))
        exchange.cancel()
        with pytest.raises(InternalError, match="no collector was there"):
            await taken(exchange)


async def test_a_collector_dead_before_it_was_attached_is_a_loss_like_any_other() -> None:
    async with staged() as stage:
        exchange = stage.relay.ask(question(b"question"))
        dead = ScriptedCollector()
        dead.die()
        await stage.relay.attach(dead.far_end)
        await stage.lost(1)
        second = await stage.collector()
        await second.say(Kind.LAST, (await second.expect(Kind.ASK)).request, b"answer")
        assert (await taken(exchange)).body == b"answer"


async def test_a_hanging_collector_that_is_replaced_is_lost_though_its_line_stays_open() -> None:
    async with staged() as stage:
        hanging = await stage.collector()
        begun, unanswered = stage.relay.ask(question(b"begun")), stage.relay.ask(question(b"unanswered"))
        requests = [(await hanging.expect(Kind.ASK)).request for _ in range(2)]
        await hanging.say(Kind.PART, requests[0], b"1")
        await taken(begun)
        second = await stage.collector()
        with pytest.raises(InternalError, match="another took its place"):
            await taken(begun)
        asked = await second.expect(Kind.ASK)
        assert asked_for(asked) == b"unanswered"
        await second.say(Kind.LAST, asked.request, b"answer")
        assert (await taken(unanswered)).body == b"answer"
        await hanging.end()


@pytest.mark.parametrize(
    "data",
    [b"\xff" * 9, bytes(4) + b"\x63" + bytes(4), b"\x02\0\0\0\x07" + bytes(4) + b"{}"],
    ids=["length beyond the bound", "unknown kind", "no greeting"],
)
async def test_a_collector_that_breaks_the_line_is_dropped(data: bytes) -> None:
    async with staged() as stage:
        broken = await stage.collector()
        exchange = stage.relay.ask(question(b"question"))
        await broken.expect(Kind.ASK)
        await broken.raw(data)
        await stage.lost(1)
        await broken.end()
        second = await stage.collector()
        await second.say(Kind.LAST, (await second.expect(Kind.ASK)).request, b"answer")
        assert (await taken(exchange)).body == b"answer"
        assert stage.relay.losses == {"collector_lost": 1}


async def test_a_live_answer_goes_on_with_the_next_collector_from_where_the_last_one_was_lost() -> None:
    async with staged() as stage:
        first = await stage.collector()
        exchange = stage.relay.ask(question(b"live"), live=True)
        asked = await first.expect(Kind.ASK)
        await first.say(Kind.LIVE, asked.request, link.encode_live(b"at 1", b"one"))
        assert (await taken(exchange)).body == b"one"
        await first.say(Kind.LIVE, asked.request, link.encode_live(b"at 2", b"two"))
        await stage.arrived(first)
        first.die()
        await stage.lost(1)
        second = await stage.collector()
        again = await second.expect(Kind.ASK)
        assert link.decode_question(again.body) == question(b"live")._replace(resume=b"at 2")
        assert again.request == asked.request
        assert (await taken(exchange)).body == b"two", "what had come stands"
        await second.expect(Kind.CREDIT)
        await second.say(Kind.LIVE, again.request, link.encode_live(b"at 3", b"three"))
        assert (await taken(exchange)).body == b"three"


async def test_a_live_answer_survives_any_number_of_collectors() -> None:
    async with staged() as stage:
        exchange = stage.relay.ask(question(b"live"), live=True)
        for number in range(3):
            collector = await stage.collector()
            asked = await collector.expect(Kind.ASK)
            await collector.say(Kind.LIVE, asked.request, link.encode_live(b"%d" % number, b"frame"))
            assert (await taken(exchange)).body == b"frame"
            await stage.arrived(collector)
            collector.die()
            await stage.lost(number + 1)


async def test_a_live_answer_of_which_nothing_came_begins_anew() -> None:
    async with staged() as stage:
        stage.relay.ask(question(b"live"), live=True)
        for number in range(3):
            collector = await stage.collector()
            asked = await collector.expect(Kind.ASK)
            assert link.decode_question(asked.body).resume == b""
            collector.die()
            await stage.lost(number + 1)


async def test_a_live_answer_that_was_cancelled_is_not_asked_again() -> None:
    async with staged() as stage:
        collector = await stage.collector()
        exchange = stage.relay.ask(question(b"live"), live=True)
        asked = await collector.expect(Kind.ASK)
        await collector.say(Kind.LIVE, asked.request, link.encode_live(b"at 1", b"one"))
        assert (await taken(exchange)).body == b"one"
        exchange.cancel()
        collector.die()
        with pytest.raises(InternalError):
            await taken(exchange)


async def test_a_live_message_that_makes_no_sense_ends_the_collector_that_sent_it() -> None:
    async with staged() as stage:
        collector = await stage.collector()
        stage.relay.ask(question(b"live"), live=True)
        asked = await collector.expect(Kind.ASK)
        await collector.say(Kind.LIVE, asked.request, b"\xffshort")
        await stage.lost(1)

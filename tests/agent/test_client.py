"""Client against a scripted procmond over a real Unix socket, on both event loops."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from agent.client import Client
from common.errors import (
    Busy,
    ConnectionLost,
    DeadlineExceeded,
    Denied,
    InternalError,
    InvalidTask,
    ProtocolViolation,
    SequenceError,
    TaskIdError,
    Unreachable,
    Unsupported,
    UntrustedServer,
)
from common.framing import encode_frame
from common.limits import CLIENT_QUEUE_FRAMES, READ_QUEUE_FRAMES
from common.messages import (
    CapabilityResponse,
    CollectionOptions,
    CollectionSummary,
    DetectionResult,
    DetectionTask,
    ErrorCode,
    HashCheck,
    HashResult,
    ProcessRecord,
    TaskType,
    failure,
    new_enumerate_task,
    new_hash_check_task,
    success,
)
from tests.support.peer import CAPABILITIES, Peer, scripted, whole

PATIENCE_S = 20.0
"""Ends a test that hangs; no test waits for it."""

LIVE = DetectionTask(
    task_type=TaskType.MONITOR_PROCESS_TREE, stream=True, options=CollectionOptions(live=True)
)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "procmond.sock")


def client_of(path: str, **more: Any) -> Client:
    return Client(path, **({"server_uids": (os.geteuid(),), "name": "test"} | more))


def play(path: str, script: Callable[[Peer], Awaitable[None]], **more: Any) -> _Play:
    return _Play(path, script, more)


class _Play:
    """A scripted peer and a client connected to it, within PATIENCE_S."""

    def __init__(self, path: str, script: Callable[[Peer], Awaitable[None]], more: dict[str, Any]) -> None:
        self._peer = scripted(path, script)
        self._client = client_of(path, **more)
        self._patience = asyncio.timeout(PATIENCE_S)

    async def __aenter__(self) -> Client:
        await self._patience.__aenter__()
        await self._peer.__aenter__()
        try:
            return await self._client.__aenter__()
        except BaseException as error:
            await self._peer.__aexit__(None, None, None)
            await self._patience.__aexit__(type(error), error, None)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.__aexit__(kind, error, trace)
        await self._peer.__aexit__(None, None, None)
        await self._patience.__aexit__(kind, error, trace)


# ------------------------------------------------------------------------------------------- answers


async def test_negotiation_says_who_asks_and_keeps_what_the_server_says(path: str) -> None:
    seen: list[DetectionTask] = []

    async def script(peer: Peer) -> None:
        seen.append(await peer.negotiate())
        await peer.end()

    async with play(path, script, version="1.2") as client:
        assert client.capabilities == CAPABILITIES
        assert not client.legacy
    request = seen[0].capability_request
    assert request is not None
    assert (request.client_id, request.client_version, request.protocol_version) == ("test", "1.2", 1)


async def test_the_frames_of_a_streamed_answer_are_merged(path: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.negotiate()
        task = await peer.task()
        assert task.stream
        assert task.deadline_ms == 1500
        records = [ProcessRecord(pid=pid) for pid in (1, 2, 3)]
        for sequence, record in enumerate(records):
            await peer.answer(
                DetectionResult(
                    task_id=task.task_id,
                    success=True,
                    processes=(record,),
                    more=True,
                    sequence=sequence,
                    boot_id="b",
                )
            )
        await peer.answer(
            whole(task, sequence=3, summary=CollectionSummary(processes_seen=3, processes_returned=3))
        )
        await peer.end()

    async with play(path, script) as client:
        answer = await client.ask(new_enumerate_task("t1", stream=True), deadline_s=1.5)
    assert [record.pid for record in answer.processes] == [1, 2, 3]
    assert answer.boot_id == "b"
    assert answer.summary is not None
    assert answer.summary.processes_seen == 3
    assert answer.error is None


async def test_success_is_judged_by_the_last_frame(path: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.negotiate()
        task = await peer.task()
        part = DetectionResult(task_id=task.task_id, processes=(ProcessRecord(pid=1),), more=True)
        await peer.answer(part, whole(task, sequence=1))
        task = await peer.task()
        part = DetectionResult(task_id=task.task_id, processes=(ProcessRecord(pid=1),), more=True)
        await peer.answer(part, whole(task, success=False, sequence=1, error_code=ErrorCode.INTERNAL))

    async with play(path, script) as client:
        answer = await client.ask(new_enumerate_task("t1", stream=True))
        assert (len(answer.processes), answer.error) == (1, None)
        with pytest.raises(InternalError):
            await client.ask(new_enumerate_task("t2", stream=True))


async def test_a_task_without_id_gets_one_and_without_deadline_the_default(path: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.negotiate()
        task = await peer.task()
        assert task.task_id
        assert task.deadline_ms == 30_000
        await peer.answer(whole(task))

    async with play(path, script) as client:
        await client.ask(DetectionTask())


async def test_a_task_s_own_id_and_deadline_are_kept(path: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.negotiate()
        task = await peer.task()
        assert task.deadline_ms == 1234
        assert task.task_id == wanted
        await peer.answer(whole(task))

    async with play(path, script) as client:
        wanted = client.next_task_id()
        assert wanted != client.next_task_id()
        await client.ask(new_enumerate_task(wanted, deadline_ms=1234))


async def test_answers_of_concurrent_tasks_interleave(path: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.negotiate()
        first, second = await peer.task(), await peer.task()
        await peer.answer(
            DetectionResult(
                task_id=first.task_id, success=True, processes=(ProcessRecord(pid=1),), more=True
            ),
            whole(second, processes=(ProcessRecord(pid=2),)),
            whole(first, sequence=1),
        )

    async with play(path, script) as client, asyncio.TaskGroup() as group:
        one = group.create_task(client.ask(new_enumerate_task("t1", stream=True)))
        two = group.create_task(client.ask(new_enumerate_task("t2", stream=True)))
    assert [record.pid for record in one.result().processes] == [1]
    assert [record.pid for record in two.result().processes] == [2]


@pytest.mark.parametrize(
    "code", [ErrorCode.DEADLINE, ErrorCode.CANCELLED, ErrorCode.SHUTTING_DOWN], ids=lambda code: code.name
)
async def test_an_answer_that_ended_early_keeps_what_was_sent(path: str, code: ErrorCode) -> None:
    async def script(peer: Peer) -> None:
        await peer.negotiate()
        task = await peer.task()
        part = DetectionResult(
            task_id=task.task_id, success=True, processes=(ProcessRecord(pid=7),), more=True
        )
        await peer.answer(
            part, whole(task, success=False, sequence=1, error_code=code, error_message="ended early")
        )

    async with play(path, script) as client:
        answer = await client.ask(new_enumerate_task("t1", stream=True))
    assert [record.pid for record in answer.processes] == [7]
    assert answer.summary is not None
    assert answer.error is not None
    assert (answer.error.code, str(answer.error)) == (code, "ended early")


async def test_a_refusal_is_raised_and_the_connection_stays(path: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.negotiate()
        await peer.answer(failure((await peer.task()).task_id, "not for you", ErrorCode.DENIED))
        await peer.answer(whole(await peer.task()))
        await peer.end()

    async with play(path, script) as client:
        with pytest.raises(Denied, match="not for you"):
            await client.ask(new_enumerate_task("t1"))
        await client.ask(new_enumerate_task("t2"))
        assert not client.legacy


# ----------------------------------------------------------------------- results nobody waits for


async def test_results_nobody_waits_for_are_counted_and_dropped(path: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.negotiate()
        task = await peer.task()
        await peer.answer(success("never-asked"), whole(task), whole(task), success("never-asked"))
        await peer.answer(whole(await peer.task()))
        await peer.end()

    async with play(path, script) as client:
        await client.ask(new_enumerate_task("t1"))
        await client.ask(new_enumerate_task("t2"))
        assert (client.counters.unknown, client.counters.duplicate, client.counters.late) == (2, 1, 0)


async def test_a_silent_server_is_given_up_at_the_deadline_and_its_answer_is_late(path: str) -> None:
    settled = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.negotiate()
        silent = await peer.task()
        cancel = await peer.task()
        assert (cancel.task_type, cancel.target_task_id) == (TaskType.CANCEL_TASK, silent.task_id)
        await peer.answer(whole(silent), success(cancel.task_id))
        settled.set()
        await peer.answer(whole(await peer.task()))
        await peer.end()

    async with play(path, script, grace_s=0.01) as client:
        with pytest.raises(DeadlineExceeded):
            await client.ask(new_enumerate_task("t1"), deadline_s=0.01)
        await settled.wait()
        await client.ask(new_enumerate_task("t2"))
        assert (client.counters.expired, client.counters.late) == (1, 1)


@pytest.mark.parametrize("sequences", [(1,), (0, 2), (0, 0)], ids=str)
async def test_a_hole_or_a_repeat_fails_that_task_alone(path: str, sequences: tuple[int, ...]) -> None:
    settled = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.negotiate()
        task = await peer.task()
        for sequence in sequences:
            await peer.answer(
                DetectionResult(task_id=task.task_id, success=True, more=True, sequence=sequence)
            )
        cancel = await peer.task()
        assert cancel.target_task_id == task.task_id
        await peer.answer(failure(cancel.task_id, "no such task", ErrorCode.NOT_FOUND))
        settled.set()
        await peer.answer(whole(await peer.task()))

    async with play(path, script) as client:
        with pytest.raises(SequenceError):
            await client.ask(new_enumerate_task("t1", stream=True))
        await settled.wait()
        await client.ask(new_enumerate_task("t2"))
        assert client.counters.broken == 1


# -------------------------------------------------------------------------------- the connection ends


@pytest.mark.parametrize(
    ("code", "kind"),
    [(ErrorCode.PROTOCOL, ProtocolViolation), (ErrorCode.BUSY, Busy)],
    ids=["protocol", "busy"],
)
async def test_a_result_with_empty_id_fails_every_waiter(
    path: str, code: ErrorCode, kind: type[Exception]
) -> None:
    async def script(peer: Peer) -> None:
        await peer.negotiate()
        await peer.task()
        await peer.task()
        await peer.answer(failure("", "enough", code))
        await peer.end()

    async with play(path, script) as client:
        asked = [client.ask(new_enumerate_task(task_id)) for task_id in ("t1", "t2")]
        for outcome in await asyncio.gather(*asked, return_exceptions=True):
            assert isinstance(outcome, kind)
            assert str(outcome) == "enough"
        with pytest.raises(kind, match="enough"):
            await client.wait_lost()
        with pytest.raises(kind, match="enough"):
            await client.ask(new_enumerate_task("t3"))
        assert client.counters.lost == 2


async def test_a_busy_server_is_busy_and_not_unreachable(path: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.answer(failure("", "64 connections of this user", ErrorCode.BUSY))

    with pytest.raises(Busy, match="64 connections"):
        async with play(path, script):
            pytest.fail("connected")


async def test_the_end_of_the_stream_in_an_answer_fails_the_waiter(path: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.negotiate()
        task = await peer.task()
        await peer.answer(DetectionResult(task_id=task.task_id, success=True, more=True))

    async with play(path, script) as client:
        with pytest.raises(ConnectionLost, match="closed"):
            await client.ask(new_enumerate_task("t1", stream=True))
        with pytest.raises(ConnectionLost):
            await client.wait_lost()


@pytest.mark.parametrize(
    "garbage",
    [
        b"\0" * 64,
        b"\xff" * 64,
        encode_frame(b"x")[:4] + b"\0\0\0\0x",
        encode_frame(b"\xff\xff\xff"),
        encode_frame(b"half of this")[:-3],
    ],
    ids=["length 0", "too large", "bad checksum", "undecodable", "cut"],
)
async def test_garbage_from_the_server_fails_the_waiter_and_closes(path: str, garbage: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.negotiate()
        await peer.task()
        await peer.raw(garbage)

    async with play(path, script) as client:
        with pytest.raises(ConnectionLost, match="broke the protocol"):
            await client.ask(new_enumerate_task("t1"))


async def test_an_error_in_the_body_leaves_as_it_is(path: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.negotiate()
        await peer.end()

    with pytest.raises(LookupError, match="mine"):
        async with play(path, script):
            raise LookupError("mine")


# -------------------------------------------------------------------------------------- who listens


async def test_no_byte_is_sent_to_a_server_of_another_uid(path: str) -> None:
    got: list[bytes | None] = []

    async def script(peer: Peer) -> None:
        got.append(await peer.payload())

    with pytest.raises(UntrustedServer, match=f"uid {os.geteuid()} listens there, not uid 54321"):
        async with play(path, script, server_uids=(54321,)):
            pytest.fail("connected")
    assert got in ([], [None])


async def test_no_socket_and_nobody_listening_are_unreachable_at_once(path: str) -> None:
    with pytest.raises(Unreachable, match="no such socket") as missing:
        async with client_of(path):
            pytest.fail("connected")
    assert (missing.value.who, missing.value.where) == ("procmond", path)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)
    with pytest.raises(Unreachable, match="nobody listens"):
        async with client_of(path):
            pytest.fail("connected")


@pytest.mark.parametrize("bad", ["/tmp/" + "x" * 108, "/dev/null/socket", "/tmp"], ids=repr)
async def test_a_path_that_cannot_be_a_socket_is_unreachable(bad: str) -> None:
    with pytest.raises(Unreachable):
        async with client_of(bad):
            pytest.fail("connected")


async def test_a_full_backlog_is_waited_for(path: str) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.setblocking(False)
    listener.bind(path)
    listener.listen(0)
    waiting = fill_backlog(path)

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        for _ in waiting:
            (await loop.sock_accept(listener))[0].close()
        accepted, _ = await loop.sock_accept(listener)
        reader, writer = await asyncio.open_connection(sock=accepted)
        await Peer(reader, writer).negotiate()
        writer.close()
        await writer.wait_closed()

    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        connecting = client_of(path)
        entered = group.create_task(enter_and_leave(connecting), name="client")
        await asyncio.sleep(0)
        assert not entered.done()
        group.create_task(serve(), name="server")
    for one in (*waiting, listener):
        one.close()


async def test_a_backlog_that_stays_full_is_unreachable(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        waiting = fill_backlog(path)
        with pytest.raises(Unreachable, match="backlog"):
            await enter_and_leave(client_of(path, connect_timeout_s=0.05))
        for one in waiting:
            one.close()


def fill_backlog(path: str) -> list[socket.socket]:
    waiting: list[socket.socket] = []
    while True:
        one = socket.socket(socket.AF_UNIX)
        one.setblocking(False)
        try:
            one.connect(path)
        except BlockingIOError:
            one.close()
            return waiting
        waiting.append(one)


async def enter_and_leave(client: Client) -> None:
    async with client:
        pass


async def test_a_server_that_accepts_and_says_nothing_is_unreachable(path: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.task()
        await peer.end()

    with pytest.raises(Unreachable, match="does not answer"):
        async with play(path, script, connect_timeout_s=0.05):
            pytest.fail("connected")


async def test_a_server_that_closes_unread_is_unreachable(path: str) -> None:
    async def script(peer: Peer) -> None:
        pass

    with pytest.raises(Unreachable, match="closed the connection"):
        async with play(path, script):
            pytest.fail("connected")


# ------------------------------------------------------------------------------------ legacy servers


@pytest.mark.parametrize(
    "refusal",
    [
        failure("", "unknown task type"),
        failure("", "unknown task type", ErrorCode.UNSUPPORTED),
        failure("", "task_type: 100; 0 to 3", ErrorCode.INVALID),
        success(""),
        DetectionResult(success=True, capability_response=CapabilityResponse(negotiation_success=True)),
        DetectionResult(success=True, capability_response=CapabilityResponse(protocol_version=1)),
    ],
    ids=["plain", "unsupported", "invalid", "no response", "no version", "refused"],
)
async def test_a_server_that_does_not_negotiate_is_asked_in_the_specification_alone(
    path: str, refusal: DetectionResult
) -> None:
    async def script(peer: Peer) -> None:
        negotiation = await peer.task()
        await peer.answer(
            DetectionResult(
                task_id=negotiation.task_id,
                success=refusal.success,
                error_message=refusal.error_message,
                error_code=refusal.error_code,
                capability_response=refusal.capability_response,
            )
        )
        task = await peer.task()
        assert task == DetectionTask(task_id="t1")
        await peer.answer(success("t1", (ProcessRecord(pid=1, start_time=5),)))
        await peer.end()

    async with play(path, script) as client:
        assert client.legacy
        options = CollectionOptions(environment=True)
        answer = await client.ask(new_enumerate_task("t1", stream=True, options=options), deadline_s=9)
        assert [record.pid for record in answer.processes] == [1]
        assert answer.summary is None
        with pytest.raises(Unsupported):
            await client.ask(LIVE)


async def test_another_refusal_to_negotiate_is_no_sign_of_age(path: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.answer(failure((await peer.task()).task_id, "ending", ErrorCode.SHUTTING_DOWN))

    with pytest.raises(Exception, match="ending"):
        async with play(path, script):
            pytest.fail("connected")


async def test_an_answer_without_summary_makes_the_connection_legacy(path: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.negotiate()
        await peer.answer(
            DetectionResult(
                task_id=(await peer.task()).task_id, success=True, hash_result=HashResult(success=True)
            )
        )
        assert await peer.task() == DetectionTask(task_id="t2")
        # A legacy server's frame is whole, whatever these numbers say.
        await peer.answer(DetectionResult(task_id="t2", success=True, more=True, sequence=5))

    async with play(path, script) as client:
        check = HashCheck(executable_path="/bin/true")
        answer = await client.ask(new_hash_check_task("t1", check))
        assert answer.hash_result == HashResult(success=True)
        assert client.legacy
        await client.ask(new_enumerate_task("t2", stream=True))


async def test_a_legacy_server_is_sent_no_cancel(path: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.answer(failure((await peer.task()).task_id, "unknown task type"))
        slow = await peer.task()
        following = await peer.task()
        assert following.task_id == "t2"
        await peer.answer(success(slow.task_id), success("t2"))
        await peer.end()

    async with play(path, script, grace_s=0.01) as client:
        with pytest.raises(DeadlineExceeded):
            await client.ask(new_enumerate_task("t1"), deadline_s=0.01)
        await client.ask(new_enumerate_task("t2"))
        assert client.counters.late == 1


# ------------------------------------------------------------------------------- cancel and abandon


async def test_cancelling_ask_ends_the_work_on_the_server(path: str) -> None:
    asked, settled = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.negotiate()
        task = await peer.task()
        asked.set()
        cancel = await peer.task()
        assert (cancel.task_type, cancel.target_task_id) == (TaskType.CANCEL_TASK, task.task_id)
        await peer.answer(whole(task, success=False, error_code=ErrorCode.CANCELLED), success(cancel.task_id))
        settled.set()
        await peer.answer(whole(await peer.task()))
        await peer.end()

    async with play(path, script) as client:
        asking = asyncio.create_task(client.ask(new_enumerate_task("t1")), name="asking")
        await asked.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await settled.wait()
        await client.ask(new_enumerate_task("t2"))
        assert (client.counters.cancelled, client.counters.late) == (1, 1)
        assert not client.legacy


async def test_leaving_a_stream_ends_the_work_on_the_server(path: str) -> None:
    cancelled = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.negotiate()
        task = await peer.task()
        assert task.deadline_ms == 0
        await peer.answer(DetectionResult(task_id=task.task_id, success=True, more=True))
        assert (await peer.task()).target_task_id == task.task_id
        cancelled.set()
        await peer.end()

    async with play(path, script) as client:
        async with client.stream(LIVE) as frames:
            async for frame in frames:
                assert frame.more
                break
        with pytest.raises(StopAsyncIteration):
            await anext(frames)
        await cancelled.wait()


async def test_a_stream_yields_the_last_frame_of_an_answer_that_ended_early(path: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.negotiate()
        task = await peer.task()
        await peer.answer(
            DetectionResult(task_id=task.task_id, success=True, more=True),
            whole(task, success=False, sequence=1, error_code=ErrorCode.SHUTTING_DOWN),
        )

    async with play(path, script) as client, client.stream(LIVE) as frames:
        codes = [frame.error_code async for frame in frames]
    assert codes == [ErrorCode.UNSPECIFIED, ErrorCode.SHUTTING_DOWN]


async def test_leaving_the_client_does_not_wait_for_a_silent_server(path: str) -> None:
    asked = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.negotiate()
        await peer.task()
        asked.set()
        await peer.end()

    async with play(path, script) as client:
        asking = asyncio.create_task(client.ask(new_enumerate_task("t1")), name="asking")
        await asked.wait()
    with pytest.raises(ConnectionLost):
        await asking


# ---------------------------------------------------------------------------------------- backpressure


BIG = ProcessRecord(pid=1, command_line=("x" * 100_000,))


async def test_a_stream_nobody_takes_stops_the_server_and_goes_on_where_it_stopped(path: str) -> None:
    total = 4 * (CLIENT_QUEUE_FRAMES + READ_QUEUE_FRAMES)
    sent = 0
    blocked = asyncio.Event()

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.negotiate()
        task = await peer.task()
        for sequence in range(total):
            frame = DetectionResult(
                task_id=task.task_id, success=True, processes=(BIG,), more=True, sequence=sequence
            )
            writing = asyncio.create_task(peer.answer(frame), name="writing")
            done, _ = await asyncio.wait([writing], timeout=0.5)
            if not done:
                blocked.set()  # for half a second the client took nothing
            await writing
            sent += 1
        await peer.answer(whole(task, sequence=total))

    async with play(path, script) as client:
        async with client.stream(new_enumerate_task("t1", stream=True)) as frames:
            first = await anext(frames)
            await blocked.wait()
            assert sent < total
            sequences = [first.sequence] + [frame.sequence async for frame in frames]
        assert sequences == list(range(total + 1))


async def test_leaving_a_stream_nobody_took_frees_the_connection_for_others(path: str) -> None:
    flooded, cancelled = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.negotiate()
        task = await peer.task()
        for sequence in range(2 * CLIENT_QUEUE_FRAMES):
            await peer.answer(
                DetectionResult(task_id=task.task_id, success=True, more=True, sequence=sequence)
            )
        flooded.set()
        assert (await peer.task()).task_type == TaskType.CANCEL_TASK
        cancelled.set()
        await peer.answer(whole(await peer.task()))
        await peer.end()

    async with play(path, script) as client:
        async with client.stream(LIVE) as frames:
            await anext(frames)
            await flooded.wait()
        await cancelled.wait()
        await client.ask(new_enumerate_task("t2"))


async def test_leaving_a_complete_stream_nobody_took_frees_the_connection(path: str) -> None:
    flooded = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.negotiate()
        task = await peer.task()
        last = 2 * CLIENT_QUEUE_FRAMES
        for sequence in range(last):
            await peer.answer(
                DetectionResult(task_id=task.task_id, success=True, more=True, sequence=sequence)
            )
        await peer.answer(whole(task, sequence=last))
        flooded.set()
        await peer.end()

    async with play(path, script) as client:
        frames = client.stream(LIVE)
        await anext(frames)
        await flooded.wait()


async def test_an_answer_beyond_the_bound_is_given_up(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.limits.CLIENT_MAX_ANSWER_BYTES", 150_000)

    async def script(peer: Peer) -> None:
        await peer.negotiate()
        task = await peer.task()
        for sequence in range(2):
            await peer.answer(
                DetectionResult(
                    task_id=task.task_id, success=True, processes=(BIG,), more=True, sequence=sequence
                )
            )
        assert (await peer.task()).target_task_id == task.task_id

    async with play(path, script) as client:
        with pytest.raises(Exception, match="more than 150000 bytes"):
            await client.ask(new_enumerate_task("t1", stream=True))
        with pytest.raises(ConnectionLost):
            await client.wait_lost()


# ------------------------------------------------------------------------------------- what is not sent


async def test_what_the_server_would_close_over_is_not_sent(path: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.negotiate()
        await peer.answer(whole(await peer.task()))
        await peer.end()

    async with play(path, script) as client:
        with pytest.raises(TaskIdError):
            await client.ask(new_enumerate_task("x" * 129))
        with pytest.raises(InvalidTask, match="bytes encoded"):
            await client.ask(DetectionTask(task_id="t1", metadata="x" * 2_000_000))
        with pytest.raises(InvalidTask, match="not encodable"):
            await client.ask(DetectionTask(task_id="t2", metadata="\ud800"))
        await client.ask(new_enumerate_task("t1"))


async def test_a_client_outside_its_block_refuses_to_work(path: str) -> None:
    with pytest.raises(RuntimeError, match="async with"):
        client_of(path).stream(LIVE)

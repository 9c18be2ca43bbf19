"""What peers may do to a running procmond, and what it answers: frames, ids, limits, credentials."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections import Counter

import pytest

from common import codec, framing, limits
from common.messages import (
    CollectionOptions,
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
from tests.support.daemons import Client, Procmond, as_user, eventually, sleepers
from tests.support.privilege import needs_root

NOBODY = 65_534


def _negotiate(task_id: str = "n") -> DetectionTask:
    return DetectionTask(task_id=task_id, task_type=TaskType.NEGOTIATE_CAPABILITIES)


def _ends_with_protocol_error(client: Client) -> str:
    result = client.receive()
    assert result is not None
    assert (result.task_id, result.error_code) == ("", ErrorCode.PROTOCOL)
    assert client.receive() is None
    assert result.error_message is not None
    return result.error_message


def test_capabilities_say_what_is_in_force(client: Client) -> None:
    (result,) = client.ask(_negotiate())
    response = result.capability_response
    assert response is not None
    assert response.negotiation_success
    assert response.protocol_version == limits.PROTOCOL_VERSION
    assert "sha256" in response.digests
    assert response.max_frame_size == limits.DEFAULT_MAX_FRAME_SIZE
    assert response.permission == (Permission.ADMINISTER if os.geteuid() == 0 else Permission.QUERY)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (bytes(8), "length 0"),
        (struct.pack("<II", 2**20 + 1, 0), "limit"),
        (struct.pack("<II", 2, 1) + b"ab", "checksum"),
        (framing.encode_frame(b"\xff\xff\xff"), "DetectionTask"),
    ],
    ids=["empty", "oversized", "bad-checksum", "undecodable"],
)
def test_a_bad_frame_ends_the_connection_with_a_reason(procmond: Procmond, data: bytes, words: str) -> None:
    with procmond.connect() as client:
        client.sock.sendall(data)
        assert words in _ends_with_protocol_error(client)


def test_a_truncated_frame_ends_the_connection_with_a_reason(procmond: Procmond) -> None:
    with procmond.connect() as client:
        client.sock.sendall(framing.encode_frame(codec.encode_task(_negotiate()))[:-1])
        client.sock.shutdown(socket.SHUT_WR)
        assert "bytes of a frame" in _ends_with_protocol_error(client)


def test_half_a_frame_held_open_is_closed_at_its_deadline() -> None:
    with Procmond(environment={"PROCMOND_LIMITS__FRAME_DEADLINE": "0.2"}) as procmond:
        with procmond.connect() as client:
            client.sock.sendall(b"\x05\x00")
            assert "not complete" in _ends_with_protocol_error(client)
        with procmond.connect() as client:
            assert client.ask(_negotiate())[0].success


@pytest.mark.parametrize("task_id", ["", "x" * (limits.MAX_TASK_ID_BYTES + 1)], ids=["empty", "over-long"])
def test_an_id_that_cannot_be_answered_ends_the_connection(procmond: Procmond, task_id: str) -> None:
    with procmond.connect() as client:
        client.send(_negotiate(task_id))
        assert "task_id" in _ends_with_protocol_error(client)


def test_an_id_reused_in_flight_is_never_answered_under_that_id(procmond: Procmond) -> None:
    with procmond.connect() as client:
        client.send(new_enumerate_task("same", stream=True), new_enumerate_task("same", stream=True))
        while (result := client.receive()) is not None:
            if not result.task_id:
                assert result.error_code is ErrorCode.PROTOCOL
                break
            assert result.more, "the first answer ended before the second task was read"
        assert client.receive() is None


def test_a_task_that_fills_the_largest_frame_is_answered(procmond: Procmond) -> None:
    names = tuple(f"{number:0255d}" for number in range(limits.DEFAULT_MAX_FRAME_SIZE // 260))

    def task(metadata: int) -> DetectionTask:
        return DetectionTask(
            task_id="t", process_filter=ProcessFilter(process_names=names), metadata="m" * metadata
        )

    def room() -> int:
        return limits.DEFAULT_MAX_FRAME_SIZE - len(codec.encode_task(task(metadata)))

    metadata = limits.MAX_METADATA_BYTES // 2
    names += ("n" * 255,) * (room() // 258)
    full = task(metadata + room())
    assert len(codec.encode_task(full)) == limits.DEFAULT_MAX_FRAME_SIZE
    with procmond.connect() as client:
        assert client.ask(full)[-1].success
    assert not procmond.log("child_ended")


def test_refusals_are_typed_and_the_connection_stays(client: Client) -> None:
    unknown = client.ask(DetectionTask(task_id="a", task_type=77))[-1]
    assert unknown.error_code is ErrorCode.UNSUPPORTED
    invalid = client.ask(DetectionTask(task_id="b", task_type=TaskType.CHECK_PROCESS_HASH))[-1]
    assert invalid.error_code is ErrorCode.INVALID
    assert "hash_check" in (invalid.error_message or "")
    relative = client.ask(new_hash_check_task("c", HashCheck(executable_path="bin/true")))[-1]
    assert relative.error_code is ErrorCode.INVALID
    missing = client.ask(
        DetectionTask(task_id="d", task_type=TaskType.CANCEL_TASK, target_task_id="nothing")
    )[-1]
    assert missing.error_code is ErrorCode.NOT_FOUND
    for refusal in (unknown, invalid, relative, missing):
        assert not refusal.success
        assert refusal.summary is not None
    assert client.ask(_negotiate())[0].success


def test_tasks_beyond_the_limit_of_a_connection_are_busy_at_once(procmond: Procmond) -> None:
    with procmond.connect() as client:
        count = limits.MAX_TASKS_PER_CONNECTION + 4
        tasks = [new_enumerate_task(f"t{number}", stream=True) for number in range(count)]
        client.send(*tasks)
        ended: Counter[ErrorCode] = Counter()
        while ended.total() < count:
            result = client.receive()
            assert result is not None
            if not result.more:
                ended[result.error_code] += 1
        assert ended == {ErrorCode.UNSPECIFIED: limits.MAX_TASKS_PER_CONNECTION, ErrorCode.BUSY: 4}


def test_answers_of_pipelined_tasks_interleave_and_each_is_in_order(procmond: Procmond) -> None:
    with procmond.connect() as client:
        client.send(*(new_enumerate_task(f"t{number}", stream=True) for number in range(4)))
        frames: dict[str, list[DetectionResult]] = {}
        while sum(not answer[-1].more for answer in frames.values()) < 4:
            result = client.receive()
            assert result is not None
            frames.setdefault(result.task_id, []).append(result)
        for answer in frames.values():
            assert [frame.sequence for frame in answer] == list(range(len(answer)))
            assert answer[-1].summary is not None
            assert answer[-1].summary.processes_returned == sum(len(frame.processes) for frame in answer)


def test_a_cancelled_task_ends_with_its_summary_before_the_cancellation_succeeds() -> None:
    with sleepers(1500), Procmond() as procmond, procmond.connect() as client:
        client.send(new_enumerate_task("long", stream=True, options=CollectionOptions()))
        first = client.receive()
        assert first is not None
        assert first.more
        client.send(DetectionTask(task_id="stop", task_type=TaskType.CANCEL_TASK, target_task_id="long"))
        ends: list[DetectionResult] = []
        while len(ends) < 2:
            result = client.receive()
            assert result is not None
            if not result.more:
                ends.append(result)
        assert [(end.task_id, end.error_code) for end in ends] == [
            ("long", ErrorCode.CANCELLED),
            ("stop", ErrorCode.UNSPECIFIED),
        ]
        assert ends[0].summary is not None
        assert ends[0].summary.processes_seen > 0


def test_a_deadline_ends_the_answer_and_what_was_sent_stays_valid() -> None:
    with sleepers(1500), Procmond() as procmond, procmond.connect() as client:
        frames = client.ask(new_enumerate_task("late", stream=True, deadline_ms=60))
        assert frames[-1].error_code is ErrorCode.DEADLINE
        assert not frames[-1].success
        assert frames[-1].summary is not None
        assert all(record.pid for frame in frames for record in frame.processes)


def test_an_answer_that_needs_a_stream_says_so() -> None:
    environment = {"PROCMOND_LIMITS__MAX_FRAME_SIZE": str(limits.MIN_MAX_FRAME_SIZE)}
    with sleepers(2500), Procmond(environment=environment) as procmond, procmond.connect() as client:
        (result,) = client.ask(new_enumerate_task("one-frame"))
        assert result.error_code is ErrorCode.TOO_LARGE
        assert "stream" in (result.error_message or "")
        frames = client.ask(new_enumerate_task("many", stream=True))
        assert len(frames) > 1
        assert sum(len(frame.processes) for frame in frames) >= 2500


@needs_root
def test_a_peer_of_another_uid_is_closed_before_a_byte_is_read() -> None:
    with Procmond() as procmond:
        os.chmod(procmond.socket, 0o666)

        def talk() -> bool:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError), procmond.connect() as client:
                client.send(_negotiate())
                return client.receive() is None
            return True

        assert as_user(NOBODY, NOBODY, talk)
        eventually(lambda: procmond.log("peer_denied"))
        assert procmond.log("peer_denied")[0]["peer_uid"] == NOBODY
        with procmond.connect() as client:
            summary = client.ask(_negotiate())[0].summary
            assert summary is not None
            assert {loss.reason: loss.count for loss in summary.losses} == {"peer_denied": 1}


@needs_root
def test_members_of_an_allowed_group_may_query_but_not_administer() -> None:
    with Procmond("--allow-group", "54321") as procmond:

        def talk() -> Permission:
            with procmond.connect() as client:
                response = client.ask(_negotiate())[0].capability_response
                assert response is not None
                return response.permission

        assert as_user(NOBODY, NOBODY, talk, groups=(54321,)) is Permission.QUERY
        status = os.stat(procmond.socket)
        assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (0, 54321, 0o660)


@needs_root
def test_who_may_only_query_learns_nothing_from_a_refusal() -> None:
    with Procmond("--allow-group", "54321") as procmond:
        paths = ["/etc/shadow", "/nowhere", "/dev/null", "/proc/1/environ", "/root", "/etc/passwd"]

        def talk() -> list[str | None]:
            with procmond.connect() as client:
                answers = [
                    client.ask(new_hash_check_task(path, HashCheck(executable_path=path)))[0]
                    for path in paths
                ]
            assert {answer.error_code for answer in answers} == {ErrorCode.REFUSED}
            assert all(answer.hash_result is None and not answer.success for answer in answers)
            return [answer.error_message for answer in answers]

        assert len(set(as_user(NOBODY, NOBODY, talk, groups=(54321,)))) == 1
        with procmond.connect() as client:
            reasons = {
                client.ask(new_hash_check_task(path, HashCheck(executable_path=path)))[0].error_message
                for path in paths
            }
            assert len(reasons) == len(paths)


def test_a_thousand_connections_at_once_are_served_or_told_busy() -> None:
    with Procmond() as procmond:
        sockets = []
        try:
            for _ in range(1000):
                sock = socket.socket(socket.AF_UNIX)
                sock.settimeout(20)
                sock.connect(procmond.socket)
                sockets.append(sock)
            turned_away = 0
            for sock in sockets[limits.MAX_CONNECTIONS_PER_UID :]:
                decoder = framing.FrameDecoder()
                payloads: list[bytes] = []
                while not payloads:
                    payloads = decoder.feed(sock.recv(4096))
                result = codec.decode_result(payloads[0])
                assert (result.task_id, result.error_code) == ("", ErrorCode.BUSY)
                assert sock.recv(1) == b""
                turned_away += 1
            assert turned_away == 1000 - limits.MAX_CONNECTIONS_PER_UID
        finally:
            for sock in sockets:
                sock.close()

        def served() -> bool:
            with contextlib.suppress(OSError), procmond.connect() as client:
                return client.ask(_negotiate())[0].success
            return False

        assert eventually(served), "the front has seen all of them go"

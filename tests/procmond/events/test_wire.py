"""The parser of records, against records laid out by hand from records.bpf.h."""

from __future__ import annotations

import contextlib
import ctypes
import re
from contextlib import suppress
from ctypes import c_char, c_int64, c_uint16, c_uint32, c_uint64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.messages import ProcessStatus
from procmond.events import facts, ring, wire
from procmond.events.facts import (
    CredentialsEvent,
    ExecEvent,
    ExitEvent,
    ForkEvent,
    KernelEvent,
    TaskFacts,
    forward,
    status_of,
)
from procmond.events.wire import (
    MalformedRecord,
    kind_at,
    lasting,
    parse_event,
    parse_task,
    parse_tasks,
    split_tasks,
)

HEADER_FILE = Path(wire.__file__).with_name("records.bpf.h").read_text()
FORK, EXEC, EXIT, CREDENTIALS, TASK = range(1, 6)


class Header(ctypes.Structure):
    _fields_ = (("kind", c_uint16), ("layout", c_uint16), ("length", c_uint32), ("boot_ns", c_uint64))


class Identity(ctypes.Structure):
    _fields_ = (
        *((name, c_uint64) for name in ("start_ns", "parent_start_ns", "exec_id", "cgroup_id")),
        *((name, c_uint32) for name in ("pid", "ppid", "uid", "euid", "gid", "egid", "login_uid", "session")),
        *((name, c_uint32) for name in ("pid_namespace", "mount_namespace", "flags", "unused")),
        ("comm", c_char * 16),
    )


class Image(ctypes.Structure):
    _fields_ = (
        ("inode", c_uint64),
        *((name, c_int64) for name in ("size", "mtime_s", "ctime_s")),
        *((name, c_uint32) for name in ("mtime_ns", "ctime_ns", "device", "links")),
    )


class Fork(ctypes.Structure):
    _fields_ = (
        ("header", Header),
        ("process", Identity),
        ("forker_start_ns", c_uint64),
        ("forker_pid", c_uint32),
        ("unused", c_uint32),
    )


class Exec(ctypes.Structure):
    _fields_ = (
        ("header", Header),
        ("process", Identity),
        ("image", Image),
        *((name, c_uint32) for name in ("argument_length", "arguments")),
        *((name, c_uint16) for name in ("filename", "interpreter", "path", "cwd", "cgroup")),
        ("unused", c_uint16 * 3),
    )


class Exit(ctypes.Structure):
    _fields_ = (
        ("header", Header),
        ("process", Identity),
        ("run_ns", c_uint64),
        ("status", c_uint32),
        ("unused", c_uint32),
    )


class Credentials(ctypes.Structure):
    _fields_ = (("header", Header), ("process", Identity), ("former", c_uint32 * 4))


class Task(ctypes.Structure):
    _fields_ = (
        ("header", Header),
        ("process", Identity),
        ("image", Image),
        *((name, c_uint64) for name in ("cpu_ns", "resident_pages", "argument_start", "argument_end")),
        *((name, c_uint32) for name in ("state", "exit_state", "threads", "tty")),
        *((name, c_uint16) for name in ("path", "cwd", "cgroup", "unused")),
    )


IDENTITY = Identity(
    *(30_000_000_001, 20_009_999_999, 7, 4711),
    *(100, 1, 1000, 1001, 1002, 1003, facts.NO_LOGIN_UID, 99),
    *(4026531836, 4026531841, facts.HAS_IMAGE, 0),
    b"sh",
)
IMAGE = Image(12345, 35664, -5, 1_700_000_000, 999_999_999, 7, 8 << 20 | 0x12345, 1)


def record(kind: int, form: ctypes.Structure, tail: bytes = b"", layout: int = wire.LAYOUT) -> bytes:
    form.header = Header(kind, layout, ctypes.sizeof(form) + len(tail), 31_000_000_000)
    return bytes(form) + tail


def exec_record() -> bytes:
    parts = (b"/bin/sh", b"", b"sh/bin/usr/", b"tmp/", b"x.service/system.slice/", b"sh\0-c\0true\0")
    lengths = [len(part) for part in parts]
    form = Exec(Header(), IDENTITY, IMAGE, 70_000, lengths[5], *lengths[:5])
    return record(EXEC, form, b"".join(parts))


def task_record() -> bytes:
    form = Task(Header(), IDENTITY, IMAGE, 5_000, 300, 0x7F00, 0x7F10, 1, 0, 3, 0x8801, 11, 0, 4)
    return record(TASK, form, b"sh/bin/usr/" + b"cg1/")


FIXED: dict[type[KernelEvent], bytes] = {
    ForkEvent: record(FORK, Fork(Header(), IDENTITY, 10_000_000, 55)),
    ExitEvent: record(EXIT, Exit(Header(), IDENTITY, 123, 0x0700)),
    CredentialsEvent: record(CREDENTIALS, Credentials(Header(), IDENTITY, (c_uint32 * 4)(1, 2, 3, 4))),
}
EVENTS: dict[type[KernelEvent], bytes] = {**FIXED, ExecEvent: exec_record()}


def parse(data: bytes) -> KernelEvent:
    return parse_event(data, 0, len(data))


@pytest.mark.parametrize("form", EVENTS)
def test_every_record_tells_who(form: type[KernelEvent]) -> None:
    event = parse(EVENTS[form])
    assert type(event) is form
    assert (event.pid, event.ppid, event.name, event.session) == (100, 1, b"sh", 99)
    assert (event.boot_ns, event.start_ticks, event.parent_start_ticks) == (31_000_000_000, 3000, 2000)
    assert (event.real_uid, event.effective_uid, event.real_gid, event.effective_gid) == (
        1000,
        1001,
        1002,
        1003,
    )
    assert (event.exec_id, event.cgroup_id, event.login_uid) == (7, 4711, facts.NO_LOGIN_UID)
    assert (event.pid_namespace, event.mount_namespace, event.flags) == (
        4026531836,
        4026531841,
        facts.HAS_IMAGE,
    )


def test_a_fork_tells_who_forked() -> None:
    event = parse(FIXED[ForkEvent])
    assert isinstance(event, ForkEvent)
    assert (event.forker_pid, event.forker_start_ticks) == (55, 1)


def test_an_exit_tells_how_and_how_long() -> None:
    event = parse(FIXED[ExitEvent])
    assert isinstance(event, ExitEvent)
    assert (event.run_ns, event.status) == (123, 0x0700)


def test_credentials_tell_the_former_ones() -> None:
    event = parse(FIXED[CredentialsEvent])
    assert isinstance(event, CredentialsEvent)
    former = (
        event.former_real_uid,
        event.former_effective_uid,
        event.former_real_gid,
        event.former_effective_gid,
    )
    assert former == (1, 2, 3, 4)


def test_an_exec_tells_image_names_and_arguments() -> None:
    event = parse(exec_record())
    assert isinstance(event, ExecEvent)
    assert (event.invoked_path, event.interpreter, event.path, event.cwd) == (
        b"/bin/sh",
        b"",
        b"/usr/bin/sh",
        b"/tmp",
    )
    assert event.cgroup == b"/system.slice/x.service"
    assert (event.arguments, event.argument_length) == (b"sh\0-c\0true\0", 70_000)
    assert (event.inode, event.size, event.links) == (12345, 35664, 1)
    assert (event.mtime_ns, event.ctime_ns) == (-4_000_000_001, 1_700_000_000_000_000_007)
    assert event.device == 0x45 | 8 << 8 | 0x12300 << 12


def test_a_task_tells_its_state_and_names() -> None:
    (task,) = parse_tasks(task_record())
    assert (task.cpu_ns, task.resident_pages, task.threads, task.tty) == (5_000, 300, 3, 0x8801)
    assert (task.argument_start, task.argument_end, task.status) == (0x7F00, 0x7F10, ProcessStatus.SLEEPING)
    assert (task.path, task.cwd, task.cgroup) == (b"/usr/bin/sh", b"/", b"/cg1")


@pytest.mark.parametrize("form", EVENTS)
def test_a_record_cut_anywhere_is_malformed(form: type[KernelEvent]) -> None:
    data = EVENTS[form]
    for length in range(len(data)):
        with pytest.raises(MalformedRecord):
            parse(data[:length])
        with pytest.raises(MalformedRecord):
            parse_event(data[:length], 0, len(data))


@pytest.mark.parametrize("form", EVENTS)
def test_a_record_with_a_tail_is_malformed(form: type[KernelEvent]) -> None:
    with pytest.raises(MalformedRecord):
        parse(EVENTS[form] + b"\0")


@pytest.mark.parametrize("form", EVENTS)
def test_a_record_is_found_wherever_it_lies(form: type[KernelEvent]) -> None:
    data = EVENTS[form]
    assert parse_event(b"?" * 13 + data + b"?" * 9, 13, 13 + len(data)) == parse(data)


@pytest.mark.parametrize("bounds", [(-1, 100), (0, 10_000), (100, 90), (50, 50), (10_000, 10_100)])
def test_bounds_outside_of_the_data_are_malformed(bounds: tuple[int, int]) -> None:
    for look in (parse_event, kind_at):
        with pytest.raises(MalformedRecord):
            look(exec_record(), *bounds)


def test_another_layout_is_refused() -> None:
    with pytest.raises(MalformedRecord):
        parse(record(EXIT, Exit(Header(), IDENTITY), layout=wire.LAYOUT + 1))
    with pytest.raises(MalformedRecord):
        list(parse_tasks(record(TASK, Task(Header(), IDENTITY), layout=wire.LAYOUT + 1)))


@pytest.mark.parametrize("kind", [0, 5, 6, 65535])
def test_an_unknown_kind_is_refused(kind: int) -> None:
    with pytest.raises(MalformedRecord):
        parse(record(kind, Exit(Header(), IDENTITY)))


def test_lengths_that_do_not_add_up_are_refused() -> None:
    data = bytearray(exec_record())
    for offset in range(Exec.argument_length.offset + 4, Exec.unused.offset):
        broken = bytes(data[:offset]) + bytes([data[offset] ^ 1]) + bytes(data[offset + 1 :])
        with pytest.raises(MalformedRecord):
            parse(broken)


def test_tasks_before_a_damaged_one_are_delivered() -> None:
    whole = task_record()
    for length in range(1, len(whole)):
        tasks = parse_tasks(whole + whole[:length])
        assert next(tasks).pid == 100
        with pytest.raises(MalformedRecord):
            next(tasks)
    assert len(list(parse_tasks(whole * 3))) == 3
    assert list(parse_tasks(b"")) == []


def test_a_tasks_facts_are_the_same_bytes_at_another_time() -> None:
    raw = bytearray(task_record())
    raw[8:16] = bytes(8)
    ((pid, boot_ns, told),) = split_tasks(task_record())
    ((_, never, again),) = split_tasks(bytes(raw))
    assert (pid, boot_ns, never) == (100, 31_000_000_000, 0)
    assert told == again
    assert [parse_task(boot_ns, told)] == list(parse_tasks(task_record()))


def test_what_lasts_of_a_task_are_all_facts_but_those_of_its_running() -> None:
    ((_, boot_ns, told),) = split_tasks(task_record())
    here, running = lasting(told), {"cpu_ns", "resident_pages", "state", "exit_state"}
    found = set()
    for position in range(len(told)):
        altered = bytearray(told)
        altered[position] ^= 1
        with contextlib.suppress(MalformedRecord):
            one, other = parse_task(boot_ns, told), parse_task(boot_ns, bytes(altered))
            names = {n for n in TaskFacts.__struct_fields__ if getattr(one, n) != getattr(other, n)}
            if lasting(bytes(altered)) == here:
                found |= names
            else:
                assert not names & running
    assert found == running


def test_a_task_that_says_it_is_empty_does_not_loop() -> None:
    data = bytearray(task_record())
    data[4:8] = bytes(4)
    with pytest.raises(MalformedRecord):
        list(parse_tasks(bytes(data)))


@given(st.binary(max_size=400), st.sampled_from(sorted(EVENTS, key=lambda form: form.__name__)), st.data())
def test_any_bytes_are_an_event_or_malformed(
    noise: bytes, form: type[KernelEvent], draw: st.DataObject
) -> None:
    data = EVENTS[form]
    at = draw.draw(st.integers(0, len(data)))
    for candidate in (noise, data[:at] + noise + data[at + len(noise) :], data[:at] + noise):
        with suppress(MalformedRecord):
            event = parse(candidate)
            assert wire.KIND_OF[type(event)] is kind_at(candidate, 0, len(candidate))
        with suppress(MalformedRecord):
            assert kind_at(candidate, 0, len(candidate)) in wire.KIND_OF.values()
        with suppress(MalformedRecord):
            assert all(isinstance(task, TaskFacts) for task in parse_tasks(candidate))


@pytest.mark.parametrize(
    ("upward", "path"),
    [(b"", b"/"), (b"tmp/", b"/tmp"), (b"true/bin/usr/", b"/usr/bin/true"), (b"a b/\xff/", b"/\xff/a b")],
)
def test_names_are_turned_around(upward: bytes, path: bytes) -> None:
    assert forward(upward) == path


@pytest.mark.parametrize(
    ("state", "exit_state", "status"),
    [
        (0, 0, ProcessStatus.RUNNING),
        (1, 0, ProcessStatus.SLEEPING),
        (1 | 0x2000, 0, ProcessStatus.SLEEPING),
        (2, 0, ProcessStatus.DISK_SLEEP),
        (0x402, 0, ProcessStatus.IDLE),
        (0x8000, 0, ProcessStatus.DISK_SLEEP),
        (0x104, 0, ProcessStatus.STOPPED),
        (8, 0, ProcessStatus.TRACED),
        (0x80, 0x10, ProcessStatus.DEAD),
        (0x80, 0x20, ProcessStatus.ZOMBIE),
        (0x40, 0, ProcessStatus.UNSPECIFIED),
        (0xFFFFFFFF, 0xFFFFFFFF, ProcessStatus.DISK_SLEEP),
    ],
)
def test_states_are_named_as_proc_names_them(state: int, exit_state: int, status: ProcessStatus) -> None:
    assert status_of(state, exit_state) is status


def test_the_layout_is_the_one_the_programs_are_compiled_with() -> None:
    for structure, form, mine in (
        ("fork_record", wire.FORK, Fork),
        ("exec_record", wire.EXEC, Exec),
        ("exit_record", wire.EXIT, Exit),
        ("credentials_record", wire.CREDENTIALS, Credentials),
        ("task_record", wire.TASK, Task),
    ):
        stated = re.search(rf"sizeof\(struct {structure}\) == (\d+)", HEADER_FILE)
        assert stated
        assert form.size == int(stated[1]) == ctypes.sizeof(mine)


def test_bounds_and_flags_are_those_the_programs_are_compiled_with() -> None:
    stated = {
        name: eval(value)  # from a file of ours
        for name, value in re.findall(r"^\t(\w+) = ([\d *+<]+),", HEADER_FILE, re.MULTILINE)
    }
    assert stated["LAYOUT"] == wire.LAYOUT
    assert stated["ARGUMENT_BYTES"] == wire.ARGUMENT_BYTES
    assert stated["RING_BYTES"] == ring.RING_BYTES
    flags = {name.removeprefix("FLAG_"): value for name, value in stated.items() if name.startswith("FLAG_")}
    names = {"IMAGE": "HAS_IMAGE", "CWD": "HAS_CWD"}
    assert len(flags) == 12
    assert {name: getattr(facts, names.get(name, name)) for name in flags} == flags

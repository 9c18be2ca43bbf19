"""Every fuzz target on a few hundred inputs, always the same; and the runner on a target with a defect."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest

from common.pb import ipc_pb2 as pb
from tests.fuzz import run as runner
from tests.fuzz.corpus import RESULTS, TASKS
from tests.fuzz.run import Crash, Target, discover, inputs, run

TARGETS = discover()
RUNS = 400


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_accepts_exactly_the_documented_errors(name: str) -> None:
    assert run(TARGETS[name], seed=1, runs=RUNS) == RUNS


def test_every_wire_format_has_a_target() -> None:
    assert TARGETS.keys() >= {"frame", "task", "result", "link"}


def test_the_corpus_holds_every_message_of_the_schema() -> None:
    seen: set[str] = set()

    def walk(message: object) -> None:
        seen.add(type(message).__name__)
        for field, value in message.ListFields():  # type: ignore[attr-defined]  # any protobuf message
            if field.message_type is not None:
                for one in value if field.is_repeated else [value]:
                    walk(one)

    for payload in TASKS:
        walk(pb.DetectionTask.FromString(payload))
    for payload in RESULTS:
        walk(pb.DetectionResult.FromString(payload))
    assert seen == set(pb.DESCRIPTOR.message_types_by_name)


def test_the_same_seed_gives_the_same_inputs_and_another_gives_others() -> None:
    def first(seed: int) -> list[bytes]:
        return list(itertools.islice(inputs(TASKS, random.Random(seed)), 200))

    assert first(1) == first(1)
    assert first(1)[len(TASKS) :] != first(2)[len(TASKS) :]


def test_seeds_are_tried_as_they_are_and_most_mutations_are_new() -> None:
    tried = list(itertools.islice(inputs(TASKS, random.Random(1)), 1000))
    assert tuple(tried[: len(TASKS)]) == TASKS
    assert len(set(tried)) > 800


def picky(data: bytes) -> None:
    """A defect that a mutation of its seed reaches."""
    if data.startswith(b"\x0a") and b"\xff\xff" in data:
        raise IndexError("two of them")


PICKY = Target("picky", picky, (TASKS[0],))


def test_a_defect_is_found_and_its_input_repeats_it() -> None:
    with pytest.raises(Crash) as caught:
        run(PICKY, seed=1, runs=20_000)
    assert isinstance(caught.value.__cause__, IndexError)
    with pytest.raises(IndexError):
        picky(caught.value.data)


def test_the_command_writes_the_input_says_so_and_exits_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "discover", lambda: {"picky": PICKY})
    assert runner.main(["--seconds", "60", "--seed", "1", "--output", str(tmp_path / "new")]) == 1
    [written] = (tmp_path / "new").iterdir()
    with pytest.raises(IndexError):
        picky(written.read_bytes())
    out, err = capsys.readouterr()
    assert out.startswith("picky: CRASH after ")
    assert out.endswith(f"seed 1; written to {written}\n")
    assert "IndexError: two of them" in err


def test_the_command_says_what_it_ran_and_exits_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert runner.main(["--seconds", "0.05", "--seed", "7", "--output", str(tmp_path), "frame", "task"]) == 0
    frame, task = capsys.readouterr().out.splitlines()
    assert frame.startswith("frame: ")
    assert task.startswith("task: ")
    assert frame.endswith("s, seed 7")
    assert not list(tmp_path.iterdir())


def test_an_unknown_target_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        runner.main(["nothing"])
    assert caught.value.code == 2
    assert "no target nothing; there are " in capsys.readouterr().err

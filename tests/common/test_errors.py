"""common.errors: the tree in its docstring, and errors that survive the wire."""

from __future__ import annotations

import inspect
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import errors
from common.errors import DaemonEyeError, InvalidTask, TaskError, error_for
from common.messages import ErrorCode

_BRANCH = re.compile(r"(?P<indent>[| ]*)\+-- (?P<names>.*)")


def tree_of_docstring() -> dict[str, str]:
    """Each class the docstring names, with the class it hangs below."""
    parents: dict[str, str] = {}
    path = ["DaemonEyeError"]
    depth = 0
    lines = (errors.__doc__ or "").splitlines()
    for line in lines[lines.index("DaemonEyeError") + 1 :]:
        branch = _BRANCH.fullmatch(line)
        if branch:
            depth = len(branch["indent"]) // 4 + 1
        text = branch["names"] if branch else line.strip("| ")
        for name in re.split(r"\s{2,}", text)[0].rstrip(",").split(", "):
            parents[name] = path[depth - 1]
            path[depth:] = [name]
    return parents


def test_the_docstring_prints_the_real_tree() -> None:
    real = {
        name: kind.__base__.__name__
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, DaemonEyeError) and kind is not DaemonEyeError and kind.__base__
    }
    assert tree_of_docstring() == real


def test_every_code_has_one_class_of_its_own() -> None:
    kinds = {code: type(error_for(code, "a sentence")) for code in ErrorCode if code}
    assert TaskError not in kinds.values()
    assert len(set(kinds.values())) == len(kinds)
    assert all(kind.code == code for code, kind in kinds.items())


@given(code=st.sampled_from(ErrorCode) | st.integers(0, 2**31 - 1), message=st.text())
def test_the_sentence_survives_whoever_wrote_it(code: int, message: str) -> None:
    assert str(error_for(code, message)) == message


@pytest.mark.parametrize("code", [ErrorCode.UNSPECIFIED, 13, -1])
def test_a_code_this_version_does_not_know_is_still_a_task_error(code: int) -> None:
    error = error_for(code, "from the future")
    assert type(error) is TaskError
    assert error.code == ErrorCode.UNSPECIFIED


@pytest.mark.parametrize("value", ["7", "a; b", "x: y"])
def test_an_invalid_task_keeps_field_value_and_bound(value: str) -> None:
    error = error_for(ErrorCode.INVALID, str(InvalidTask("options.digests", value, "at most 8 are allowed")))
    assert isinstance(error, InvalidTask)
    assert (error.field, error.value, error.bound) == ("options.digests", value, "at most 8 are allowed")


@pytest.mark.parametrize("message", ["no such thing", "path: not absolute", "a; b", "field: value; "])
def test_an_invalid_task_worded_otherwise_is_quoted_whole(message: str) -> None:
    error = error_for(ErrorCode.INVALID, message)
    assert isinstance(error, InvalidTask)
    assert (error.field, error.bound) == (message, "")


def test_every_error_is_one_line_for_a_person() -> None:
    samples = [
        errors.FrameEmpty(),
        errors.FrameTooLarge(2, 1),
        errors.ChecksumMismatch(1, 2),
        errors.FrameTruncated(3, 12),
        errors.FrameTimeout(30.0),
        errors.ReaderStalled(30.0),
        errors.DecodeError("DetectionTask", "wrong wire type"),
        errors.SequenceError("t1", 1, 3),
        errors.Unreachable("procmond", "/run/x.sock", "is it running?"),
    ]
    assert [str(error) for error in samples] == [
        "frame of length 0; a payload has at least 1 byte",
        "frame of 2 bytes; the limit is 1",
        "checksum 0x00000002; the header says 0x00000001",
        "stream ended after 3 of 12 bytes of a frame",
        "frame not complete 30 s after its first byte",
        "peer took nothing for 30 s",
        "not a DetectionTask: wrong wire type",
        "task 't1': frame 3 where 1 was due",
        "cannot reach procmond at /run/x.sock: is it running?",
    ]

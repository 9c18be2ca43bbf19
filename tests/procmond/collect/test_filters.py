"""Filters against a plain reading of the schema, and against fnmatch where the two agree."""

from __future__ import annotations

import fnmatch
import re
from typing import Any, Self

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InvalidTask
from common.messages import ErrorCode, ProcessFilter
from procmond.collect.filters import Glob, compile_filter


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("*", "", True),
        ("**", "/usr/bin/x", True),
        ("/usr/bin/ls", "/usr/bin/ls", True),
        ("/usr/bin/ls", "/usr/bin/lsof", False),
        ("ls", "/usr/bin/ls", False),
        ("*/ls", "/usr/bin/ls", True),
        ("/usr*ls", "/usr/local/bin/ls", True),
        ("a*b", "ab", True),
        ("a*b", "a", False),
        ("ab*b", "ab", False),
        ("ab*bc", "abc", False),
        ("a*ab", "aab", True),
        ("*ab*ba*", "aba", False),
        ("*ab*ba*", "abba", True),
        ("?", "/", True),
        ("?", "", False),
        ("?*?", "a", False),
        ("?*?", "ab", True),
        ("[abc]", "b", True),
        ("[abc]", "d", False),
        ("[!a-z]", "b", False),
        ("[!a-z]", "B", True),
        ("[!a-z]", "", False),
        ("[a-cx-z]", "y", True),
        ("[]]", "]", True),
        ("[!]a]", "]", False),
        ("[!]a]", "b", True),
        ("[a-]", "-", True),
        ("[-a]", "-", True),
        ("[z-a]", "m", False),
        ("[!z-a]", "m", True),
        ("[[]", "[", True),
        ("[*]", "*", True),
        ("[*]", "x", False),
        ("]", "]", True),
        ("*[0-9]*x", "a1yx", True),
        ("*[0-9]x*", "a1y2xz", True),
        ("a.c", "abc", False),
        ("/tmp/[!/]*", "/tmp/\N{SNOWMAN}", True),
        ("*\n*", "a\nb", True),
    ],
)
def test_a_pattern_matches_the_whole_path(pattern: str, path: str, expected: bool) -> None:
    assert Glob(pattern).matches(path) is expected


@pytest.mark.parametrize("pattern", ["[", "[!", "[]", "[!]", "[abc", "/usr/[a-z", "*[]*"])
def test_an_unclosed_class_is_invalid_and_names_the_field(pattern: str) -> None:
    with pytest.raises(InvalidTask) as caught:
        compile_filter(ProcessFilter(executable_pattern=pattern))
    assert caught.value.field == "process_filter.executable_pattern"
    assert caught.value.value == pattern
    assert caught.value.code is ErrorCode.INVALID


_LETTERS = "abAB/.-"
_CLASS = st.builds(
    lambda negation, first, last, single: f"[{negation}{min(first, last)}-{max(first, last)}{single}]",
    st.sampled_from(["", "!"]),
    st.sampled_from("abAB"),
    st.sampled_from("abAB"),
    st.sampled_from("abAB./"),
)
_PATTERNS = st.lists(st.one_of(st.sampled_from([*_LETTERS, "*", "?"]), _CLASS), max_size=12).map("".join)


@settings(deadline=None)
@given(_PATTERNS, st.text(_LETTERS, max_size=16))
def test_it_agrees_with_fnmatch_on_what_both_define(pattern: str, path: str) -> None:
    assert Glob(pattern).matches(path) is bool(re.match(fnmatch.translate(pattern), path))


@settings(deadline=None)
@given(st.text("ab*?[]!-", max_size=12), st.text("ab]-!", max_size=12))
def test_whatever_compiles_has_an_answer(pattern: str, path: str) -> None:
    try:
        glob = Glob(pattern)
    except InvalidTask:
        assert "[" in pattern
    else:
        assert glob.matches(path) in {True, False}


class _Counted(str):
    """A path that counts how often something in it is looked at."""

    __slots__ = ("looks",)
    looks: int

    def __new__(cls, text: str) -> Self:
        self = super().__new__(cls, text)
        self.looks = 0
        return self

    def __getitem__(self, key: Any) -> str:
        self.looks += 1
        return super().__getitem__(key)

    def find(self, *arguments: Any) -> int:
        self.looks += 1
        return super().find(*arguments)

    def startswith(self, *arguments: Any) -> bool:
        self.looks += 1
        return super().startswith(*arguments)


def test_a_hostile_pattern_of_plain_stars_takes_one_look_per_segment() -> None:
    pattern, path = "a*" * 500 + "b", _Counted("a" * 4000)
    assert not Glob(pattern).matches(path)
    assert 0 < path.looks <= 502


@pytest.mark.parametrize("pattern", ["[ac]*" * 200 + "b", "*" + "?" * 400 + "[!a]*b", "*[a]a?" * 250 + "*c"])
def test_a_hostile_pattern_of_classes_stays_within_pattern_times_path(pattern: str) -> None:
    path = _Counted("a" * 2000)
    assert not Glob(pattern).matches(path)
    assert 0 < path.looks <= len(pattern) * len(path)


def test_an_empty_filter_wants_everything() -> None:
    wanted = compile_filter(ProcessFilter(executable_pattern=""))
    assert wanted.pids is None
    assert wanted.matches(7, "", None)


def test_names_are_the_kernels_or_the_executables_base_name_exactly() -> None:
    wanted = compile_filter(ProcessFilter(process_names=("sshd", "python3.11")))
    assert wanted.matches(1, "sshd", None)
    assert wanted.matches(1, "MainThread", "/usr/bin/python3.11")
    assert not wanted.matches(1, "sshd-session", "/usr/lib/sshd/other")
    assert not wanted.matches(1, "SSHD", "sshd/")


def test_fields_are_joined_by_and_and_their_values_by_or() -> None:
    wanted = compile_filter(
        ProcessFilter(process_names=("a", "b"), pids=(3, 2, 3), executable_pattern="/usr/*")
    )
    assert wanted.pids == (2, 3)
    assert wanted.matches(2, "a", "/usr/x")
    assert wanted.matches(3, "b", "/usr/x")
    assert not wanted.matches(4, "a", "/usr/x")
    assert not wanted.matches(2, "c", "/usr/x")
    assert not wanted.matches(2, "a", "/opt/x")


def test_a_process_without_executable_matches_no_pattern() -> None:
    wanted = compile_filter(ProcessFilter(executable_pattern="*"))
    assert not wanted.matches(2, "kthreadd", None)
    assert not wanted.matches(2, "kthreadd", "")

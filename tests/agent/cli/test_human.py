"""Numbers and times as people read them."""

from __future__ import annotations

from datetime import UTC

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cli.human import age, clock, count, duration, moment, parse_duration, size
from common.errors import ConfigError

NOW = 1_800_000_000  # 2027-01-15 08:00:00 UTC


@pytest.mark.parametrize(
    ("octets", "expected"),
    [
        (0, "0"),
        (1023, "1023"),
        (1024, "1.0K"),
        (10 * 1024 - 1, "10K"),
        (18 * 1024**2, "18M"),
        (1024**2 - 1, "1.0M"),
        (5 * 1024**3 // 2, "2.5G"),
        (2**64 - 1, "16E"),
    ],
)
def test_sizes_are_short(octets: int, expected: str) -> None:
    assert size(octets) == expected


@given(st.integers(min_value=0, max_value=2**64 - 1))
def test_any_size_fits_five_columns(octets: int) -> None:
    assert len(size(octets)) <= 5


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.214, "0.21s"), (45.9, "45s"), (192, "3m12s"), (18180, "5h03m"), (12 * 86400 + 4 * 3600, "12d04h")],
)
def test_durations_show_two_units(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


def test_an_age_has_whole_seconds() -> None:
    assert [age(-3), age(2.7), age(75)] == ["0s", "2s", "1m15s"]


@pytest.mark.parametrize(
    ("unix", "expected"),
    [
        (NOW - 60, "07:59:00"),
        (NOW - 3 * 86400, "Jan 12 08:00"),
        (NOW - 800 * 86400, "2024-11-06"),
        (NOW + 60, "2027-01-15"),
        (2**63 - 1, str(2**63 - 1)),
        (-(2**63), str(-(2**63))),
    ],
)
def test_moments_are_as_exact_as_they_are_near(unix: int, expected: str) -> None:
    assert moment(unix, NOW, UTC) == expected


@given(st.integers(min_value=-(2**63), max_value=2**63 - 1))
def test_any_moment_from_the_wire_has_a_text(unix: int) -> None:
    assert moment(unix, NOW, UTC)


def test_the_clock_shows_seconds() -> None:
    assert clock(NOW + 1, UTC) == "08:00:01"


def test_counts_agree_with_their_noun() -> None:
    assert count(1, "process", "processes") == "1 process"
    assert count(1204, "process", "processes") == "1,204 processes"
    assert count(0, "record") == "0 records"


@pytest.mark.parametrize(
    ("text", "seconds"), [("10s", 10), ("2m", 120), ("1h", 3600), ("0.5", 0.5), ("7d", 604800), ("0s", 0)]
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1s", "8d", "ten", "nan", "inf", "10x", "1e400"])
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match="for example 10s"):
        parse_duration(text)

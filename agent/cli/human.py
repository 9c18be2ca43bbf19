"""Numbers and times as people read them. One rule: short, and any number from the wire has a text.

Pure.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo

from common.errors import ConfigError

_BINARY_UNITS = "KMGTPE"
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
# A first look that lasts longer than a week is a service; see systemd/.
MAX_DURATION_S = 7 * 86400.0


def size(octets: int) -> str:
    """Bytes in powers of 1024 with three significant places: `912`, `4.1K`, `18M`, `2.3G`."""
    if abs(octets) < 1024:
        return str(octets)
    value = float(octets)
    for unit in _BINARY_UNITS:
        value /= 1024
        if abs(value) < 9.95:
            return f"{value:.1f}{unit}"
        if abs(value) < 1023.5 or unit == _BINARY_UNITS[-1]:
            break
    return f"{value:.0f}{unit}"


def duration(seconds: float) -> str:
    """A length of time in its two largest units: `0.21s`, `45s`, `3m12s`, `5h03m`, `12d04h`."""
    if seconds < 10:
        return f"{max(seconds, 0.0):.2f}s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def age(seconds: float) -> str:
    """How long ago, in whole seconds at least: start times have no finer grain."""
    return f"{max(int(seconds), 0)}s" if seconds < 60 else duration(seconds)


def moment(unix: int, now: float, zone: tzinfo | None = None) -> str:
    """Unix seconds as a clock time if less than a day before `now`, else as a date, in `zone` (None: local).

    A value no calendar has is returned as its digits.
    """
    try:
        then = datetime.fromtimestamp(unix, UTC).astimezone(zone)
    except (OverflowError, ValueError, OSError):
        return str(unix)
    distance = timedelta(seconds=now - unix)
    if timedelta(0) <= distance < timedelta(hours=20):
        return then.strftime("%H:%M:%S")
    if timedelta(0) <= distance < timedelta(days=300):
        return then.strftime("%b %d %H:%M")
    return then.strftime("%Y-%m-%d")


def clock(now: float, zone: tzinfo | None = None) -> str:
    """`now` as hours, minutes, seconds in `zone` (None: local)."""
    return datetime.fromtimestamp(now, UTC).astimezone(zone).strftime("%H:%M:%S")


def count(number: int, singular: str, plural: str | None = None) -> str:
    """`1 process`, `1,204 processes`."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def parse_duration(text: str) -> float:
    """Seconds of `10s`, `2m`, `1h`, `1d` or a bare number of seconds; from 0 to a week.

    Raises: ConfigError naming what was given and what is expected.
    """
    digits, unit = (text[:-1], text[-1]) if text[-1:] in _SECONDS else (text, "s")
    try:
        seconds = float(digits) * _SECONDS[unit]
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= MAX_DURATION_S:
        raise ConfigError(f"{text!r} is not a duration: expected for example 10s, 2m or 1h, at most 7d")
    return seconds

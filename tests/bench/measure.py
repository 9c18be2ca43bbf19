"""Alternating measurement. One rule: every contender runs once in each round, in an order that rotates."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec


class Series(msgspec.Struct, frozen=True):
    """What one contender took, seconds a round."""

    name: str
    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)


def alternate(contenders: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Series]:
    """Run every contender once per round, after one round that does not count."""
    names = list(contenders)
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            began = time.perf_counter()
            contenders[name]()
            took = time.perf_counter() - began
            if number:
                times[name].append(took)
    return {name: Series(name, tuple(taken)) for name, taken in times.items()}


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


class Figure(msgspec.Struct, frozen=True):
    """One line of a report."""

    name: str
    value: float
    unit: str
    target: float | None = None
    """At most this, where something was promised."""
    note: str = ""


class Report(msgspec.Struct, frozen=True):
    """What one benchmark found."""

    title: str
    figures: tuple[Figure, ...]


def render(report: Report) -> str:
    """The report as a table."""
    rows = [("figure", "value", "unit", "target", "")]
    for figure in report.figures:
        target = "" if figure.target is None else f"<= {figure.target:g}"
        verdict = "" if figure.target is None else "ok" if figure.value <= figure.target else "MISSED"
        rows.append(
            (figure.name, f"{figure.value:.3g}", figure.unit, target, f"{verdict} {figure.note}".strip())
        )
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [report.title]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:4], widths, strict=True)]
        lines.append("  " + "  ".join([*cells, row[4]]).rstrip())
    return "\n".join(lines)

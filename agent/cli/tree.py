"""Processes as a drawn tree. One rule: whatever the records say, every one is drawn once, parents first.

A snapshot is not one instant: a parent may be missing, or a pid used anew. A parent is believed only if its
start agrees; loops are cut. Pure and iterative, so the depth of a tree costs no stack.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from common.messages import ProcessRecord

# Levels of indentation drawn: a chain of ten thousand processes must not make ten thousand long lines.
MAX_DRAWN_DEPTH = 32


class Strokes(NamedTuple):
    """What a tree is drawn with."""

    middle: str
    last: str
    through: str
    blank: str


LINES = Strokes("├─ ", "└─ ", "│  ", "   ")
ASCII = Strokes("|- ", "`- ", "|  ", "   ")


Identity = tuple[int, int]  # pid and start_ticks: one boot is given


class Branch(NamedTuple):
    """A process at its place in the tree."""

    record: ProcessRecord
    depth: int
    prefix: str  # what is drawn before it


def branches(records: Sequence[ProcessRecord], strokes: Strokes = LINES) -> Iterator[Branch]:
    """Every record once, parents before their children, siblings by start and pid.

    Beyond MAX_DRAWN_DEPTH levels the indentation stops growing.
    """
    children = _children(records)
    drawn: set[Identity] = set()
    # What a loop of parents keeps from being reached becomes a root of its own, oldest first.
    for start in [*children.pop(None, []), *sorted(records, key=_age_order)]:
        # Beside each branch what is drawn before its children.
        stack = [(Branch(start, 0, ""), "")]
        while stack:
            branch, indent = stack.pop()
            identity = _identity(branch.record)
            if identity in drawn:
                continue
            drawn.add(identity)
            yield branch
            following = [child for child in children.get(identity, ()) if _identity(child) not in drawn]
            depth = branch.depth + 1
            for place, child in enumerate(reversed(following)):
                elbow, stroke = (strokes.middle, strokes.through) if place else (strokes.last, strokes.blank)
                below = indent + stroke if depth < MAX_DRAWN_DEPTH else indent
                stack.append((Branch(child, depth, indent + elbow), below))


def _children(records: Sequence[ProcessRecord]) -> dict[Identity | None, list[ProcessRecord]]:
    """Children by their parent, oldest first; those without a credible parent under None."""
    by_pid = {record.pid: record for record in sorted(records, key=_age_order)}
    children: dict[Identity | None, list[ProcessRecord]] = {}
    for record in records:
        parent = None if record.ppid is None else by_pid.get(record.ppid)
        credible = parent is not None and _is_parent(parent, record)
        children.setdefault(_identity(parent) if parent and credible else None, []).append(record)
    for siblings in children.values():
        siblings.sort(key=_age_order)
    return children


def _is_parent(parent: ProcessRecord, child: ProcessRecord) -> bool:
    """Whether starts agree: the one that the child names, else simply not later than the child's."""
    if child.parent_start_ticks is not None:
        return parent.start_ticks == child.parent_start_ticks
    return parent.start_ticks <= child.start_ticks


def _identity(record: ProcessRecord) -> Identity:
    return record.pid, record.start_ticks


def _age_order(record: ProcessRecord) -> tuple[int, int]:
    return record.start_ticks, record.pid

"""Tables and labelled lines as text. One rule: all text is escaped here, so no caller can forget it.

Pure: what a terminal can show is a value (Screen). Cells are cut only on a terminal; a file or a pipe gets
every character.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from agent.cli.escape import cut, escape, width

GAP = "  "
MIN_ELASTIC = 8  # columns; a cut cell narrower than this tells nothing

_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


class Screen(NamedTuple):
    """Where the text goes."""

    width: int | None = None  # columns to fit into; None: no cutting
    colour: bool = False
    unicode: bool = True

    @property
    def ellipsis(self) -> str:
        """What stands at the end of a cut cell."""
        return "…" if self.unicode else "..."


class Heading(NamedTuple):
    """A table's column."""

    title: str
    right: bool = False
    elastic: bool = False  # may be cut when the table is too wide


class Cell(NamedTuple):
    """Text not yet escaped, and how it looks where colour is allowed."""

    text: str
    style: str = ""


def paint(text: str, style: str, screen: Screen) -> str:
    """`text` in `style` (a name of this module's, or empty for none) if the screen takes colour."""
    if not style or not screen.colour or not text:
        return text
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m"


def table(headings: Sequence[Heading], rows: Iterable[Sequence[Cell]], screen: Screen) -> Iterator[str]:
    """The lines of a table: a heading line, then a line per row; no line has trailing blanks.

    Every row has as many cells as there are headings.
    """
    safe = [[Cell(escape(cell.text), cell.style) for cell in row] for row in rows]
    widths = [width(heading.title) for heading in headings]
    for row in safe:
        widths = [max(wide, width(cell.text)) for wide, cell in zip(widths, row, strict=True)]
    widths = fit(widths, [heading.elastic for heading in headings], screen.width)
    yield _line(headings, [Cell(heading.title, "bold") for heading in headings], widths, screen)
    for row in safe:
        yield _line(headings, row, widths, screen)


def fit(widths: Sequence[int], elastic: Sequence[bool], total: int | None) -> list[int]:
    """Widths that fit into `total` columns together with the gaps, taken from the widest elastic ones first.

    No elastic column becomes narrower than MIN_ELASTIC (or than it was), so the sum may stay above `total`.
    """
    fitted = list(widths)
    if total is None:
        return fitted
    excess = sum(fitted) + len(GAP) * (len(fitted) - 1) - total
    while excess > 0:
        candidates = [i for i, stretch in enumerate(elastic) if stretch and fitted[i] > MIN_ELASTIC]
        if not candidates:
            break
        widest = max(fitted[i] for i in candidates)
        level = [i for i in candidates if fitted[i] == widest]
        next_width = max((fitted[i] for i in candidates if fitted[i] < widest), default=MIN_ELASTIC)
        step = min(widest - next_width, max(excess // len(level), 1))
        for index in level:
            taken = min(step, excess)
            fitted[index] -= taken
            excess -= taken
    return fitted


def labelled(pairs: Mapping[str, str] | Iterable[tuple[str, str]], screen: Screen) -> Iterator[str]:
    """`label   value` lines, the labels one column wide and bold; a value is never cut."""
    items = list(pairs.items() if isinstance(pairs, Mapping) else pairs)
    column = max((width(label) for label, _ in items), default=0)
    for label, value in items:
        yield (paint(label, "bold", screen) + " " * (column - width(label)) + GAP + escape(value)).rstrip()


def _line(headings: Sequence[Heading], cells: Sequence[Cell], widths: Sequence[int], screen: Screen) -> str:
    parts = []
    last = len(cells) - 1
    for index, (heading, cell, columns) in enumerate(zip(headings, cells, widths, strict=True)):
        text = cut(cell.text, columns, screen.ellipsis) if screen.width is not None else cell.text
        blank = " " * (columns - width(text))
        painted = paint(text, cell.style, screen)
        if heading.right:
            parts.append(blank + painted)
        else:
            parts.append(painted if index == last else painted + blank)
    return GAP.join(parts).rstrip(" ")

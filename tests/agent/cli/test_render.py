"""Tables fit their terminal and are whole elsewhere."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.cli.escape import width
from agent.cli.render import MIN_ELASTIC, Cell, Heading, Screen, fit, labelled, paint, table

HEADINGS = [Heading("PID", right=True), Heading("COMMAND", elastic=True)]
ROWS = [[Cell("1"), Cell("/sbin/init")], [Cell("4711", "red"), Cell("a" * 60)]]


def test_a_table_in_a_file_is_never_cut() -> None:
    assert list(table(HEADINGS, ROWS, Screen())) == [
        " PID  COMMAND",
        "   1  /sbin/init",
        "4711  " + "a" * 60,
    ]


def test_a_table_on_a_terminal_fits_its_width() -> None:
    lines = list(table(HEADINGS, ROWS, Screen(width=30)))
    assert lines[2] == "4711  " + "a" * 23 + "…"
    assert max(map(width, lines)) == 30


def test_a_terminal_without_unicode_gets_dots() -> None:
    assert list(table(HEADINGS, ROWS, Screen(width=30, unicode=False)))[2].endswith("a...")


def test_colour_is_only_where_it_is_allowed() -> None:
    assert paint("x", "red", Screen(colour=True)) == "\x1b[31mx\x1b[0m"
    assert paint("x", "red", Screen()) == "x"
    assert paint("", "red", Screen(colour=True)) == ""
    assert "\x1b" not in "".join(table(HEADINGS, ROWS, Screen()))


def test_colour_does_not_shift_columns() -> None:
    coloured = "".join(table(HEADINGS, ROWS, Screen(colour=True)))
    for code in ("\x1b[1m", "\x1b[31m", "\x1b[0m"):
        coloured = coloured.replace(code, "")
    assert coloured == "".join(table(HEADINGS, ROWS, Screen()))


def test_an_empty_table_is_its_heading() -> None:
    assert list(table(HEADINGS, [], Screen())) == ["PID  COMMAND"]


def test_cells_are_escaped() -> None:
    (_, line) = table(HEADINGS, [[Cell("1"), Cell("\x1b[2J\nroot")]], Screen())
    assert line == "  1  \\x1b[2J\\nroot"


def test_labelled_values_line_up_and_are_escaped() -> None:
    assert list(labelled({"Users": "3", "Executables": "7\x07"}, Screen())) == [
        "Users        3",
        "Executables  7\\x07",
    ]


@given(
    st.lists(st.tuples(st.integers(0, 300), st.booleans()), min_size=1, max_size=9),
    st.integers(min_value=1, max_value=250),
)
def test_only_elastic_columns_shrink_and_none_to_nothing(columns: list[tuple[int, bool]], total: int) -> None:
    widths = [wide for wide, _ in columns]
    elastic = [stretch for _, stretch in columns]
    fitted = fit(widths, elastic, total)
    for before, after, stretch in zip(widths, fitted, elastic, strict=True):
        assert after == before if not stretch else min(before, MIN_ELASTIC) <= after <= before
    taken = sum(fitted) + 2 * (len(fitted) - 1)
    shrinkable = any(s and w > MIN_ELASTIC for s, w in zip(elastic, fitted, strict=True))
    assert taken <= total or not shrinkable


def test_the_widest_column_gives_way_first() -> None:
    assert fit([40, 20, 10], [True, True, False], 60) == [26, 20, 10]
    assert fit([40, 20, 10], [True, True, False], 44) == [15, 15, 10]

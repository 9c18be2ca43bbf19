"""The columns of `ps` and `tree`. One rule: "not there" is `-`, "not seen" is `?`, and they never look alike.

A column is one made for people (ALIASES) or any field of the schema's ProcessRecord by its name. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import tzinfo
from itertools import chain
from typing import NamedTuple

from agent.cli.escape import escape_arguments
from agent.cli.formats import RECORD_FIELDS, json_text, plain_value
from agent.cli.human import age, moment, size
from agent.cli.render import Cell, Heading
from common.errors import ConfigError
from common.messages import HashState, ProcessRecord, ProcessStatus, Provenance

HASH_PREFIX = 12  # hex digits shown: 48 bits tell the files of a host apart
DEFAULT_COLUMNS = ("pid", "user", "started", "cpu", "mem", "hash", "marks", "command")

# The schema numbers ProcessRecord's fields 1-17 and 100-132, in the order of common.messages.
FIELD_NUMBERS = dict(zip(RECORD_FIELDS, chain(range(1, 18), range(100, 133)), strict=True))


class View(NamedTuple):
    """What the text of a cell depends on besides the record."""

    now: float = 0.0  # Unix seconds
    zone: tzinfo | None = None  # None: the local time zone
    full: bool = False  # whole digests


class Column(NamedTuple):
    """One column: how it reads, how it sorts, and the schema field it stands for, if one."""

    name: str
    heading: Heading
    cell: Callable[[ProcessRecord, View], Cell]
    order: Callable[[ProcessRecord], tuple[object, ...]]
    field: str | None = None
    largest_first: bool = False


def marks(record: ProcessRecord) -> tuple[str, ...]:
    """What a person should notice about a record, in words; empty for most."""
    return tuple(
        word
        for word, holds in (
            ("memory", record.memory_backed),
            ("deleted", record.on_disk_mismatch and not record.file_exists and not record.memory_backed),
            ("replaced", record.on_disk_mismatch and record.file_exists and not record.memory_backed),
            ("denied", not record.accessible and not _is_unread(record)),
            ("unread", _is_unread(record)),
            ("blocked", record.command_line_blocked),
            ("redacted", record.redacted),
            ("cut", record.command_line_length > 0),
            ("zombie", record.status is ProcessStatus.ZOMBIE),
        )
        if holds
    )


def _is_unread(record: ProcessRecord) -> bool:
    """Whether procmond could not look at it for a reason of its own, not because it was refused."""
    return any(item.reason in {"exhausted", "failed"} for item in record.exceptions)


def command(record: ProcessRecord) -> str:
    """The command line for a person; without one the name in brackets, as `ps` writes it."""
    if record.command_line:
        return escape_arguments(record.command_line)
    return f"[{record.name}]"


def user(record: ProcessRecord) -> str:
    """The real user by name, else by number, else `?`."""
    return record.user_name or record.user_id or "?"


def executable(record: ProcessRecord) -> str:
    """The executable's path, else the reason why there is none."""
    if record.executable_path:
        return record.executable_path
    if record.is_kernel_thread or record.hash_state is HashState.NO_EXECUTABLE:
        return "-"
    return "?"


def digest(record: ProcessRecord, *, full: bool = False) -> Cell:
    """The running image's sha256 (its first HASH_PREFIX digits unless `full`), or why there is none."""
    if record.executable_hash:
        return Cell(record.executable_hash if full else record.executable_hash[:HASH_PREFIX])
    if record.is_kernel_thread or record.hash_state in (HashState.NO_EXECUTABLE, HashState.UNSPECIFIED):
        return Cell("-", "dim")
    return Cell(state_words(record.hash_state), "yellow")


def state_words(state: HashState) -> str:
    """A hash state as words: `too large`."""
    return state.name.lower().replace("_", " ")


def field_missing(record: ProcessRecord, field: str) -> bool:
    """Whether the server says that it could not obtain `field` of this record."""
    number = FIELD_NUMBERS[field]
    return any(item.field == number and item.provenance is Provenance.MISSING for item in record.exceptions)


def columns_named(names: Iterable[str]) -> list[Column]:
    """The columns for names of ALIASES or of the schema, in that order.

    Raises: ConfigError naming the first unknown name and all that are known.
    """
    return [_column_named(name.strip()) for name in names]


def sort_records(
    records: Sequence[ProcessRecord], columns: Sequence[Column], *, reverse: bool = False
) -> list[ProcessRecord]:
    """Records by the first column, then the next; sizes and rates with the largest first; then by pid."""
    ordered = sorted(records, key=lambda record: record.pid)
    for column in reversed(columns):
        ordered.sort(key=column.order, reverse=column.largest_first)
    return ordered[::-1] if reverse else ordered


def _column_named(name: str) -> Column:
    if name in ALIASES:
        return ALIASES[name]
    if name in FIELD_NUMBERS:
        return _field_column(name)
    known = ", ".join([*ALIASES, *(field for field in RECORD_FIELDS if field not in ALIASES)])
    raise ConfigError(f"no column {name!r}; there are {known}")


def _field_column(field: str) -> Column:
    numeric = field in _NUMERIC

    def cell(record: ProcessRecord, view: View) -> Cell:
        value = getattr(record, field)
        if not value and field_missing(record, field):
            return Cell("?", "yellow")
        return Cell("-", "dim") if value in (None, "", ()) else Cell(_text(value))

    return Column(field, Heading(field.upper(), numeric, not numeric), cell, _order_of(field), field)


def _text(value: object) -> str:
    plain = plain_value(value)
    if isinstance(value, tuple) and all(isinstance(item, str) for item in value):
        return escape_arguments(value)
    if isinstance(plain, str):
        return plain
    return json_text(plain).rstrip("\n")


def _order_of(field: str) -> Callable[[ProcessRecord], tuple[object, ...]]:
    def order(record: ProcessRecord) -> tuple[object, ...]:
        value = getattr(record, field)
        if value is None:
            return (0,)
        return (1, value if isinstance(value, int | float | str) else json_text(plain_value(value)))

    return order


def _number(field: str, show: Callable[[float], str]) -> Callable[[ProcessRecord, View], Cell]:
    def cell(record: ProcessRecord, view: View) -> Cell:
        value = getattr(record, field)
        return Cell("?", "yellow") if value is None else Cell(show(value))

    return cell


def _started(record: ProcessRecord, view: View) -> Cell:
    if record.start_time is None:
        return Cell("?", "yellow")
    return Cell(moment(record.start_time, view.now, view.zone))


def _age(record: ProcessRecord, view: View) -> Cell:
    if record.start_time is None:
        return Cell("?", "yellow")
    return Cell(age(view.now - record.start_time))


def _marks(record: ProcessRecord, view: View) -> Cell:
    words = marks(record)
    alarming = {"memory", "deleted", "replaced", "blocked"}.intersection(words)
    return Cell(",".join(words), "red" if alarming else "yellow")


def _command(record: ProcessRecord, view: View) -> Cell:
    return Cell(command(record), "" if record.command_line else "dim")


_NUMERIC = frozenset(
    field for field in RECORD_FIELDS if type(getattr(ProcessRecord(), field)) in (int, float)
) | {"ppid", "start_time", "cpu_usage", "memory_usage", "parent_start_ticks", "login_uid"}

ALIASES = {
    column.name: column
    for column in (
        Column("pid", Heading("PID", True), _number("pid", str), _order_of("pid"), "pid"),
        Column("ppid", Heading("PPID", True), _number("ppid", str), _order_of("ppid"), "ppid"),
        Column(
            "user",
            Heading("USER", elastic=True),
            lambda record, view: Cell(user(record)),
            lambda record: (user(record),),
            "user_name",
        ),
        Column("started", Heading("STARTED"), _started, _order_of("start_time"), "start_time"),
        Column("age", Heading("AGE", True), _age, _order_of("start_time"), "start_time"),
        Column(
            "cpu",
            Heading("CPU%", True),
            _number("cpu_usage", "{:.1f}".format),
            _order_of("cpu_usage"),
            "cpu_usage",
            True,
        ),
        Column(
            "mem",
            Heading("MEM", True),
            _number("memory_usage", lambda octets: size(int(octets))),
            _order_of("memory_usage"),
            "memory_usage",
            True,
        ),
        Column(
            "hash",
            Heading("SHA256"),
            lambda record, view: digest(record, full=view.full),
            _order_of("executable_hash"),
            "executable_hash",
        ),
        Column("marks", Heading("MARKS"), _marks, lambda record: (len(marks(record)),), None, True),
        Column(
            "command", Heading("COMMAND", elastic=True), _command, lambda r: (command(r),), "command_line"
        ),
        Column(
            "exe",
            Heading("EXECUTABLE", elastic=True),
            lambda record, view: Cell(executable(record)),
            _order_of("executable_path"),
            "executable_path",
        ),
        Column(
            "container",
            Heading("CONTAINER"),
            lambda record, view: Cell(record.container_id[:HASH_PREFIX] or "-"),
            _order_of("container_id"),
            "container_id",
        ),
    )
}

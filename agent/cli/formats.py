"""Messages as JSON, JSON lines and CSV. One rule: the schema's field names, and nothing lost.

Enum values are short lower-case names, 64-bit integers are numbers, optional fields that are not set are left
out. JSON keeps text exactly (its own escapes make it safe to look at); CSV has no escapes, so its text is
escaped as in tables. Pure: values in, text out.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum

from agent.cli.escape import escape
from common.messages import Message, ProcessRecord

FORMATS = ("table", "json", "jsonl", "csv")
RECORD_FIELDS: tuple[str, ...] = ProcessRecord.__struct_fields__
# Numbers 1-17: all that a peer sends which knows only the specification; zeros of the others would be lies.
SPECIFIED_FIELDS = RECORD_FIELDS[:17]


def plain(message: Message, fields: Iterable[str] | None = None) -> dict[str, object]:
    """`message` as a dict for JSON: all fields or those named, in that order, without unset ones."""
    names = message.__struct_fields__ if fields is None else fields
    values = ((name, getattr(message, name)) for name in names)
    return {name: plain_value(value) for name, value in values if value is not None}


def plain_value(value: object) -> object:
    """A field's value for JSON: enums by short name, repeated fields as lists, messages as dicts."""
    if isinstance(value, IntEnum):
        return value.name.lower()
    if isinstance(value, Message):
        return plain(value)
    if isinstance(value, tuple):
        return [plain_value(item) for item in value]
    return value


def json_text(document: object, *, indent: bool = False) -> str:
    """One JSON document, ending in a newline; ASCII only and without control characters of any kind."""
    text = json.dumps(document, indent=2 if indent else None, ensure_ascii=True, allow_nan=False)
    # DEL is the one control character that JSON leaves as it is; outside strings it cannot occur.
    return text.replace("\x7f", "\\u007f") + "\n"


def json_lines(documents: Iterable[object]) -> str:
    """One line of JSON per document."""
    return "".join(json_text(document) for document in documents)


def csv_text(header: Sequence[str], rows: Iterable[Mapping[str, object]], *, with_header: bool = True) -> str:
    """CSV of plain dicts: a cell per name in `header`; empty where unset, JSON for a list or a dict."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    if with_header:
        writer.writerow(header)
    for row in rows:
        writer.writerow([_csv_cell(row.get(name)) for name in header])
    return buffer.getvalue()


def _csv_cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, bool | list | dict):
        return json_text(value).rstrip("\n")
    return str(value)

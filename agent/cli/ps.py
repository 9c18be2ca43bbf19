"""`daemoneye ps` and `tree`: the processes. One rule: what procmond left out is said."""

from __future__ import annotations

import argparse
import time
from collections.abc import Container, Iterable, Sequence

from agent.answer import Answer
from agent.cli.asking import gather, report_shortfalls
from agent.cli.columns import DEFAULT_COLUMNS, Column, View, columns_named, sort_records
from agent.cli.exits import FINE, PARTIAL, worst
from agent.cli.formats import RECORD_FIELDS, SPECIFIED_FIELDS, plain, plain_value
from agent.cli.output import Output, complain
from agent.cli.render import Cell, Heading, table
from agent.cli.tree import ASCII, LINES, branches
from agent.client import Client
from common.messages import (
    CollectionOptions,
    DetectionResult,
    DetectionTask,
    ProcessFilter,
    ProcessRecord,
    TaskType,
)

TREE_COLUMNS = ("pid", "user", "started", "hash", "marks", "command")


async def run_ps(client: Client, said: argparse.Namespace, output: Output) -> int:
    """List the processes that pass the filters. Raises: ConfigError for an unknown column; as `Client`."""
    columns = columns_named(said.columns or DEFAULT_COLUMNS)
    order = columns_named(said.sort or ())
    async with client:
        return await _list(client, said, output, columns, order)


async def _list(
    client: Client,
    said: argparse.Namespace,
    output: Output,
    columns: Sequence[Column],
    order: Sequence[Column],
) -> int:
    fields = _fields(client, columns if said.columns else None)
    process_filter = ProcessFilter(
        process_names=tuple(said.name or ()), pids=tuple(said.pid or ()), executable_pattern=said.exe
    )
    task = _task(TaskType.ENUMERATE_PROCESSES, process_filter, hashes=not said.no_hashes)

    seen: set[int] = set()

    def stream(frame: DetectionResult) -> None:
        seen.update(record.pid for record in frame.processes)
        rows = (_row(record, fields) for record in of_users(frame.processes, said.user))
        if output.kind == "csv":
            output.rows(fields, rows)
        else:
            output.documents(rows)

    # Lines can be written as they come; an order, a table's widths and a document need all of them.
    streams = output.kind in ("jsonl", "csv") and not order and not said.reverse
    answer = await gather(client, task, stream if streams else None)
    if not streams:
        seen.update(record.pid for record in answer.processes)
        records = of_users(answer.processes, said.user)
        records = sort_records(records, order, reverse=said.reverse)
        view = View(now=time.time(), full=said.full)
        rows = ([column.cell(record, view) for column in columns] for record in records)
        _show(output, answer, records, fields, ([column.heading for column in columns], rows))
    status = report_shortfalls(client, [answer], hashes=not said.no_hashes)
    if said.name or said.exe:  # of what these leave out it is not known whether it is there
        return status
    return worst(status, report_missing(said.pid, seen))


def report_missing(pids: Sequence[int] | None, seen: Container[int]) -> int:
    """Say on stderr which of the pids asked for name no process; PARTIAL if there are any, else FINE."""
    missing = [pid for pid in dict.fromkeys(pids or ()) if pid not in seen]
    if not missing:
        return FINE
    complain(f"no such process: {', '.join(map(str, missing))}")
    return PARTIAL


async def run_tree(client: Client, said: argparse.Namespace, output: Output) -> int:
    """Draw the tree of processes, with `--live` again and again. Raises: as `Client`, as `follow`."""
    if said.live:
        from agent.cli.treelive import run_tree_live  # most trees are drawn once

        return await run_tree_live(client, said, output)
    roots = ProcessFilter(pids=tuple(said.pid or ()))
    task = _task(TaskType.MONITOR_PROCESS_TREE, roots, hashes=not said.no_hashes)
    async with client:
        answer = await gather(client, task)
        view = View(now=time.time(), full=said.full)
        records, as_table = tree_table(answer.processes, view, unicode=output.screen.unicode)
        _show(output, answer, records, _fields(client, None), as_table)
        status = report_shortfalls(client, [answer], hashes=not said.no_hashes)
        return worst(status, report_missing(said.pid, {record.pid for record in records}))


def tree_table(
    records: Sequence[ProcessRecord], view: View, *, unicode: bool
) -> tuple[list[ProcessRecord], tuple[list[Heading], list[list[Cell]]]]:
    """Records in the order of their tree, and the table that draws it."""
    drawn = list(branches(records, LINES if unicode else ASCII))
    columns = columns_named(TREE_COLUMNS)
    rows = []
    for branch in drawn:
        *cells, command = [column.cell(branch.record, view) for column in columns]
        rows.append([*cells, Cell(branch.prefix + command.text, command.style)])
    return [branch.record for branch in drawn], ([column.heading for column in columns], rows)


def of_users(records: Iterable[ProcessRecord], users: Sequence[str] | None) -> list[ProcessRecord]:
    """Records whose real user is one of `users`, by name or decimal number; all for None."""
    if users is None:
        return list(records)
    return [record for record in records if record.user_id in users or record.user_name in users]


def answer_head(answer: Answer) -> dict[str, object]:
    """The fields of DetectionResult that say how an answer went, for a JSON document."""
    head: dict[str, object] = {"success": answer.error is None}
    if answer.error is not None:
        head["error_code"] = plain_value(answer.error.code)
        head["error_message"] = str(answer.error)
    if answer.summary is not None:
        head["summary"] = plain(answer.summary)
    head["boot_id"] = answer.boot_id
    return head


def _task(kind: TaskType, process_filter: ProcessFilter, *, hashes: bool) -> DetectionTask:
    return DetectionTask(
        task_type=kind,
        process_filter=None if process_filter == ProcessFilter() else process_filter,
        stream=True,
        options=CollectionOptions(skip_hashes=not hashes),
    )


def _fields(client: Client, columns: Sequence[Column] | None) -> list[str]:
    """The names under which facts are written for programs."""
    if columns is not None:
        return list(dict.fromkeys(column.field or column.name for column in columns))
    return list(SPECIFIED_FIELDS if client.legacy else RECORD_FIELDS)


def _row(record: ProcessRecord, fields: Sequence[str]) -> dict[str, object]:
    known = [field for field in fields if field in RECORD_FIELDS]
    row = plain(record, known)
    if len(known) < len(fields):  # columns that stand for no field of the schema, such as marks
        row |= {
            name: columns_named([name])[0].cell(record, View()).text for name in fields if name not in known
        }
    return row


def _show(
    output: Output,
    answer: Answer,
    records: Sequence[ProcessRecord],
    fields: Sequence[str],
    as_table: tuple[Sequence[Heading], Iterable[Sequence[Cell]]],
) -> None:
    if output.kind == "table":
        output.lines(table(*as_table, output.screen))
        return
    rows = [_row(record, fields) for record in records]
    if output.kind == "json":
        output.document({"processes": rows, **answer_head(answer)})
    elif output.kind == "jsonl":
        output.documents(rows)
    else:
        output.rows(fields, rows)

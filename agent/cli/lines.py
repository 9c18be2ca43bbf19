"""One live event as one line. One rule: what was lost cannot be overlooked.

Pure: an event and what is known of processes in, text out.
"""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo

from agent.cli.columns import command, digest, user
from agent.cli.escape import cut, escape
from agent.cli.human import count, duration
from agent.cli.render import Screen, paint
from agent.table import Entry, Identity, ProcessTable
from common.messages import Gap, ProcessEvent, ProcessEventKind, ProcessRecord

ANCESTORS_SHOWN = 3
NAME_COLUMNS = 16  # comm has at most 15 bytes
USER_COLUMNS = 10

_KIND_STYLES = {
    ProcessEventKind.SNAPSHOT: ("runs", "dim"),
    ProcessEventKind.FORK: ("fork", "cyan"),
    ProcessEventKind.EXEC: ("exec", "green"),
    ProcessEventKind.EXIT: ("exit", "dim"),
    ProcessEventKind.CREDENTIALS: ("creds", "yellow"),
}


def event_line(
    event: ProcessEvent,
    before: Entry | None,
    table: ProcessTable,
    screen: Screen,
    zone: tzinfo | None = None,
) -> str:
    """The line for an event that `table` has taken; `before` is a copy of the process as it was before.

    Time, kind, pid, user, ancestry, and what happened. Times are in `zone` (None: local).
    """
    if event.kind is ProcessEventKind.GAP:
        return paint(_fitted(gap_text(event.gap or Gap(), event, zone), screen), "red", screen)
    if event.kind is ProcessEventKind.SNAPSHOT_END:
        running = count(len(table), "process", "processes")
        text = f"{clock(event.wall_time_ms, zone)}  {running} before; live from here"
        return paint(_fitted(text, screen), "dim", screen)
    word, style = _KIND_STYLES.get(event.kind, (event.kind.name.lower(), ""))
    entry = table.get((event.pid, event.start_ticks)) or before
    record = entry.record if entry is not None else event.process or ProcessRecord(pid=event.pid)
    head = f"{clock(event.wall_time_ms, zone)}  "
    who = f"{record.pid:>7} {cut(escape(user(record)), USER_COLUMNS, screen.ellipsis):<{USER_COLUMNS}} "
    what = _what(event, record, before)
    line = ancestry(table, entry, "─" if screen.unicode else "-") + what
    style = _style(event, record, before, style)
    room = None if screen.width is None else max(screen.width - len(head) - 6 - len(who), 8)
    if room is not None:
        line = cut(line, room, screen.ellipsis)
    return (head + paint(f"{word:<6}", style, screen) + who + paint(line, style, screen)).rstrip()


def gap_text(gap: Gap, event: ProcessEvent, zone: tzinfo | None = None) -> str:
    """What is known of a gap, escaped."""
    lost = f"{count(gap.count, 'event')} lost" if gap.count else "EVENTS LOST, nobody knows how many"
    reason = escape(gap.reason or "no reason given").replace("_", " ")
    span = gap.to_boot_time_ns - gap.from_boot_time_ns
    over = f" within {duration(span / 1e9)}" if gap.from_boot_time_ns and span > 0 else ""
    kinds = {loss.kind.name.lower(): loss.count for loss in gap.losses if loss.kind}
    detail = "".join(f", {number:,} {kind}" for kind, number in kinds.items())
    return f"{clock(event.wall_time_ms, zone)}  *** GAP *** {lost}: {reason}{over}{detail}"


def ancestry(table: ProcessTable, entry: Entry | None, joint: str) -> str:
    """Names of the nearest ancestors that are known, oldest first, escaped; each followed by `joint`."""
    names: list[str] = []
    seen: set[Identity] = set()
    parent = entry.parent if entry is not None else None
    while parent is not None and parent not in seen:
        seen.add(parent)
        record = table.known(parent)
        if record is None:
            break
        if len(names) == ANCESTORS_SHOWN:
            names.append("…" if joint == "─" else "..")
            break
        names.append(cut(escape(record.name), NAME_COLUMNS))
        above = table.get(parent)
        parent = above.parent if above is not None else _parent_of(record)
    return "".join(f"{name}{joint}" for name in reversed(names))


def clock(wall_time_ms: int, zone: tzinfo | None = None) -> str:
    """Hours to milliseconds in `zone` (None: local); `--:--:--.---` where the time is not told."""
    try:
        moment = datetime.fromtimestamp(wall_time_ms / 1000, UTC).astimezone(zone)
    except (OverflowError, ValueError, OSError):
        return "?"
    return f"{moment:%H:%M:%S}.{wall_time_ms % 1000:03d}" if wall_time_ms else "--:--:--.---"


def _what(event: ProcessEvent, record: ProcessRecord, before: Entry | None) -> str:
    match event.kind:
        case ProcessEventKind.EXEC | ProcessEventKind.SNAPSHOT:
            shown = event.process or record
            mark = escape(digest(shown).text)
            text = escape(command(shown))
            return f"{text}  [{mark}]" if mark != "-" else text
        case ProcessEventKind.EXIT:
            return escape(record.name or "?") + _ending(event)
        case ProcessEventKind.CREDENTIALS:
            return escape(record.name or "?") + _credentials(record, before)
        case _:
            return escape(record.name or "?")


def _ending(event: ProcessEvent) -> str:
    if event.exit_signal is not None:
        text = f" killed by signal {event.exit_signal}"
    elif event.exit_code is not None:
        text = f" exit {event.exit_code}"
    else:
        text = " ended"
    return text + (f" after {duration(event.run_time_ns / 1e9)}" if event.run_time_ns is not None else "")


def _credentials(record: ProcessRecord, before: Entry | None) -> str:
    after = f"{record.real_uid}/{record.effective_uid}"
    if before is None or before.record.user_id is None:
        return f" uid {after}"
    return f" uid {before.record.real_uid}/{before.record.effective_uid} to {after}"


def _style(event: ProcessEvent, record: ProcessRecord, before: Entry | None, style: str) -> str:
    if event.kind is ProcessEventKind.EXIT and (event.exit_signal or event.exit_code):
        return "yellow"
    became_root = before is not None and before.record.effective_uid != 0 and record.effective_uid == 0
    if event.kind is ProcessEventKind.CREDENTIALS and became_root:
        return "red"
    return style


def _parent_of(record: ProcessRecord) -> Identity | None:
    if record.ppid is None or record.parent_start_ticks is None:
        return None
    return record.ppid, record.parent_start_ticks


def _fitted(text: str, screen: Screen) -> str:
    return text if screen.width is None else cut(text, screen.width, screen.ellipsis)

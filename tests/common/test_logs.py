"""common.logs, each test in a process of its own: the module configures the whole process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime, timedelta
from typing import Any

PREAMBLE = """
import asyncio, errno, logging, os, sys, threading
from structlog.contextvars import bound_contextvars
from common.logs import configure, get_logger
log = get_logger("test.module")
"""


def run(code: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PREAMBLE + code],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        **more,
    )


def lines(code: str) -> list[dict[str, Any]]:
    """What `code` logs; every line on stderr must be a JSON object."""
    return [json.loads(line) for line in run(code).stderr.splitlines()]


def test_a_line_is_json_with_time_level_logger_component_and_fields() -> None:
    [line] = lines(
        "configure('info', 'procmond.front'); log.warning('task_expired', task_id='t1', age_s=1.5)"
    )
    stamp = datetime.fromisoformat(line.pop("timestamp"))
    assert stamp.utcoffset() == timedelta(0)
    assert line == {
        "event": "task_expired",
        "level": "warning",
        "logger": "test.module",
        "component": "procmond.front",
        "task_id": "t1",
        "age_s": 1.5,
    }


def test_of_a_task_group_that_failed_the_line_says_what_failed() -> None:
    [line] = lines(
        "configure('info', 'a')\n"
        "async def work(): raise OSError(36, 'File name too long')\n"
        "async def main():\n"
        "    async with asyncio.TaskGroup() as group: group.create_task(work())\n"
        "try: asyncio.run(main())\n"
        "except* Exception as error: log.error('child_failed', exc_info=error)\n"
    )
    assert (line["error_type"], line["error"]) == ("OSError", "[Errno 36] File name too long")
    assert line["error_at"].endswith(":7")


def test_lines_below_the_level_are_not_written_and_a_new_level_holds_for_existing_loggers() -> None:
    code = (
        "configure('warning', 'a'); log.info('no_line'); log.warning('first_line')\n"
        "configure('debug', 'b'); log.debug('second_line')\n"
    )
    assert [(line["event"], line["component"]) for line in lines(code)] == [
        ("first_line", "a"),
        ("second_line", "b"),
    ]


def test_what_is_bound_once_is_in_every_line_until_it_is_unbound() -> None:
    code = (
        "configure('info', 'a')\n"
        "with bound_contextvars(task_id='t1', peer='uid=0'):\n    log.info('a_b'); log.info('c_d')\n"
        "log.info('e_f')\n"
    )
    assert [line.get("task_id") for line in lines(code)] == ["t1", "t1", None]


def test_an_exception_is_its_type_its_message_and_its_place_without_a_traceback() -> None:
    code = (
        "configure('info', 'a')\n"
        "try: 1 / 0\n"
        "except ZeroDivisionError: log.error('task_failed', exc_info=True)\n"
    )
    [line] = lines(code)
    assert (line["error_type"], line["error"]) == ("ZeroDivisionError", "division by zero")
    assert line["error_at"].startswith("<string>:")
    assert "Traceback" not in json.dumps(line)
    [line] = lines(code.replace("'info'", "'debug'"))
    assert line["traceback"].startswith("Traceback (most recent call last):")


def test_exceptions_nobody_caught_and_what_libraries_log_are_json_too() -> None:
    code = (
        "configure('info', 'a')\n"
        "logging.getLogger('lib').warning('%s\\n%d', 'x', 5)\n"
        "logging.getLogger('lib').log(35, 'odd level')\n"
        "logging.getLogger('lib').info('hello')\n"
        "try: int('x')\n"
        "except ValueError: logging.getLogger('lib').exception('oh')\n"
        "raise RuntimeError('the end')\n"
    )
    result = run(code)
    assert result.returncode == 1
    *library, last = map(json.loads, result.stderr.splitlines())
    assert [(line["logger"], line["level"], line["message"]) for line in library] == [
        ("lib", "warning", "x\n5"),
        ("lib", "warning", "odd level"),
        ("lib", "info", "hello"),
        ("lib", "error", "oh"),
    ]
    assert library[-1]["error_type"] == "ValueError"
    assert (last["event"], last["level"], last["error"]) == ("process_crashed", "critical", "the end")


def test_hostile_and_long_texts_stay_one_line_of_ascii() -> None:
    code = (
        "configure('info', 'a')\n"
        "log.info('name_seen', name='a\\n\\x1b[31m\\udcff\\u2028', long='x' * 100_000, what=object())\n"
    )
    result = run(code)
    assert result.stderr.count("\n") == 1
    assert result.stderr[:-1].isascii()
    assert result.stderr[:-1].isprintable()
    line = json.loads(result.stderr)
    assert line["name"] == "a\n\x1b[31m\udcff\u2028"
    assert line["long"].endswith("xxx... (100000 characters)")
    assert len(result.stderr) < 4096


def test_a_stderr_nobody_reads_does_not_end_the_daemon_and_the_loss_is_told() -> None:
    code = (
        "configure('info', 'a')\n"
        "kept = os.dup(2)\n"
        "read, write = os.pipe(); os.close(read); os.dup2(write, 2)\n"
        "log.info('first_lost'); log.info('second_lost')\n"  # EPIPE
        "os.close(2)\n"
        "log.info('third_lost')\n"  # EBADF
        "os.dup2(kept, 2)\n"
        "log.info('here_again'); log.info('still_here')\n"
    )
    notice, *rest = lines(code)
    assert (notice["event"], notice["count"]) == ("log_lines_lost", 3)
    assert [line["event"] for line in rest] == ["here_again", "still_here"]


def test_a_daemon_started_without_stderr_does_not_log_into_its_next_file() -> None:
    code = (
        "configure('info', 'a')\n"
        "read, write = os.pipe()\n"
        "log.info('nobody_reads')\n"
        "assert min(read, write) > 2\n"
        "os.set_blocking(read, False)\n"
        "try: print(os.read(read, 10))\n"
        "except BlockingIOError: print('empty')\n"
    )
    result = subprocess.run(
        ["sh", "-c", 'exec "$0" -c "$1" 0<&- 2>&-', sys.executable, PREAMBLE + code],
        stdout=subprocess.PIPE,
        text=True,
        timeout=30,
        check=False,
        env=os.environ,
    )
    assert (result.returncode, result.stdout) == (0, "empty\n")


JOURNAL = (
    "s = os.fstat(2); os.environ['JOURNAL_STREAM'] = f'{s.st_dev}:{s.st_ino}'; configure('debug', 'a')\n"
)


def test_lines_for_the_journal_begin_with_their_priority() -> None:
    code = (
        JOURNAL
        + "[getattr(log, level)('a_line') for level in ('debug', 'info', 'warning', 'error', 'critical')]"
    )
    written = run(code).stderr.splitlines()
    assert [line[:3] for line in written] == ["<7>", "<6>", "<4>", "<3>", "<2>"]
    assert {json.loads(line[3:])["event"] for line in written} == {"a_line"}


def test_a_stderr_that_was_redirected_away_from_the_journal_gets_plain_json() -> None:
    code = "os.environ['JOURNAL_STREAM'] = '1:1'; configure('info', 'a'); log.info('a_line')"
    [line] = lines(code)
    assert line["event"] == "a_line"

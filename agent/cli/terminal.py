"""What the standard streams can show. One rule: colour, cutting and progress only where a person watches.

`screen_for` is pure; the rest asks the stream.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
from collections.abc import Mapping
from typing import TextIO

from agent.cli.render import Screen

PROGRESS_AFTER_S = 1.0  # work that is done sooner needs no progress
PROGRESS_EVERY_S = 0.2


def screen_for(
    is_terminal: bool, encoding: str, environment: Mapping[str, str], columns: int, *, full: bool = False
) -> Screen:
    """The Screen of a stream; NO_COLOR with any non-empty value turns colour off (https://no-color.org)."""
    unicode = encoding.lower().replace("-", "").startswith("utf")
    if not is_terminal:
        return Screen(width=None, colour=False, unicode=unicode)
    colour = not environment.get("NO_COLOR") and environment.get("TERM", "dumb") not in ("dumb", "")
    return Screen(width=None if full else columns, colour=colour, unicode=unicode)


def screen_of(stream: TextIO, *, full: bool = False) -> Screen:
    """The Screen of a real stream; `full` turns cutting off."""
    columns = shutil.get_terminal_size(fallback=(100, 24)).columns
    return screen_for(is_terminal(stream), stream.encoding or "ascii", os.environ, columns, full=full)


def is_terminal(stream: TextIO) -> bool:
    """Whether a person may be watching `stream`; a closed one nobody watches."""
    return not stream.closed and stream.isatty()


class Progress:
    """One line on stderr while work takes longer than a second, where a person watches; nothing elsewhere."""

    def __init__(self, started: float, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._enabled = is_terminal(self._stream)
        self._next = started + PROGRESS_AFTER_S
        self._shown = False

    def update(self, text: str, now: float) -> None:
        """Show `text` if it is time; `now` is on the clock of `started`, in seconds."""
        if not self._enabled or now < self._next:
            return
        self._next = now + PROGRESS_EVERY_S
        self._shown = True
        self._stream.write(f"\r{text}\x1b[K")
        self._stream.flush()

    def finish(self) -> None:
        """Remove the line, before anything else is printed."""
        self._next = math.inf
        if self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._shown = False

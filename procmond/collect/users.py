"""Names of users. One rule: /etc/passwd and nothing else, for NSS would put network code into root."""

from __future__ import annotations

import os
from typing import Final

from procmond.collect.handles import is_exhausted
from procmond.collect.text import text

MAX_PASSWD_BYTES: Final = 16 * 1024 * 1024
"""Some 200,000 accounts; what lies beyond is not read and has no names."""


def parse_passwd(raw: bytes) -> dict[int, str]:
    """uid -> name from passwd(5); the first line of a uid wins, lines of another form are skipped."""
    names: dict[int, str] = {}
    for line in raw.split(b"\n"):
        field = line.split(b":", 3)
        if len(field) == 4 and field[2].isdigit() and field[0] and field[0][:1] not in b"#+-":
            names.setdefault(int(field[2]), text(field[0]))
    return names


class Users:
    """The names in one passwd file, read again when the file changes."""

    def __init__(self, path: str = "/etc/passwd") -> None:
        self._path = path
        self.version = 0
        """Grows whenever names have changed."""
        self._state: tuple[int, ...] | None = None
        self._names: dict[int, str] = {}

    def refresh(self) -> None:
        """Read the file again if it is not the one last read; one that cannot be read has no names.

        While there are no descriptors to read it with, the names stay what they were.
        """
        try:
            status = os.stat(self._path)
            state = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            if state == self._state:
                return
            with open(self._path, "rb") as file:
                names = parse_passwd(file.read(MAX_PASSWD_BYTES))
        except OSError as error:
            if is_exhausted(error):
                return
            state, names = None, {}
        if names != self._names:
            self._names = names
            self.version += 1
        self._state = state

    def name(self, uid: int) -> str:
        """The name of `uid`; empty when it has none."""
        return self._names.get(uid, "")

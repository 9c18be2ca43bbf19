"""Names from a passwd file."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from procmond.collect.users import Users, parse_passwd


def test_the_first_line_of_a_uid_wins_and_other_forms_are_skipped() -> None:
    raw = (
        b"root:x:0:0:root:/root:/bin/sh\ntoor:x:0:0::/:\n#c:x:1:1::/:\n+nis:x:2:2::/:\nbad\n"
        b":x:3:3::/:\nn:x:-4:4::/:\n\xff:x:5:5::/:"
    )
    assert parse_passwd(raw) == {0: "root", 5: "\\xff"}


@given(st.binary())
def test_hostile_text_raises_nothing(raw: bytes) -> None:
    parse_passwd(raw)


def test_the_file_is_read_again_only_when_it_changed(tmp_path: Path) -> None:
    passwd = tmp_path / "passwd"
    passwd.write_text("a:x:1:1::/:\n")
    users = Users(str(passwd))
    users.refresh()
    first = users.version
    users.refresh()
    assert (users.name(1), users.name(2), users.version) == ("a", "", first)
    passwd.touch()
    users.refresh()
    assert users.version == first, "the same names"
    passwd.write_text("b:x:1:1::/:\n")
    os.utime(passwd, ns=(1, 1))
    users.refresh()
    assert (users.name(1), users.version) == ("b", first + 1)
    passwd.unlink()
    users.refresh()
    assert (users.name(1), users.version) == ("", first + 2)

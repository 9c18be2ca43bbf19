"""Which script an interpreter runs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procmond.collect.scripts import script_path

SCRIPTS = {
    "/bin/sh /opt/a": "/opt/a",
    "/bin/bash -e a.sh x": "/cwd/a.sh",
    "/bin/bash -o pipefail ./a": "/cwd/a",
    "/bin/bash -- -odd": "/cwd/-odd",
    "/bin/dash +e a": "/cwd/a",
    "/usr/bin/python3.11 -u -W error x.py": "/cwd/x.py",
    "/usr/bin/python3 -Wignore x.py -c": "/cwd/x.py",
    "/usr/bin/pypy3 x.py": "/cwd/x.py",
    "/usr/bin/perl5.36.0 -w -I lib ../x.pl": "/cwd/../x.pl",
    "/usr/bin/ruby -w x.rb": "/cwd/x.rb",
    "/usr/bin/node --inspect x.js": "/cwd/x.js",
    "/usr/bin/node -r dotenv x.js": "/cwd/x.js",
    "/usr/bin/php -d a=b x.php": "/cwd/x.php",
    "/usr/bin/lua5.4 x.lua": "/cwd/x.lua",
    "/usr/bin/tclsh8.6 x.tcl": "/cwd/x.tcl",
}
NONE = [
    "/bin/bash",
    "/bin/bash -c x",
    "/bin/bash -lc x",
    "/bin/bash -s x",
    "/bin/bash -eo pipefail x",
    "/bin/bash --",
    "/usr/bin/python3 -m http.server",
    "/usr/bin/python3 -Ic x",
    "/usr/bin/python3 -",
    "/usr/bin/perl -ne x file",
    "/usr/bin/node -e x",
    "/usr/bin/cat x",
    "/opt/python-tool x",
    " x",
]


@pytest.mark.parametrize("line", SCRIPTS)
def test_the_script_is_the_first_operand(line: str) -> None:
    argv = line.split(" ")
    assert script_path(argv[0], argv, "/cwd") == SCRIPTS[line]


@pytest.mark.parametrize("line", NONE)
def test_where_it_cannot_be_told_there_is_none(line: str) -> None:
    argv = line.split(" ")
    assert script_path(argv[0], argv, "/cwd") == ""


def test_the_executable_decides_and_not_the_first_argument() -> None:
    assert script_path("/usr/bin/python3", ["./x", "/opt/x"], "/") == "/opt/x"
    assert script_path("/bin/cat", ["python3", "/opt/x"], "/") == ""


def test_a_relative_script_without_a_directory_is_none() -> None:
    assert script_path("/bin/sh", ["sh", "x"], "") == ""
    assert script_path("/bin/sh", ["sh", "x"], "/") == "/x"
    assert script_path("/bin/sh", [], "/") == ""


@given(st.sampled_from(["/bin/sh", "/usr/bin/python3", "/usr/bin/node"]), st.lists(st.text()), st.text())
def test_it_is_absolute_or_empty(executable: str, argv: list[str], cwd: str) -> None:
    assert script_path(executable, argv, cwd)[:1] in ("", "/")

"""Redaction: secrets do not leave, look-alikes stay, the line is never bent, hostile text costs no more."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, SupportsIndex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procmond.collect import redaction_names
from procmond.collect.redaction import redact
from procmond.collect.redaction_names import is_secret_name
from procmond.collect.redaction_rules import PROGRAMS
from procmond.collect.redaction_shapes import MARK, TOKENS
from procmond.collect.redaction_text import may_hold_secret, text_spans
from procmond.collect.redaction_wrappers import MAX_NESTING
from tests.fuzz.fuzz_redaction import target
from tests.procmond.collect.redaction_corpus import CASES, Case


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.line)
def test_secret_of_the_corpus_is_hidden_and_nothing_else(case: Case) -> None:
    assert redact(case.argv, None) == (case.expected, True)


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join(case.look_alike))
def test_look_alike_of_the_corpus_comes_back_as_the_same_object(case: Case) -> None:
    result, hidden = redact(case.look_alike, None)
    assert result is case.look_alike
    assert not hidden


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.line)
def test_redacting_the_corpus_twice_changes_nothing_more(case: Case) -> None:
    once, _ = redact(case.argv, None)
    twice, hidden = redact(once, None)
    assert twice is once
    assert not hidden


def test_corpus_has_at_least_two_hundred_pairs() -> None:
    assert len({case.argv for case in CASES}) >= 200
    assert all(case.secrets and case.argv != case.look_alike for case in CASES)


@pytest.mark.parametrize("argv", [(), ("",), ("mysql -phunter2",), ("--password=x",), ("postgres://u:p@h",)])
def test_argument_zero_is_never_touched(argv: tuple[str, ...]) -> None:
    assert redact(argv, "/usr/bin/mysql") == (argv, False)
    assert redact((*argv[:1], "--token=x"), None)[0][:1] == (*argv[:1], "--token=x")[:1]


@pytest.mark.parametrize("name", ["/opt/my/bin/mysql", "-mysql", "mysql"])
def test_rules_apply_by_the_base_name_of_argument_zero(name: str) -> None:
    assert redact((name, "-phunter2"), "/usr/bin/other") == ((name, "-p[REDACTED]"), True)


def test_rules_apply_by_the_base_name_of_the_executable() -> None:
    assert redact(("renamed", "-phunter2"), "/usr/bin/mysql") == (("renamed", "-p[REDACTED]"), True)
    assert redact(("renamed", "-phunter2"), "/usr/bin/mkdir") == (("renamed", "-phunter2"), False)


def test_quotes_and_spacing_of_shell_text_stay() -> None:
    script = "cd  /srv;\tPGPASSWORD='a b'   psql \"password=x\"  # c"
    hidden = "cd  /srv;\tPGPASSWORD='[REDACTED]'   psql \"password=[REDACTED]\"  # c"
    assert redact(("sh", "-c", script), None) == (("sh", "-c", hidden), True)


def test_secret_cut_by_quotes_hides_its_whole_word() -> None:
    argv = ("sh", "-c", "mysql -p'hun'\"ter\"2 shop")
    assert redact(argv, None)[0] == ("sh", "-c", "mysql [REDACTED] shop")


def test_shell_text_deeper_than_the_bound_is_still_searched_by_name() -> None:
    argv: tuple[str, ...] = ("app", "--password=hunter2")
    text = "app --password=hunter2"
    for _ in range(MAX_NESTING + 3):
        text = "sh -c '" + text.replace("'", "'\\''") + "'"
        argv = ("sh", "-c", text)
    assert "hunter2" not in "".join(redact(argv, None)[0])


def test_arguments_behind_more_wrappers_than_the_bound_are_still_searched_by_name() -> None:
    argv = ("watch",) * (MAX_NESTING + 3) + ("app", "--password", "hunter2", "X-Api-Key:", "k", "-p=x")
    shown = (*argv[: MAX_NESTING + 3], "app", "--password", MARK, "X-Api-Key:", MARK, "-p=x")
    assert redact(argv, None) == (shown, True)


@pytest.mark.parametrize(
    ("argv", "hidden"),
    [
        # What is glued to an option and hidden does not make the option look like a value afterwards.
        (("mongo", "-p", "-playbook"), ("mongo", "-p", f"-p{MARK}")),
        # A value may end with a padding of base64.
        (("vault", "write", "a/b", "key=c2VjcmV0Cg=="), ("vault", "write", "a/b", f"key={MARK}")),
        (("vault", "write", "a/b", "key="), ("vault", "write", "a/b", "key=")),
    ],
)
def test_what_fuzzing_found_is_hidden_and_settled(argv: tuple[str, ...], hidden: tuple[str, ...]) -> None:
    assert redact(argv, None)[0] == hidden
    assert redact(hidden, None) == (hidden, False)


@pytest.mark.parametrize("path", sorted(Path(redaction_names.__file__).parent.glob("redaction*.py")), ids=str)
def test_no_regular_expression_is_used(path: Path) -> None:
    imported: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module or "")
    assert imported.isdisjoint({"re", "fnmatch", "shlex", "glob"})


# ----------------------------------------------------------------------------------------- the prefilter


def test_prefilter_lets_every_secret_name_through() -> None:
    names = redaction_names
    words = {
        *names._ENDINGS,
        *names._SHORT,
        *names._WHOLE,
        *names._PAIRS,
        *names._HEADERS,
        "--pin",
        "--so-pin",
    }
    assert [word for word in sorted(words) if not may_hold_secret(word.upper())] == []


@pytest.mark.parametrize(("prefix", "least", "others"), TOKENS)
def test_prefilter_lets_every_token_through_and_it_is_hidden(prefix: str, least: int, others: str) -> None:
    token = prefix + "A1" * least
    assert may_hold_secret(token)
    assert redact(("app", f"x/{token}/y{others}"), None)[1]


def test_name_rules_agree_with_themselves() -> None:
    assert is_secret_name("--db-password")
    assert is_secret_name("dbPass")
    assert not is_secret_name("compass")
    assert not is_secret_name("PWD")
    assert is_secret_name("Pwd")
    assert is_secret_name("--user-pin")
    assert not is_secret_name("pin")


def test_program_letters_mean_one_thing_each() -> None:
    for name, program in PROGRAMS.items():
        clash = (set(program.letters) & set(program.pair)) | (
            set(program.letters + program.pair + program.last_with) & set(program.takes)
        )
        assert not clash, f"{name}: {clash}"


# -------------------------------------------------------------------------------------------- properties

_FRAGMENTS = [
    *" \n=:'\"\\;|@{},&$#/()<-%`éİ][x",
    *redaction_names.words_of(
        "password y1 -p --token mysql curl -u sh -c :// Authorization Bearer [REDACTED] echo chpasswd env ssh"
        " --auth pass: privatekey cookie == docker run login smbclient -U htpasswd -b vault put sqlplus @tcp("
        " -H X-Api-Key sudo -S null zip -P --secret git -m .key"
    ),
]
_ARGUMENT = st.one_of(
    st.sampled_from(sorted(_FRAGMENTS)),
    st.lists(st.sampled_from(sorted(_FRAGMENTS)), max_size=8).map("".join),
    st.text(max_size=20),
)
_ARGV = st.lists(_ARGUMENT, max_size=8).map(tuple)


@given(argv=_ARGV, executable=st.sampled_from([None, "/usr/bin/mysql", "/bin/sh", "/usr/bin/curl"]))
def test_any_line_keeps_its_shape_and_is_settled_at_once(
    argv: tuple[str, ...], executable: str | None
) -> None:
    result, hidden = redact(argv, executable)
    assert len(result) == len(argv)
    assert result[:1] == argv[:1]
    assert (result is argv) is not hidden
    assert (MARK in "".join(result)) >= hidden
    assert redact(result, executable) == (result, False)


_TEMPLATES = (
    ("app", "--password", "{}"),
    ("app", "--password={}"),
    ("app", "-Ddb.password={}"),
    ("mysql", "-p{}"),
    ("sshpass", "-p", "{}", "ssh", "h"),
    ("curl", "-u", "bob:{}", "h"),
    ("curl", "-H", "Authorization: {}"),
    ("curl", "-H", "X-Api-Key: {}"),
    ("curl", "-d", '{{"password": "{}"}}'),
    ("curl", "https://h/?token={}&a=1"),
    ("psql", "postgres://u:{}@h/db"),
    ("psql", "password={} host=h"),
    ("sh", "-c", "PGPASSWORD={} psql"),
    ("sh", "-c", "redis-cli -a {} ping"),
    ("sudo", "-u", "bob", "timeout", "5", "mysql", "-p{}"),
    ("docker", "run", "-e", "API_KEY={}", "web"),
    ("sh", "-c", "echo bob:{} | chpasswd"),
    ("openssl", "rsa", "-passin", "pass:{}"),
    ("smbclient", "-U", "bob%{}"),
)
_SECRET = st.text("abcXYZ0189!%+*~^.", min_size=4, max_size=24).map(lambda text: "Zq" + text + "9")


@given(template=st.sampled_from(_TEMPLATES), secret=_SECRET)
def test_no_generated_secret_survives(template: tuple[str, ...], secret: str) -> None:
    argv = tuple(part.format(secret) for part in template)
    result, hidden = redact(argv, None)
    assert hidden
    assert secret not in "\n".join(result)
    assert result == tuple(part.format(MARK) for part in template)


@given(data=st.binary(max_size=200))
def test_fuzz_target_accepts_any_bytes(data: bytes) -> None:
    target(data)


# ----------------------------------------------------------------------------------- cost of hostile text


class _Counted(str):
    """A text that counts the characters its searches pass, which no line count shows."""

    __slots__ = ()
    passed = 0

    def find(self, sub: str, start: SupportsIndex | None = None, end: SupportsIndex | None = None, /) -> int:
        return self._count(super().find(sub, start, end), start, end)

    def rfind(self, sub: str, start: SupportsIndex | None = None, end: SupportsIndex | None = None, /) -> int:
        found = super().rfind(sub, start, end)
        stop = len(self) if end is None else int(end)
        _Counted.passed += max(0, stop - max(found, int(start or 0)))
        return found

    def _count(self, found: int, start: SupportsIndex | None, end: SupportsIndex | None) -> int:
        stop = len(self) if end is None else int(end)
        _Counted.passed += max(0, (found if found >= 0 else stop) - int(start or 0))
        return found


def _work(call: Callable[[], object]) -> int:
    """Lines of Python executed plus characters passed by searches."""
    lines = 0

    def trace(_frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal lines
        lines += event == "line"
        return trace

    before = sys.gettrace()
    _Counted.passed = 0
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return lines + _Counted.passed


_HOSTILE = (
    *(
        "=",
        ":",
        "a=",
        "password=",
        "password=x,",
        "password=x;a",
        "a://b:c",
        "a://b:c@",
        "u:p@tcp(",
        ":thin:a/b@",
    ),
    *(
        " ",
        " =",
        ", ",
        "'cookie:x'",
        "cookie:x\n",
        '"password":"',
        '\\"token\\":\\"',
        "-",
        "eyJ",
        "ghp_a",
        "Bearer ",
    ),
    *(
        "privatekey=/",
        "credentials=/;",
        "x=$(",
        "'",
        '"',
        "|",
        "password='",
        "password=\\",
        "auth:a",
        "auth=u:p&",
    ),
    *(
        "a",
        "token=[REDACTED]",
        "sh -c ",
        "sudo ",
        "mysql -pa;",
        "echo a|chpasswd\n",
        "find -exec ",
        "ssh h 'a' ",
    ),
)


@pytest.mark.parametrize("unit", _HOSTILE)
@pytest.mark.parametrize("before", [(), ("-c",)], ids=["argument", "script"])
def test_work_doubles_when_hostile_text_doubles(unit: str, before: tuple[str, ...]) -> None:
    def work(size: int) -> int:
        text = _Counted(("password=" + unit * size)[:size])
        return _work(lambda: (redact(("sh", *before, text), None), text_spans(text, prose=False)))

    assert work(8192) < 2.3 * work(4096) + 2000


@pytest.mark.parametrize(
    "unit", ["sudo", "sh", "-c", "--password", "find", "-exec", "env", "a=b", "docker", "-p", "Cookie:"]
)
def test_work_doubles_when_hostile_arguments_double(unit: str) -> None:
    def work(count: int) -> int:
        return _work(lambda: redact(("sudo", "mysql", "--token") + (unit,) * count, None))

    assert work(2000) < 2.3 * work(1000) + 2000

"""Configuration, settings, arguments and the commented file, with a small definition of their own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import arguments
from common.conffile import literal, render_effective, render_toml
from common.config import MAX_FILE_BYTES, File, Resolved, read_file, resolve
from common.errors import ConfigError
from common.setting import Setting, keys_of


class Inner(msgspec.Struct, frozen=True, kw_only=True):
    count: Annotated[
        int, Setting(meaning="How many.", why="a few.", unit="things", minimum=1, maximum=9, flag="--count")
    ] = 3
    wait: Annotated[
        float, Setting(meaning="How long.", why="not long.", unit="seconds", minimum=0.5, maximum=60)
    ] = 2.0


class Example(msgspec.Struct, frozen=True, kw_only=True):
    name: Annotated[str, Setting(meaning="A name.", why="it is short.", flag="--name", metavar="NAME")] = (
        "eye"
    )
    mode: Annotated[Literal["fast", "safe"], Setting(meaning="How.", why="safe.", flag="--mode")] = "safe"
    loud: Annotated[bool, Setting(meaning="Whether.", why="quiet.", flag="--loud")] = False
    users: Annotated[
        tuple[str | int, ...], Setting(meaning="Who, 100 %.", why="root.", flag="--user", metavar="USER")
    ] = ("root",)
    extra: Annotated[str | None, Setting(meaning="If any.", why="unset.")] = None
    inner: Annotated[Inner, Setting(meaning="More.")] = Inner()


PROGRAM = arguments.Program(
    name="example",
    description="An example.",
    definition=Example,
    prefix="EXAMPLE_",
    config_path="/nonexistent/example.toml",
)


def resolved(
    text: str = "", environment: Mapping[str, str] | None = None, flags: Mapping[str, Any] | None = None
) -> Resolved[Example]:
    return resolve(
        Example,
        prefix="EXAMPLE_",
        file=File("/etc/e.toml", text),
        environment=environment or {},
        flags=flags or {},
    )


def test_nothing_given_gives_the_defaults_and_says_so() -> None:
    result = resolved()
    assert result.value == Example()
    assert {str(origin) for origin in result.origins.values()} == {"default"}
    assert result.is_default("inner.count")


def test_a_flag_beats_the_environment_beats_the_file_beats_the_default() -> None:
    text = 'name = "file"\nmode = "fast"\nloud = true\n[inner]\ncount = 4\n'
    result = resolved(text, {"EXAMPLE_NAME": "environment", "EXAMPLE_MODE": "safe"}, {"name": "flag"})
    assert result.value == Example(name="flag", mode="safe", loud=True, inner=Inner(count=4))
    assert {key: str(origin) for key, origin in result.origins.items()} == {
        "name": "flag --name",
        "mode": "environment EXAMPLE_MODE",
        "loud": "file /etc/e.toml",
        "users": "default",
        "extra": "default",
        "inner.count": "file /etc/e.toml",
        "inner.wait": "default",
    }


def test_a_value_that_is_overridden_is_checked_all_the_same() -> None:
    with pytest.raises(ConfigError, match=r"^/etc/e.toml: mode: expected one of fast, safe, not 'slow'$"):
        resolved('mode = "slow"', flags={"mode": "fast"})


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("EXAMPLE_INNER__COUNT", "9", Example(inner=Inner(count=9))),
        ("EXAMPLE_INNER__WAIT", "1", Example(inner=Inner(wait=1.0))),
        ("EXAMPLE_LOUD", "true", Example(loud=True)),
        ("EXAMPLE_LOUD", "0", Example()),
        ("EXAMPLE_USERS", "a, b,7", Example(users=("a", "b", "7"))),
        ("EXAMPLE_USERS", "", Example(users=())),
        ("EXAMPLE_NAME", "12", Example(name="12")),
        ("EXAMPLE_EXTRA", "null", Example(extra="null")),
    ],
)
def test_the_environment_is_text_read_as_the_key_needs_it(variable: str, text: str, value: Example) -> None:
    assert resolved(environment={variable: text, "PATH": "/bin", "EXAMPLE": "not ours"}).value == value


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("nmae = 'x'", "/etc/e.toml: 'nmae': unknown key; did you mean name?"),
        (
            "zzzzzz = 1",
            "/etc/e.toml: 'zzzzzz': unknown key; expected one of extra, inner, loud, mode, name, users",
        ),
        ("[inner]\ncuont = 1", "/etc/e.toml: 'inner.cuont': unknown key; did you mean count?"),
        ("[iner]\ncount = 1", "/etc/e.toml: 'iner': unknown key; did you mean inner?"),
        ('"a\\nb" = 1', "/etc/e.toml: 'a\\nb': unknown key; expected one of"),
        ("inner = 5", "/etc/e.toml: inner: expected a table, not 5"),
        ("[name]\nx = 1", "/etc/e.toml: name: expected printable text, not {'x': 1}"),
        ("name = 5", "/etc/e.toml: name: expected printable text, not 5"),
        ('name = ""', "/etc/e.toml: name: expected printable text, not ''"),
        ('name = "a\\nb"', "/etc/e.toml: name: expected printable text, not 'a\\nb'"),
        ("loud = 1", "/etc/e.toml: loud: expected true or false, not 1"),
        ('users = "root"', "/etc/e.toml: users: expected a list of printable texts, not 'root'"),
        ("users = [1.5]", "/etc/e.toml: users: expected a list of printable texts, not [1.5]"),
        ("users = ['']", "/etc/e.toml: users: expected a list of printable texts, not ['']"),
        ("[inner]\ncount = 0", "inner.count: expected a whole number from 1 to 9 things, not 0"),
        ("[inner]\ncount = 10", "inner.count: expected a whole number from 1 to 9 things, not 10"),
        ("[inner]\ncount = true", "inner.count: expected a whole number from 1 to 9 things, not True"),
        ("[inner]\ncount = 2.5", "inner.count: expected a whole number from 1 to 9 things, not 2.5"),
        ('[inner]\ncount = "3"', "inner.count: expected a whole number from 1 to 9 things, not '3'"),
        ("[inner]\nwait = nan", "inner.wait: expected a number from 0.5 to 60 seconds, not nan"),
        ("[inner]\nwait = inf", "inner.wait: expected a number from 0.5 to 60 seconds, not inf"),
        ("name = ", "/etc/e.toml: not valid TOML: Invalid value (at end of document)"),
        ("name = 'a'\nname = 'b'", "/etc/e.toml: not valid TOML: "),
        ("x = " + "[" * 100_000, "/etc/e.toml: not valid TOML: "),
    ],
)
def test_a_bad_file_is_refused_in_one_line_with_file_key_and_expectation(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        resolved(text)
    assert complaint in str(refusal.value)
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize(
    ("variable", "text", "complaint"),
    [
        (
            "EXAMPLE_INER__COUNT",
            "1",
            "'EXAMPLE_INER__COUNT': unknown environment variable; did you mean EXAMPLE_INNER__COUNT?",
        ),
        ("EXAMPLE_", "1", "'EXAMPLE_': unknown environment variable"),
        ("EXAMPLE_inner__count", "1", "unknown environment variable; did you mean"),
        ("EXAMPLE_INNER", "1", "'EXAMPLE_INNER': unknown environment variable"),
        ("EXAMPLE_QQQQQQQQQQQQQQQQ", "1", "expected EXAMPLE_ and a key, tables joined by __"),
        ("EXAMPLE_LOUD", "yes", "EXAMPLE_LOUD: expected true or false, not 'yes'"),
        (
            "EXAMPLE_INNER__COUNT",
            "",
            "EXAMPLE_INNER__COUNT: expected a whole number from 1 to 9 things, not ''",
        ),
        ("EXAMPLE_USERS", "a,,b", "EXAMPLE_USERS: expected a list of printable texts, not ['a', '', 'b']"),
        ("EXAMPLE_NAME", "\udcff", "EXAMPLE_NAME: expected printable text, not '\\udcff'"),
    ],
)
def test_a_bad_variable_is_refused_by_its_name(variable: str, text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(complaint)):
        resolved(environment={variable: text})


@given(st.text())
def test_any_text_as_a_file_is_a_value_or_a_refusal(text: str) -> None:
    try:
        resolved(text)
    except ConfigError as refusal:
        message = str(refusal)
    else:
        message = ""
    assert "\n" not in message


def test_the_error_of_a_later_check_names_where_the_value_came_from() -> None:
    result = resolved("users = ['x']", {"EXAMPLE_NAME": "y"})
    assert str(result.error("users", "no")) == "/etc/e.toml: users: no"
    assert str(result.error("name", "no")) == "EXAMPLE_NAME: no"
    assert str(result.error("mode", "no")) == "default of mode: no"


def test_a_missing_file_is_fine_only_at_the_default_path(tmp_path: Path) -> None:
    path = str(tmp_path / "none.toml")
    assert read_file(path, required=False) is None
    with pytest.raises(ConfigError, match=f"^{re.escape(path)}: no such file"):
        read_file(path, required=True)
    with pytest.raises(ConfigError, match="no such file"):
        arguments.load(PROGRAM, arguments.parse_arguments(PROGRAM, ["--config", path]), {})
    assert arguments.load(PROGRAM, arguments.Arguments(), {}).value == Example()


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_file(str(tmp_path), required=False)
    with pytest.raises(ConfigError, match="cannot be read: embedded null byte"):
        read_file("a\0b", required=True)
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b'name = "\xe9"')
    with pytest.raises(ConfigError, match=r"latin.toml: not UTF-8 at byte 8; expected TOML$"):
        read_file(str(latin), required=True)
    large = tmp_path / "large.toml"
    large.write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    with pytest.raises(ConfigError, match="more than 1048576 bytes"):
        read_file(str(large), required=True)


def test_flags_say_only_what_was_said() -> None:
    said = arguments.parse_arguments(PROGRAM, ["--loud", "--user", "a", "b", "--user=c", "--count", "5"])
    assert said == arguments.Arguments(flags={"loud": True, "users": ["a", "b", "c"], "inner.count": "5"})
    value = arguments.load(PROGRAM, said, {"EXAMPLE_USERS": "z"}).value
    assert value == Example(loud=True, users=("a", "b", "c"), inner=Inner(count=5))
    assert arguments.parse_arguments(PROGRAM, []) == arguments.Arguments()
    assert arguments.parse_arguments(PROGRAM, ["--check-config", "--config", "f"]) == arguments.Arguments(
        check_config=True, config_path="f"
    )


def test_a_bad_flag_value_is_refused_by_the_flags_name() -> None:
    said = arguments.parse_arguments(PROGRAM, ["--count", "ten"])
    with pytest.raises(
        ConfigError, match=r"^--count: expected a whole number from 1 to 9 things, not 'ten'$"
    ):
        arguments.load(PROGRAM, said, {})


@pytest.mark.parametrize("argv", [["--nam", "x"], ["--unknown"], ["operand"], ["--name"], ["--user"]])
def test_wrong_usage_exits_with_2_and_usage_on_stderr(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        arguments.parse_arguments(PROGRAM, argv)
    assert exit_.value.code == 2
    assert capsys.readouterr().err.startswith("usage: example")


def test_help_and_version_exit_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--help", "--version"):
        with pytest.raises(SystemExit) as exit_:
            arguments.parse_arguments(PROGRAM, [option])
        assert exit_.value.code == 0
    output = capsys.readouterr().out
    assert "--mode fast|safe" in output
    assert "Who, 100 %." in output
    assert re.search(r"^example \d+\.\d+\.\d+$", output, re.MULTILINE)


def test_the_generated_file_parses_to_the_defaults_as_it_is_and_with_every_key_uncommented() -> None:
    text = render_toml(Example)
    assert resolved(text).value == Example()
    assert all(resolved(text).is_default(key.dotted) for key in keys_of(Example))
    uncommented = re.sub(r"^#(?=\w+ = )", "", text, flags=re.MULTILINE)
    result = resolved(uncommented)
    assert result.value == Example()
    assert [key for key in result.origins if result.is_default(key)] == ["extra"]


def test_the_generated_file_explains_every_key() -> None:
    text = render_toml(Example)
    for key in keys_of(Example):
        assert f"# {key.setting.meaning}" in text
        assert key.setting.why in text
    assert "# Takes a whole number from 1 to 9 things." in text
    assert "\n[inner]\n# More.\n" in text


def test_the_effective_configuration_is_toml_that_gives_the_same_values_and_names_origins() -> None:
    first = resolved('users = [1, "b"]', {"EXAMPLE_NAME": 'a "quoted" \\ name'}, {"loud": True})
    text = render_effective(first)
    assert resolved(text).value == first.value
    assert 'users = [1, "b"]  # file /etc/e.toml' in text
    assert "loud = true  # flag --loud" in text
    assert "# extra =  # default" in text


@given(st.text(st.characters(codec="utf-8").filter(str.isprintable), min_size=1).filter(str.strip))
def test_a_printable_text_survives_being_written_as_toml(name: str) -> None:
    assert resolved(f"name = {literal(name)}").value.name == name

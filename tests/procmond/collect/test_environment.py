"""The allow-list of variables."""

from __future__ import annotations

from procmond.collect.environment import ENVIRONMENT_NAMES, MAX_VALUE_CHARACTERS, select_environment


def test_only_the_allow_listed_are_shown_and_long_values_are_cut() -> None:
    shown = select_environment({"LD_PRELOAD": "x" * 5000, "AWS_SECRET_ACCESS_KEY": "y"}, None)
    assert shown == {"LD_PRELOAD": "x" * MAX_VALUE_CHARACTERS}


def test_values_are_redacted_as_arguments_are() -> None:
    def redact(argv: tuple[str, ...], executable: str | None) -> tuple[tuple[str, ...], bool]:
        return (argv[0], *("[REDACTED]" for _ in argv[1:])), True

    assert select_environment({"SUDO_COMMAND": "x"}, redact) == {"SUDO_COMMAND": "[REDACTED]"}


def test_no_name_that_tends_to_hold_a_secret_is_listed() -> None:
    words = ("PASS", "SECRET", "TOKEN", "KEY", "CRED", "PROXY")
    assert not [name for name in ENVIRONMENT_NAMES if any(word in name for word in words)]

"""procmond.config: the defaults the documentation promises."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from common.conffile import render_toml
from common.config import File, resolve
from common.errors import ConfigError
from common.limits import MIN_MAX_FRAME_SIZE
from common.setting import keys_of
from procmond.config import Hashing, Limits, ProcmondConfig, load, parse_arguments


def test_the_defaults_are_those_the_design_promises() -> None:
    assert ProcmondConfig() == ProcmondConfig(
        socket="/run/daemoneye/procmond.sock",
        allow_users=("root",),
        allow_groups=("daemoneye",),
        admin_users=("root", "daemoneye"),
        collector="auto",
        event_source="auto",
        allow_unconfined=False,
        front_user=None,
        log_level="info",
        redact_arguments=True,
        limits=Limits(
            max_frame_size=1_048_576,
            connections=256,
            connections_per_uid=64,
            tasks_per_connection=16,
            tasks_in_flight=64,
            frame_deadline=30.0,
            stall_limit=30.0,
            task_deadline=30.0,
        ),
        hashing=Hashing(
            max_file_size=536_870_912, file_deadline=20.0, workers=2, cache_entries=16_384, budget=5.0
        ),
    )
    assert "LD_PRELOAD" in ProcmondConfig().environment_variables


def test_every_default_satisfies_its_own_setting_and_is_explained() -> None:
    text = re.sub(r"^#(?=\w+ = )", "", render_toml(ProcmondConfig), flags=re.MULTILINE)
    result = resolve(ProcmondConfig, prefix="PROCMOND_", file=File("generated", text))
    assert result.value == ProcmondConfig()
    assert [key for key in result.origins if result.is_default(key)] == ["front_user"]
    for key in keys_of(ProcmondConfig):
        assert key.setting.meaning
        assert key.setting.why


def test_every_flag_of_the_command_line_reaches_its_key(tmp_path: Path) -> None:
    path = tmp_path / "procmond.toml"
    path.write_text("[limits]\nconnections = 8\n")
    argv = (
        f"--config {path} --socket /tmp/s --allow-user a 7 --allow-group b --admin-user c --collector psutil "
        "--event-source polling --allow-unconfined --log-level debug --check-config"
    ).split()
    arguments = parse_arguments(argv)
    assert arguments.check_config
    config = load(arguments, {"PROCMOND_HASHING__WORKERS": "4", "PROCMOND_LOG_LEVEL": "error"}).value
    assert config == ProcmondConfig(
        socket="/tmp/s",
        allow_users=("a", "7"),
        allow_groups=("b",),
        admin_users=("c",),
        collector="psutil",
        event_source="polling",
        allow_unconfined=True,
        log_level="debug",
        limits=Limits(connections=8),
        hashing=Hashing(workers=4),
    )


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (
            ["--socket", "/" + "x" * 107],
            "--socket: expected an absolute path of at most 107 bytes, not '/xxx",
        ),
        (["--socket", "/" + "\u00e9" * 54], "--socket: expected an absolute path of at most 107 bytes"),
        (["--socket", "procmond.sock"], "--socket: expected an absolute path of at most 107 bytes"),
        (["--collector", "fast"], "--collector: expected one of auto, bpf, procfs, psutil, not 'fast'"),
        (["--event-source", "ebfp"], "--event-source: expected one of auto, ebpf, connector, polling"),
        (["--allow-user", "a b"], "--allow-user: expected a list of user names or numbers, not ['a b']"),
        (["--allow-group", "4294967295"], "--allow-group: expected a list of group names or numbers"),
        (["--log-level", "loud"], "--log-level: expected one of debug, info, warning, error, not 'loud'"),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_flag(argv: list[str], complaint: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        load(parse_arguments(argv), {})
    assert str(refusal.value).startswith(complaint)


def test_the_longest_socket_path_is_accepted() -> None:
    path = "/" + "x" * 106
    assert load(parse_arguments(["--socket", path]), {}).value.socket == path


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        (
            "PROCMOND_LIMITS__MAX_FRAME_SIZE",
            "1023",
            f"a whole number from {MIN_MAX_FRAME_SIZE} to 67108864 bytes",
        ),
        ("PROCMOND_LIMITS__CONNECTIONS", "0", "a whole number from 1 to 4096"),
        ("PROCMOND_LIMITS__STALL_LIMIT", "0", "a number from 0.1 to 3600.0 seconds"),
        ("PROCMOND_HASHING__BUDGET", "-1", "a number from 0 to 600.0 seconds"),
        ("PROCMOND_ENVIRONMENT_VARIABLES", "A=B", "a list of variable names"),
        ("PROCMOND_FRONT_USER", "", "a user name or number"),
    ],
)
def test_bounds_hold_in_the_environment_too(variable: str, text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=f"^{variable}: expected {re.escape(expected)}, not "):
        load(parse_arguments([]), {variable: text})

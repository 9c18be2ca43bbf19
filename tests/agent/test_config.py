"""agent.config: the defaults the documentation promises."""

from __future__ import annotations

import os
import re

import pytest

from agent.config import (
    AgentConfig,
    ClientSettings,
    load,
    parse_arguments,
    resolve_control_access,
    resolve_server_uid,
)
from common.conffile import render_toml
from common.config import File, resolve
from common.errors import ConfigError
from common.setting import keys_of


def test_the_defaults_are_those_the_design_promises() -> None:
    assert AgentConfig() == AgentConfig(
        socket="/run/daemoneye/procmond.sock",
        server_user="root",
        state_dir="/var/lib/daemoneye",
        scan_interval=30.0,
        log_execs=True,
        control_socket="/run/daemoneye-agent/control.sock",
        control_users=("root",),
        control_groups=(),
        log_level="info",
        client=ClientSettings(
            connect_timeout=5.0,
            call_deadline=30.0,
            backoff_base=0.1,
            backoff_cap=5.0,
            breaker_threshold=5,
            breaker_cool_down=5.0,
        ),
    )


def test_every_default_satisfies_its_own_setting_and_is_explained() -> None:
    text = re.sub(r"^#(?=\w+ = )", "", render_toml(AgentConfig), flags=re.MULTILINE)
    result = resolve(AgentConfig, prefix="DAEMONEYE_AGENT_", file=File("generated", text))
    assert result.value == AgentConfig()
    assert not any(result.is_default(key) for key in result.origins)
    for key in keys_of(AgentConfig):
        assert key.setting.meaning
        assert key.setting.why


def test_flags_and_environment_reach_their_keys() -> None:
    arguments = parse_arguments(["--socket", "/tmp/s", "--state-dir", "/tmp/d", "--log-level", "warning"])
    environment = {"DAEMONEYE_AGENT_SCAN_INTERVAL": "1", "DAEMONEYE_AGENT_CLIENT__BACKOFF_CAP": "0.5"}
    assert load(arguments, environment).value == AgentConfig(
        socket="/tmp/s",
        state_dir="/tmp/d",
        log_level="warning",
        scan_interval=1.0,
        client=ClientSettings(backoff_cap=0.5),
    )


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("DAEMONEYE_AGENT_SCAN_INTERVAL", "0.5"),
        ("DAEMONEYE_AGENT_STATE_DIR", "state"),
        ("DAEMONEYE_AGENT_SERVER_USER", "-1:0"),
        ("DAEMONEYE_AGENT_CLIENT__BREAKER_THRESHOLD", "0"),
        ("DAEMONEYE_AGENT_RULES_DIR", "/r"),
    ],
)
def test_what_is_out_of_range_or_unknown_is_refused(variable: str, text: str) -> None:
    with pytest.raises(ConfigError, match=variable):
        load(parse_arguments([]), {variable: text})


def test_the_server_is_known_by_its_uid() -> None:
    assert resolve_server_uid(load(parse_arguments([]), {})) == 0
    assert resolve_server_uid(load(parse_arguments([]), {"DAEMONEYE_AGENT_SERVER_USER": "4711"})) == 4711
    with pytest.raises(ConfigError, match=r"^DAEMONEYE_AGENT_SERVER_USER: expected an existing user"):
        resolve_server_uid(load(parse_arguments([]), {"DAEMONEYE_AGENT_SERVER_USER": "no-such-user-here"}))


def test_who_may_ask_for_the_state_is_looked_up() -> None:
    access = resolve_control_access(load(parse_arguments([]), {}))
    assert access.uids == {0, os.geteuid()}
    assert (access.gids, access.socket_gid) == (frozenset(), os.getegid())
    environment = {
        "DAEMONEYE_AGENT_CONTROL_USERS": "4711",
        "DAEMONEYE_AGENT_CONTROL_GROUPS": "4712,4713",
    }
    access = resolve_control_access(load(parse_arguments([]), environment))
    assert access.uids == {4711, os.geteuid()}
    assert (access.gids, access.socket_gid) == (frozenset({4712, 4713}), 4712)


@pytest.mark.parametrize("key", ["control_users", "control_groups"])
def test_a_name_nobody_has_is_refused(key: str) -> None:
    variable = f"DAEMONEYE_AGENT_{key.upper()}"
    with pytest.raises(ConfigError, match=f"^{variable}: expected an existing"):
        resolve_control_access(load(parse_arguments([]), {variable: "no-such-name-here"}))

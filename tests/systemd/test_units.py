"""The unit files say what the code needs, and nothing contradicts it. That they work is for `run` to show."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from agent.config import AgentConfig
from common import limits
from procmond.config import ProcmondConfig
from procmond.confine import machine, policy
from procmond.confine.capabilities import Capability
from procmond.confine.roles import READING
from procmond.supervisor import GRACE_S
from tests.systemd.breaking import WATCHDOG_S

UNITS = Path(__file__).resolve().parents[2] / "systemd"
SERVICES = ("procmond.service", "daemoneye-agent.service")


class Lines(dict[str, str]):
    """Joins what a unit file says several times, as systemd does for lists."""

    def __setitem__(self, key: str, value: object) -> None:
        if isinstance(value, list) and key in self:
            value = [*self[key], *value]
        super().__setitem__(key, value)  # type: ignore[assignment]  # configparser stores lists while it reads


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(
        strict=False, interpolation=None, dict_type=Lines, delimiters=("=",), comment_prefixes=("#",)
    )
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # the documented way to keep case
    parser.read(UNITS / name)
    return parser


def allowed_calls() -> set[str]:
    names = set(unit("procmond.service")["Service"]["SystemCallFilter"].split())
    for group in [name for name in names if name.startswith("@")]:
        command = ("systemd-analyze", "syscall-filter", "--no-pager", group)
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        names |= set(re.findall(r"^ {4}(\w+)$", listed, re.MULTILINE))
    return names


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("architecture", machine.MACHINES.values(), ids=lambda known: known.name)
def test_every_call_a_process_keeps_is_in_the_units_list(architecture: machine.Machine) -> None:
    rules = policy.supervisor_rules(1, architecture, (1, 1), (2, 3))
    kept = {rule.name for rule in rules if machine.number(architecture, rule.name) is not None}
    assert kept <= allowed_calls()


def test_every_capability_a_process_keeps_is_in_the_units_set() -> None:
    given = set(unit("procmond.service")["Service"]["CapabilityBoundingSet"].split())
    kept = {f"CAP_{capability.name}" for capability in {*READING, Capability.SETUID, Capability.SETGID}}
    assert kept <= given


def test_the_sockets_places_are_the_codes_defaults() -> None:
    socket = unit("procmond.socket")["Socket"]
    assert socket["ListenStream"] == ProcmondConfig().socket == AgentConfig().socket
    assert (
        f"d {Path(socket['ListenStream']).parent} 0750 root daemoneye"
        in (UNITS / "tmpfiles.conf").read_text()
    )
    assert (socket["SocketMode"], socket["SocketUser"], socket["SocketGroup"]) == (
        "0660",
        "root",
        "daemoneye",
    )
    assert int(socket["Backlog"]) >= limits.LISTEN_BACKLOG


def test_the_agents_directories_are_the_codes_defaults() -> None:
    service = unit("daemoneye-agent.service")["Service"]
    assert f"/var/lib/{service['StateDirectory']}" == AgentConfig().state_dir
    assert service["RuntimeDirectory"] != "daemoneye", "systemd would give the agent root's directory"


def test_the_users_in_the_units_are_made() -> None:
    made = re.findall(r"^u (\S+)", (UNITS / "sysusers.conf").read_text(), re.MULTILINE)
    service = unit("procmond.service")["Service"]
    assert service["Environment"] == "PROCMOND_FRONT_USER=daemoneye-front"
    assert made == [unit("daemoneye-agent.service")["Service"]["User"], "daemoneye-front"]


def test_a_stop_has_the_time_that_procmond_takes() -> None:
    assert int(unit("procmond.service")["Service"]["TimeoutStopSec"]) > GRACE_S


def test_the_watchdog_of_the_unit_is_the_one_that_is_waited_for() -> None:
    assert int(unit("procmond.service")["Service"]["WatchdogSec"]) == WATCHDOG_S


@pytest.mark.parametrize("name", SERVICES)
def test_a_wrong_configuration_is_not_tried_again(name: str) -> None:
    service = unit(name)["Service"]
    assert (service["Restart"], service["RestartPreventExitStatus"]) == ("always", "2")


@pytest.mark.parametrize("name", [*SERVICES, "procmond.socket"])
def test_no_start_limit_leaves_a_unit_dead(name: str) -> None:
    assert unit(name)["Unit"]["StartLimitIntervalSec"] == "0"

"""The package's files come from the definitions in use, and only pinned wheels go into it."""

from __future__ import annotations

import importlib.util
import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from agent.config import PROGRAM as AGENT
from agent.config import AgentConfig
from common.conffile import render_toml
from common.setting import keys_of
from procmond.config import PROGRAM as PROCMOND
from procmond.config import ProcmondConfig

ROOT = Path(__file__).resolve().parents[2]
SYSTEMD = ROOT / "systemd"


@pytest.fixture(scope="module")
def stage() -> ModuleType:
    """systemd/package/stage.py, which is a script and on no path."""
    spec = importlib.util.spec_from_file_location("stage", SYSTEMD / "package/stage.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["stage"] = module
    spec.loader.exec_module(module)
    return module


def test_the_configuration_files_are_where_the_daemons_look(stage: ModuleType) -> None:
    expected = {
        PROCMOND.config_path.lstrip("/"): "procmond.config:ProcmondConfig",
        AGENT.config_path.lstrip("/"): "agent.config:AgentConfig",
    }
    assert expected == stage.CONFIGURATIONS


@pytest.mark.parametrize("definition", [ProcmondConfig, AgentConfig])
def test_a_configuration_file_names_every_key_with_its_meaning_and_changes_nothing(
    definition: type[ProcmondConfig | AgentConfig],
) -> None:
    text = render_toml(definition)
    for key in keys_of(definition):
        assert re.search(rf"^#{key.path[-1]} =", text, re.MULTILINE), key.dotted
        first_words = " ".join(key.setting.meaning.split()[:5])
        assert first_words in " ".join(text.replace("\n# ", " ").split())
    assert all(value == {} for value in tomllib.loads(text).values())


def test_every_unit_is_installed(stage: ModuleType) -> None:
    kinds = {".service", ".socket", ".target", ".conf"}
    assert {path.name for path in SYSTEMD.iterdir() if path.suffix in kinds} <= stage.FILES.keys()


def test_the_maintainer_scripts_name_every_unit() -> None:
    units = {path.name for path in SYSTEMD.iterdir() if path.suffix in {".service", ".socket", ".target"}}
    postrm = (SYSTEMD / "package/postrm").read_text()
    assert all(name in postrm for name in units)


def test_every_dependency_is_pinned_with_digests() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for wanted, name in (
        (project["project"]["dependencies"], "runtime.txt"),
        (project["build-system"]["requires"], "build.txt"),
    ):
        pins = (SYSTEMD / "package" / name).read_text()
        names = {re.split(r"[<>=;\[ ]", requirement)[0] for requirement in wanted}
        assert names <= set(re.findall(r"^([a-z0-9-]+)==", pins, re.MULTILINE)), name
        assert all(
            "--hash=sha256:" in pin for pin in re.split(r"^(?=[a-z0-9-]+==)", pins, flags=re.MULTILINE)[1:]
        )


def test_compiled_modules_are_tied_to_the_interpreter_they_were_made_for(stage: ModuleType) -> None:
    assert f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}" == stage.INTERPRETER

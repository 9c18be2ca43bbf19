"""The installed distribution: our top-level packages are ours alone."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

OURS = ("procmond", "agent", "common")


@pytest.mark.parametrize("name", OURS)
def test_no_other_distribution_owns_our_package_name(name: str) -> None:
    owners = metadata.packages_distributions().get(name, [])
    others = [owner for owner in owners if owner != "daemoneye"]
    for distribution in metadata.distributions():
        # Also those whose metadata names no top level: by the files they brought.
        tops = {Path(file).parts[0].removesuffix(".py") for file in distribution.files or ()}
        if name in tops and distribution.name != "daemoneye":
            others.append(distribution.name)
    assert others == []


@pytest.mark.parametrize("name", OURS)
def test_what_is_imported_by_our_name_is_this_tree(name: str) -> None:
    module = __import__(name)
    assert module.__file__ is not None
    assert Path(module.__file__).parent.name == name
    assert Path(module.__file__).parents[1] == Path(__file__).parents[1]


def test_the_three_commands_are_installed() -> None:
    scripts = {entry.name: entry.value for entry in metadata.distribution("daemoneye").entry_points}
    assert scripts == {
        "procmond": "procmond.main:main",
        "daemoneye-agent": "agent.main:main",
        "daemoneye": "agent.cli.main:main",
    }


@pytest.mark.parametrize(
    "entry", metadata.distribution("daemoneye").entry_points, ids=lambda entry: entry.name
)
def test_each_command_leads_to_a_function(entry: metadata.EntryPoint) -> None:
    assert callable(entry.load())

"""docs/operating.md knows every message a daemon can stop with, and names the units and places there are."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = " ".join((ROOT / "docs/operating.md").read_text().split())
FATAL = {"ConfigError", "AlreadyRunning", "ConfinementError", "error"}
SHORTEST = 9
"""Characters of a message's fixed text that can be looked for."""
QUOTED = [quote for quote in re.findall(r"`([^`]+)`", DOCUMENT) if len(quote) >= SHORTEST]


def fatal_messages() -> Iterator[tuple[str, str]]:
    """(place, longest fixed text) of each error with which procmond or the agent refuses to go on."""
    files = [
        *(ROOT / "common").glob("*.py"),
        *(ROOT / "procmond").rglob("*.py"),
        *(ROOT / "agent").glob("*.py"),
    ]
    for path in sorted(files):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and _name(node.func) in FATAL and node.args:
                text = _longest_text(node.args[-1])
                if len(text) >= SHORTEST:
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", text


def _name(function: ast.expr) -> str:
    if isinstance(function, ast.Name):
        return function.id
    if isinstance(function, ast.Attribute) and _name(function.value) == "resolved":
        return function.attr
    return ""


def _longest_text(message: ast.expr) -> str:
    texts = [
        node.value
        for node in ast.walk(message)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    return max((text.strip(" :;,.") for text in texts), key=len, default="")


@pytest.mark.parametrize(("place", "text"), list(fatal_messages()))
def test_a_message_that_stops_a_daemon_is_documented(place: str, text: str) -> None:
    assert any(quote in text for quote in QUOTED), f"{place}: {text!r} is not in docs/operating.md"


@pytest.mark.parametrize("kind", ["*.service", "*.socket", "*.target"])
def test_every_unit_is_named(kind: str) -> None:
    assert all(f"`{path.name}`" in DOCUMENT for path in (ROOT / "systemd").glob(kind))

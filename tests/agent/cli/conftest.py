"""The command line with a procmond at hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.agent.cli.server import Cli


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    return Cli(tmp_path, capsys)

"""build_hook.py on a copy of the tree: it generates, and a schema that does not compile stops the install."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# What hatchling does with a hook, in a process whose folder is the project's, as in an install.
RUN_HOOK = """
import os
from build_hook import ProtobufBuildHook
hook = ProtobufBuildHook(os.getcwd(), {}, None, None, os.getcwd(), "wheel")
hook.initialize("standard", {})
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What the hook needs of a checkout, without anything generated."""
    shutil.copy(ROOT / "build_hook.py", tmp_path)
    shutil.copytree(ROOT / "proto", tmp_path / "proto")
    without_object = shutil.ignore_patterns("*.o", "__pycache__")
    shutil.copytree(ROOT / "procmond" / "events", tmp_path / "procmond" / "events", ignore=without_object)
    shutil.copytree(ROOT / "common", tmp_path / "common", ignore=shutil.ignore_patterns("pb", "__pycache__"))
    return tmp_path


def run_hook(tree: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", RUN_HOOK], cwd=tree, capture_output=True, text=True, check=False
    )


def test_code_and_type_stubs_are_generated_with_the_right_imports_and_name(tree: Path) -> None:
    result = run_hook(tree)
    assert result.returncode == 0, result.stderr
    generated = tree / "common" / "pb"
    assert {path.name for path in generated.iterdir()} == {
        "__init__.py",
        *(f"{schema}_pb2.{suffix}" for schema in ("control", "ipc") for suffix in ("py", "pyi")),
    }
    use = "from common.pb import ipc_pb2 as pb; print(pb.DESCRIPTOR.name, pb.DetectionTask(task_id='t1'))"
    used = subprocess.run([sys.executable, "-c", use], cwd=tree, capture_output=True, text=True, check=True)
    assert used.stdout == 'common/pb/ipc.proto task_id: "t1"\n\n'


def test_generating_again_is_fine(tree: Path) -> None:
    assert run_hook(tree).returncode == 0
    assert run_hook(tree).returncode == 0


def test_a_broken_schema_stops_the_install_with_protocs_own_message(tree: Path) -> None:
    schema = tree / "proto" / "ipc.proto"
    lines = schema.read_text().splitlines()
    number = next(n for n, line in enumerate(lines, 1) if line.startswith("message DetectionTask"))
    lines[number] = "  strin task_id = 1;"
    schema.write_text("\n".join(lines))
    result = run_hook(tree)
    assert result.returncode != 0
    assert "protoc could not compile proto/ipc.proto" in result.stderr
    assert f'proto/ipc.proto:{number + 1}:3: "strin" is not defined.' in result.stderr


def test_a_missing_schema_stops_the_install(tree: Path) -> None:
    (tree / "proto" / "ipc.proto").unlink()
    result = run_hook(tree)
    assert result.returncode != 0
    assert "protoc could not compile proto/ipc.proto" in result.stderr
    assert "No such file or directory" in result.stderr

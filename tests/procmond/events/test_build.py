"""The build hook's part in eBPF: it compiles, or says why not."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """build_hook.py, which imports hatchling; that is there only while a build runs."""
    interface = ModuleType("hatchling.builders.hooks.plugin.interface")
    interface.BuildHookInterface = object  # type: ignore[attr-defined]  # all of it that is used
    for depth in range(1, 5):
        name = ".".join(interface.__name__.split(".")[:depth])
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    spec = importlib.util.spec_from_file_location("build_hook_under_test", ROOT / "build_hook.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A checkout with the programs' sources and the object of an earlier build."""
    shutil.copytree(ROOT / "procmond/events", tmp_path / "procmond/events")
    (tmp_path / "procmond/events/exec.bpf.o").write_bytes(b"stale")
    return tmp_path


def test_no_compiler_means_no_object_and_a_reason(
    hook: ModuleType, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert hook.compile_bpf(tree) == "clang is not installed"
    assert not (tree / hook.BPF_OBJECT).exists()


def test_no_headers_mean_no_object_and_a_reason(
    hook: ModuleType, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("clang") is None:
        pytest.skip("clang is not installed")
    monkeypatch.setattr(hook, "CLANG", (*hook.CLANG[:-1], "-nostdinc", "-c"))
    assert "headers" in hook.compile_bpf(tree)
    assert not (tree / hook.BPF_OBJECT).exists()


def test_what_should_compile_and_does_not_stops_the_build(hook: ModuleType, tree: Path) -> None:
    if shutil.which("clang") is None or hook.compile_bpf(tree):
        pytest.skip("eBPF programs cannot be compiled here")
    assert (tree / hook.BPF_OBJECT).read_bytes().startswith(b"\x7fELF")
    (tree / hook.BPF_SOURCE).write_text("int broken(")
    with pytest.raises(RuntimeError, match="expected"):
        hook.compile_bpf(tree)
    assert not (tree / hook.BPF_OBJECT).exists()

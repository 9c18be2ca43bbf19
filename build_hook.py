"""Compiles proto/*.proto and exec.bpf.c before hatchling collects files, for wheels and editable installs.

One rule: an install without the generated protobuf code never succeeds; when protoc fails, its own message
stops it. The eBPF object is optional, and when it is left out that is said, with the reason.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SCHEMAS = ("ipc.proto", "control.proto")
# `-Icommon/pb=proto` maps the folder virtually: generated imports then say `common.pb`, and the file is
# registered as common/pb/ipc.proto, which no other project's ipc.proto can clash with.
PROTOC = (sys.executable, "-m", "grpc_tools.protoc", "-Icommon/pb=proto", "--python_out=.", "--pyi_out=.")

BPF_SOURCE = Path("procmond/events/exec.bpf.c")
BPF_OBJECT = Path("procmond/events/exec.bpf.o")
# v3: atomic exchange, which every kernel with the helpers used here has. -g is what makes BTF; the debugging
# information beside it is stripped afterwards. No header of the kernel's, or of this machine's, is needed.
CLANG = ("clang", "-O2", "-g", "-Wall", "-Werror", "-target", "bpf", "-mcpu=v3", "-c")
STRIP = ("llvm-strip", "--strip-debug")


def _run(command: Sequence[str], root: Path, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=root, input=text, capture_output=True, text=True, check=False)  # noqa: S603  # every command is written in this file


def compile_bpf(root: Path) -> str:
    """Compile procmond/events/exec.bpf.c where that is possible.

    Returns the reason it was left out, or an empty string. An object of an earlier build never stays behind.
    Raises: RuntimeError with the compiler's message when it should compile and does not.
    """
    (root / BPF_OBJECT).unlink(missing_ok=True)
    if shutil.which(CLANG[0]) is None:
        return "clang is not installed"
    probe = "#if !__has_include(<bpf/bpf_core_read.h>)\n#error\n#endif\n"
    if _run([*CLANG, "-x", "c", "-", "-o", os.devnull], root, probe).returncode != 0:
        return "clang cannot make BPF, or libbpf's headers (libbpf-dev) are not installed"
    compiled = _run([*CLANG, str(BPF_SOURCE), "-o", str(BPF_OBJECT)], root)
    if compiled.returncode != 0:
        raise RuntimeError(f"clang could not compile {BPF_SOURCE}:\n{compiled.stderr}")
    if shutil.which(STRIP[0]) is not None:
        stripped = _run([*STRIP, str(BPF_OBJECT)], root)
        if stripped.returncode != 0:
            raise RuntimeError(f"{STRIP[0]} failed on {BPF_OBJECT}:\n{stripped.stderr}")
    return ""


class ProtobufBuildHook(BuildHookInterface):  # type: ignore[type-arg]  # hatchling leaves it unparametrised
    """Hatchling's hook; see the module's rule."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Generate `common/pb` and the eBPF object. Raises: RuntimeError with the compiler's message."""
        root = Path(self.root)
        generated = root / "common" / "pb"
        generated.mkdir(exist_ok=True)
        marker = '"""Generated from proto/ by build_hook.py; not committed."""\n'
        (generated / "__init__.py").write_text(marker)
        for schema in SCHEMAS:
            result = _run([*PROTOC, f"common/pb/{schema}"], root)
            if result.returncode != 0:
                said = result.stderr or result.stdout
                raise RuntimeError(f"protoc could not compile proto/{schema}:\n{said}")
        left_out = compile_bpf(root)
        if left_out:
            self.app.display_warning(f"built without eBPF, {BPF_OBJECT} is left out: {left_out}")

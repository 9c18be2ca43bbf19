"""Compiles proto/*.proto into common/pb before hatchling collects files, for wheels and editable installs.

One rule: an install without the generated code never succeeds. When protoc fails, its own message stops it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SCHEMAS = ("ipc.proto", "control.proto")
# `-Icommon/pb=proto` maps the folder virtually: generated imports then say `common.pb`, and the file is
# registered as common/pb/ipc.proto, which no other project's ipc.proto can clash with.
PROTOC = (sys.executable, "-m", "grpc_tools.protoc", "-Icommon/pb=proto", "--python_out=.", "--pyi_out=.")


class ProtobufBuildHook(BuildHookInterface):  # type: ignore[type-arg]  # hatchling leaves it unparametrised
    """Hatchling's hook; see the module's rule."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Generate `common/pb`. Raises: RuntimeError with protoc's message when it fails."""
        root = Path(self.root)
        generated = root / "common" / "pb"
        generated.mkdir(exist_ok=True)
        (generated / "__init__.py").write_text(
            '"""Generated from proto/ by build_hook.py; not committed."""\n'
        )
        for schema in SCHEMAS:
            result = subprocess.run(
                [*PROTOC, f"common/pb/{schema}"], cwd=root, capture_output=True, text=True, check=False
            )
            if result.returncode != 0:
                raise RuntimeError(
                    f"protoc could not compile proto/{schema}:\n{result.stderr or result.stdout}"
                )

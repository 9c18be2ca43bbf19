"""Lays the installed files out under a directory. One rule: only pinned wheels, unpacked and unchanged.

    python systemd/package/stage.py --destdir DIR [--scratch DIR] [--wheels DIR]

Everything the daemons import is under /usr/lib/daemoneye, apart from the distribution's own modules, so that
no other package can change what root imports, and the place where a distribution keeps a package's private
files. The commands are started with `-IS`: neither the environment nor site-packages adds a module.

Needs Python 3.11 or later of the minor version the target has, pip, and the package index unless `--wheels`
names a directory with everything in it. `make install DESTDIR=DIR` and `make package` call it.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parents[2]
HERE: Final = ROOT / "systemd" / "package"
LIBRARY: Final = Path("usr/lib/daemoneye")
INTERPRETER: Final = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
"""With its minor version: compiled modules in the wheels are made for exactly that one."""

BPF_SOURCE: Final = "procmond/events/exec.bpf.c"
BPF_OBJECT: Final = "procmond/events/exec.bpf.o"
"""A checkout may do without it; a package is for machines that have no compiler."""

COMMANDS: Final = {
    "usr/sbin/procmond": "procmond.main",
    "usr/sbin/daemoneye-agent": "agent.main",
    "usr/bin/daemoneye": "agent.cli.main",
}
FILES: Final = {
    "procmond.service": "usr/lib/systemd/system/procmond.service",
    "procmond.socket": "usr/lib/systemd/system/procmond.socket",
    "procmond-connector.socket": "usr/lib/systemd/system/procmond-connector.socket",
    "procmond-failed.target": "usr/lib/systemd/system/procmond-failed.target",
    "daemoneye-agent.service": "usr/lib/systemd/system/daemoneye-agent.service",
    "daemoneye.target": "usr/lib/systemd/system/daemoneye.target",
    "sysusers.conf": "usr/lib/sysusers.d/daemoneye.conf",
    "tmpfiles.conf": "usr/lib/tmpfiles.d/daemoneye.conf",
    "../docs/operating.md": "usr/share/doc/daemoneye/operating.md",
    "../LICENSE": "usr/share/doc/daemoneye/copyright",
}
CONFIGURATIONS: Final = {
    "etc/daemoneye/procmond.toml": "procmond.config:ProcmondConfig",
    "etc/daemoneye/agent.toml": "agent.config:AgentConfig",
}

_WRAPPER: Final = """\
#!{interpreter} -IS
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, "/{library}")
from {module} import main

sys.exit(main())
"""

_RENDER: Final = """\
import importlib, sys
from common.conffile import render_toml
module, name = sys.argv[1].split(":")
sys.stdout.write(render_toml(getattr(importlib.import_module(module), name)))
"""


class Staged(NamedTuple):
    """What was laid out."""

    wheel: Path
    """DaemonEye's own."""
    dependencies: tuple[Path, ...]


def run(*command: str | Path, **environment: str) -> str:
    """Run `command` in the project's root and return its output. Raises: CalledProcessError."""
    result = subprocess.run(  # noqa: S603 - every command is written in this directory
        [str(word) for word in command],
        cwd=ROOT,
        env={**os.environ, **environment},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return result.stdout


def commit_time() -> str:
    """SOURCE_DATE_EPOCH: the one given, or the time of the commit that is packaged."""
    return os.environ.get("SOURCE_DATE_EPOCH") or run("git", "log", "-1", "--format=%ct").strip()


def build_wheel(scratch: Path, epoch: str) -> Path:
    """DaemonEye's own wheel, built by the pinned tools of build.txt in an environment of their own."""
    environment = scratch / "build-environment"
    python = environment / "bin" / "python"
    stamp = environment / ".pinned"
    wanted = (HERE / "build.txt").read_text()
    if not stamp.is_file() or stamp.read_text() != wanted:
        run(sys.executable, "-m", "venv", "--clear", environment)
        run(python, "-m", "pip", "install", *_PIP, "--require-hashes", "--no-deps", "-r", HERE / "build.txt")
        stamp.write_text(wanted)
    out = scratch / "wheel"
    shutil.rmtree(out, ignore_errors=True)
    run(python, "-m", "hatchling", "build", "-t", "wheel", "-d", out, SOURCE_DATE_EPOCH=epoch)
    (wheel,) = out.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        if (ROOT / BPF_SOURCE).is_file() and BPF_OBJECT not in archive.namelist():
            raise SystemExit(
                f"{wheel.name} lacks {BPF_OBJECT}; install clang, llvm and libbpf-dev, then try again"
            )
    return wheel


_PIP: Final = ("--quiet", "--disable-pip-version-check", "--only-binary", ":all:")


def fetch_wheels(scratch: Path, given: Path | None) -> tuple[Path, ...]:
    """The dependencies' wheels for this interpreter and processor, digests checked by pip."""
    out = scratch / "wheels"
    shutil.rmtree(out, ignore_errors=True)
    source = () if given is None else ("--no-index", "--find-links", given)
    command = (sys.executable, "-m", "pip", "download", *_PIP, *source, "--require-hashes", "--no-deps")
    run(*command, "-d", out, "-r", HERE / "runtime.txt")
    return tuple(sorted(out.glob("*.whl")))


def unpack(wheel: Path, library: Path) -> None:
    """Put the wheel's files where they are imported from; refuses what would not be only modules."""
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            top = entry.filename.split("/", 1)[0]
            if top.endswith(".data"):
                raise SystemExit(f"{wheel.name}: {entry.filename} belongs outside the library; see PEP 427")
            archive.extract(entry, library)


def compile_modules(library: Path) -> None:
    """Byte code beside each module. The daemons may not write it, and without it each start compiles anew.

    Not checked against the source's time stamp, which packaging tools change; both come from one package. A
    process of its own with a fixed hash seed: the order of a set's constants would be another each time.
    """
    run(
        sys.executable, "-IS", "-m", "compileall", "-q", "-f", "--invalidation-mode", "unchecked-hash",
        "-s", library, "-p", f"/{LIBRARY}", library,
        PYTHONHASHSEED="0",
    )  # fmt: skip


def stage(destdir: Path, scratch: Path, wheels: Path | None = None) -> Staged:
    """Lay everything out under `destdir`; the configuration is rendered from the definitions in use."""
    epoch = commit_time()
    library = destdir / LIBRARY
    shutil.rmtree(library, ignore_errors=True)
    library.mkdir(parents=True)
    staged = Staged(build_wheel(scratch, epoch), fetch_wheels(scratch, wheels))
    for wheel in (staged.wheel, *staged.dependencies):
        unpack(wheel, library)
    compile_modules(library)
    for place, module in COMMANDS.items():
        text = _WRAPPER.format(interpreter=INTERPRETER, library=LIBRARY, module=module)
        _write(destdir / place, text, 0o755)
    for source, place in FILES.items():
        _write(destdir / place, (ROOT / "systemd" / source).read_text(encoding="utf-8"), 0o644)
    for place, definition in CONFIGURATIONS.items():
        command = (sys.executable, "-ISc", f"import sys; sys.path.insert(0, {str(library)!r})\n{_RENDER}")
        _write(destdir / place, run(*command, definition), 0o644)
    return staged


def _write(path: Path, text: str, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)


def settle(tree: Path, epoch: str) -> None:
    """One mode for every directory and file, and one time, whoever unpacked them under whichever umask."""
    for path in (tree, *tree.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)
        else:
            path.chmod(
                0o755 if path.stat().st_mode & 0o100 and path.parent.name in {"bin", "sbin"} else 0o644
            )
        os.utime(path, (int(epoch), int(epoch)), follow_symlinks=False)


def main() -> int:
    """Stage under --destdir."""
    parser = argparse.ArgumentParser(description="Lay the installed files out under a directory.")
    parser.add_argument("--destdir", type=Path, required=True, help="directory that stands for /")
    parser.add_argument("--scratch", type=Path, default=ROOT / "build", help="for intermediate files")
    parser.add_argument(
        "--wheels", type=Path, help="directory with the dependencies' wheels; no network then"
    )
    said = parser.parse_args()
    if platform.python_implementation() != "CPython" or sys.version_info < (3, 11):
        parser.error("CPython 3.11 or later is needed")
    os.umask(0o022)  # whatever the caller's is, the files are the same
    said.scratch.mkdir(parents=True, exist_ok=True)
    stage(said.destdir.resolve(), said.scratch.resolve(), said.wheels)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Makes dist/: the wheel and a .deb. One rule: the same commit and tools give the same bytes.

    python systemd/package/deb.py [--version VERSION] [--dist DIR] [--scratch DIR] [--wheels DIR]

Needs dpkg-deb. The version says for which Python the package is (0.1.0+py311): wheels hold compiled modules,
which fit one minor version, so each distribution release gets a package of its own.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Final

import stage

PYTHON: Final = f"{sys.version_info.major}.{sys.version_info.minor}"

_CONTROL: Final = """\
Package: daemoneye
Version: {version}
Architecture: {architecture}
Maintainer: The DaemonEye developers <daemoneye@localhost>
Installed-Size: {size}
Pre-Depends: init-system-helpers (>= 1.54)
Depends: libc6 (>= {libc}), libgcc-s1, python{python}, systemd (>= 252), passwd
Recommends: libbpf1
Section: admin
Priority: optional
Description: process monitoring for Linux in which root is tiny
 procmond runs as root and answers a table of questions about processes;
 daemoneye-agent, which needs no privilege, asks it and keeps watch; the
 command daemoneye lets members of the group daemoneye ask.
 .
 Dependencies are inside, under /usr/lib/daemoneye. With libbpf1, live events
 come from eBPF where the kernel allows it.
"""


def libc_version(wheels: tuple[Path, ...]) -> str:
    """The C library the wheels were built for, from their tags (PEP 600)."""
    found = [
        min((int(major), int(minor)) for major, minor in tags)
        for wheel in wheels
        if (tags := re.findall(r"manylinux_(\d+)_(\d+)", wheel.name))
    ]
    major, minor = max(found, default=(2, 28))
    return f"{major}.{minor}"


def build(version: str | None, dist: Path, scratch: Path, wheels: Path | None) -> tuple[Path, Path]:
    """The wheel and the .deb in `dist`."""
    epoch = stage.commit_time()
    tree = scratch / "deb"
    shutil.rmtree(tree, ignore_errors=True)
    staged = stage.stage(tree, scratch, wheels)
    if version is None:
        version = f"{staged.wheel.name.split('-')[1]}+py{PYTHON.replace('.', '')}"
    architecture = stage.run("dpkg", "--print-architecture").strip()
    stage.settle(tree, epoch)
    control = tree / "DEBIAN"
    control.mkdir()
    files = sorted(path for path in tree.rglob("*") if path.is_file())
    (control / "control").write_text(
        _CONTROL.format(
            version=version,
            architecture=architecture,
            size=sum(-(-path.stat().st_size // 1024) for path in files),
            libc=libc_version(staged.dependencies),
            python=PYTHON,
        )
    )
    (control / "conffiles").write_text("".join(f"/{place}\n" for place in sorted(stage.CONFIGURATIONS)))
    (control / "md5sums").write_text(
        "".join(
            f"{hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}  {path.relative_to(tree)}\n"
            for path in files
            if str(path.relative_to(tree)) not in stage.CONFIGURATIONS
        )
    )
    for script in ("postinst", "prerm", "postrm"):
        shutil.copyfile(stage.HERE / script, control / script)
        (control / script).chmod(0o755)
    dist.mkdir(parents=True, exist_ok=True)
    package = dist / f"daemoneye_{version}_{architecture}.deb"
    # One thread: xz's output depends on their number. dpkg-deb sorts names and takes SOURCE_DATE_EPOCH.
    options = ("--root-owner-group", "-Zxz", "--threads-max=1")
    stage.run("dpkg-deb", *options, "--build", tree, package, SOURCE_DATE_EPOCH=epoch)
    wheel = dist / staged.wheel.name
    shutil.copyfile(staged.wheel, wheel)
    return wheel, package


def main() -> int:
    """Build both and say their digests."""
    parser = argparse.ArgumentParser(description="Make the wheel and the .deb.")
    parser.add_argument("--version", help="the package's version, instead of the project's")
    parser.add_argument("--dist", type=Path, default=stage.ROOT / "dist")
    parser.add_argument("--scratch", type=Path, default=stage.ROOT / "build")
    parser.add_argument(
        "--wheels", type=Path, help="directory with the dependencies' wheels; no network then"
    )
    said = parser.parse_args()
    os.umask(0o022)  # whatever the caller's is, the files are the same
    said.scratch.mkdir(parents=True, exist_ok=True)
    for path in build(said.version, said.dist.resolve(), said.scratch.resolve(), said.wheels):
        sys.stdout.write(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A minimal tree of this machine's own distribution. One rule: from the package sources the machine has.

The bootstrap takes a minute and its result depends only on the sources, so it is kept as an archive outside
the checkout; every run starts from a fresh copy of it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Final

CACHE: Final = Path(os.environ.get("DAEMONEYE_TEST_CACHE", "/var/tmp/daemoneye-test-systemd"))
PACKAGES: Final = ("systemd", "systemd-sysv", "dbus", "python3", "libbpf1", "init-system-helpers", "passwd")
"""What a server has anyway, and libbpf1, which the package recommends. No compiler, no pip."""
UNUSED: Final = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/info/*")
TOOLS: Final = ("mmdebstrap", "systemd-nspawn", "dpkg-deb", "nsenter")
APT_LINE: Final = "apt-get install --no-install-recommends mmdebstrap systemd-container dpkg-dev"
STRICT_JOURNAL: Final = "[Journal]\nRateLimitIntervalSec=30s\nRateLimitBurst=100\n"
"""A hundredth of the default: a unit that would lose entries at a rate a test cannot reach loses them here.
journald multiplies it by up to six where the disk has room."""
MAX_AGE_S: Final = 7 * 24 * 3600
"""An archive older than this is made anew: the distribution has moved on."""


def missing_tools() -> list[str]:
    """Those of `TOOLS` that are not installed."""
    return [tool for tool in TOOLS if shutil.which(tool) is None]


def claim() -> bool:
    """Whether the trees are ours alone, from now until this process ends."""
    CACHE.mkdir(parents=True, exist_ok=True)
    lock = os.open(CACHE / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return False
    return True


def package_sources() -> list[Path]:
    """The files apt reads on this machine."""
    single = Path("/etc/apt/sources.list")
    folder = Path("/etc/apt/sources.list.d")
    files = [single] if single.is_file() else []
    files += sorted(path for path in folder.glob("*") if path.suffix in {".list", ".sources"})
    return [path for path in files if path.read_text().strip()]


def suite() -> str:
    """This distribution's release, by name."""
    return platform.freedesktop_os_release()["VERSION_CODENAME"]


def _apt_options() -> list[str]:
    """How this machine reaches its sources (a proxy, timeouts), if it says so."""
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout
    wanted = ("Acquire::http", "Acquire::https", "Acquire::Retries", "Acquire::Check-Valid-Until")
    return [
        f"--aptopt={line}" for line in dump.splitlines() if line.startswith(wanted) and not _is_empty(line)
    ]


def _is_empty(line: str) -> bool:
    return line.split(" ", 1)[1:] == ['"";']


def archive(now: float) -> Path:
    """The bootstrapped tree as a tar file, made if there is none for these sources."""
    sources = package_sources()
    identity = hashlib.sha256()
    for part in (suite(), *PACKAGES, *UNUSED, *(path.read_text() for path in sources)):
        identity.update(part.encode() + b"\0")
    path = CACHE / f"tree-{suite()}-{identity.hexdigest()[:16]}.tar"
    if path.is_file() and now - path.stat().st_mtime < MAX_AGE_S:
        return path
    CACHE.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished.tar")
    unfinished.unlink(missing_ok=True)
    subprocess.run(
        [
            "mmdebstrap",
            "--variant=minbase",
            f"--include={','.join(PACKAGES)}",
            '--aptopt=APT::Install-Recommends "false"',
            *_apt_options(),
            *(f"--dpkgopt=path-exclude={pattern}" for pattern in UNUSED),
            suite(),
            str(unfinished),
            *map(str, sources),
        ],
        check=True,
        timeout=900,
    )
    unfinished.rename(path)
    return path


def fresh_tree(name: str, now: float) -> Path:
    """A tree of its own to boot, with a machine id of its own; the last one of this name is removed."""
    source = archive(now)
    tree = CACHE / name
    if tree.exists():
        shutil.rmtree(tree)
    tree.mkdir()
    subprocess.run(["tar", "-xf", source, "-C", tree], check=True, timeout=300)
    (tree / "etc/hostname").write_text("daemoneye-test\n")
    journald = tree / "etc/systemd/journald.conf.d/strict.conf"
    journald.parent.mkdir(parents=True, exist_ok=True)
    journald.write_text(STRICT_JOURNAL)
    # Kept on disk, so that what was logged before a reboot can be read after it.
    (tree / "var/log/journal").mkdir(parents=True, exist_ok=True)
    return tree

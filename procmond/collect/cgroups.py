"""Control groups and the containers they stand for. One rule: pure; an unknown form is no container.

A container's id is only as good as the cgroup path: whoever may create cgroups may name one like a container.
Forms: cgroups(7); runc's and crun's cgroupfs and systemd drivers; systemd's machine slices.
"""

from __future__ import annotations

from typing import Final

from procmond.collect.text import text

_ID_LENGTH: Final = 64
_HEX: Final = frozenset("0123456789abcdef")
# NAME-<id>.scope of the systemd cgroup driver, and libpod-<id> of Podman's cgroupfs driver. Monitors
# (crio-conmon-<id>.scope, libpod-conmon-<id>.scope) are outside of the container and not of this form.
_PREFIXES: Final = ("docker-", "cri-containerd-", "nerdctl-", "crio-", "libpod-")
_NSPAWN_SERVICE: Final = "systemd-nspawn@"
_MACHINE_SCOPE: Final = "machine-"
_VIRTUAL_MACHINES: Final = "machine-qemu"  # libvirt's machines are registered the same way


def _paths(raw: bytes) -> list[tuple[str, str]]:
    """(controllers, path) of each line of /proc/PID/cgroup; version 2 has no controllers."""
    lines = (line.split(":", 2) for line in text(raw).split("\n"))
    return [(line[1], line[2]) for line in lines if len(line) == 3]


def cgroup_path(raw: bytes) -> str:
    """The one path that says most in /proc/PID/cgroup.

    Version 2's where the process is below its root; else systemd's hierarchy; else the first that is not the
    root of its own. Empty when there is none.
    """
    paths = _paths(raw)
    ranked = (
        [path for controllers, path in paths if not controllers]
        + [path for controllers, path in paths if controllers == "name=systemd"]
        + [path for _, path in paths]
    )
    return next((path for path in ranked if path != "/"), ranked[0] if ranked else "")


def container_id(raw: bytes) -> str:
    """The id of the innermost container in /proc/PID/cgroup; empty outside of any.

    64 hexadecimal digits for Docker, containerd, CRI-O and Podman; the machine's name for systemd-nspawn.
    """
    for _, path in sorted(_paths(raw), key=lambda entry: entry[0] != ""):
        found = _container_in(path)
        if found:
            return found
    return ""


def _container_in(path: str) -> str:
    parts = path.split("/")
    for index in range(len(parts) - 1, 0, -1):
        found = _runtime_id(parts[index]) or _machine_name(parts[index], parts[index + 1 : index + 2])
        if found:
            return found
    return ""


def _runtime_id(part: str) -> str:
    name = part.removesuffix(".scope")
    name = name.rpartition(":")[2]  # containerd under kubelet's systemd driver: SLICE:cri-containerd:ID
    for prefix in _PREFIXES:
        if name.startswith(prefix):
            name = name.removeprefix(prefix)
            break
    return name if len(name) == _ID_LENGTH and _HEX.issuperset(name) else ""


def _machine_name(part: str, below: list[str]) -> str:
    if part.startswith(_NSPAWN_SERVICE) and part.endswith(".service"):
        if below == ["supervisor"]:  # systemd-nspawn itself
            return ""
        return _unescape(part.removeprefix(_NSPAWN_SERVICE).removesuffix(".service"))
    if part.startswith(_MACHINE_SCOPE) and part.endswith(".scope") and not part.startswith(_VIRTUAL_MACHINES):
        if below == ["supervisor"]:
            return ""
        return _unescape(part.removeprefix(_MACHINE_SCOPE).removesuffix(".scope"))
    return ""


def _unescape(name: str) -> str:
    """Undo systemd-escape(1)'s `\\xnn`. A `-` stays: no machine's name has the `/` it could be."""
    head, *rest = name.split("\\x")
    raw = bytearray(head.encode())
    for piece in rest:
        try:
            raw += bytes.fromhex(piece[:2]) + piece[2:].encode()
        except ValueError:
            raw += b"\\x" + piece.encode()
    return text(bytes(raw))

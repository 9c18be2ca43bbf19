"""Facts beyond the specification's, a small file each. One rule: what the kernel refuses is named as such."""

from __future__ import annotations

import errno
import os
from typing import Final, NamedTuple

from procmond.collect.cgroups import cgroup_path, container_id
from procmond.collect.handles import Handle, read_file
from procmond.collect.procfs_parse import parse_login_uid, parse_namespace
from procmond.collect.records import Facts
from procmond.collect.text import text

_CGROUP_BYTES: Final = 16 * 1024
"""A dozen version 1 hierarchies with long paths; beyond, the innermost path may be missed."""
_TOO_LONG: Final = b"\0"
"""In place of a path that is longer than the kernel tells (PATH_MAX); no path holds a NUL. Any process can go
so deep, directory by directory."""


class Details(NamedTuple):
    """What was read, raw: empty where there is nothing to read, None where the kernel refused."""

    login_uid: bytes | None = b""
    cwd: bytes | None = b""
    cgroup: bytes | None = b""
    pid_namespace: bytes | None = b""
    mount_namespace: bytes | None = b""


NO_DETAILS: Final = Details()


def read_details(handle: Handle, pid_namespace: bytes | None) -> Details:
    """Read them all but the given one; a process that ended meanwhile leaves them empty."""
    return Details(
        _login_uid(handle),
        _link(handle.path(b"cwd")),
        _cgroup(handle),
        pid_namespace,
        _link(handle.path(b"ns/mnt")),
    )


def read_pid_namespace(handle: Handle) -> bytes | None:
    """The target of /proc/PID/ns/pid; empty when it ended meanwhile, None where the kernel refused."""
    return _link(handle.path(b"ns/pid"))


def detail_facts(details: Details) -> tuple[Facts, dict[str, str]]:
    """The fields of ProcessRecord that `details` give, and those that are missing, with the reason.

    Raises:
        MalformedProc: the kernel wrote another form than proc(5) says.
    """
    facts: Facts = {}
    if details.login_uid:
        facts["login_uid"] = parse_login_uid(details.login_uid)
    if details.cwd and details.cwd != _TOO_LONG:
        facts["cwd"] = text(details.cwd)
    if details.cgroup and details.cgroup != _TOO_LONG:
        facts["cgroup"] = cgroup_path(details.cgroup)
        facts["container_id"] = container_id(details.cgroup)
    if details.pid_namespace:
        facts["pid_namespace"] = parse_namespace(details.pid_namespace)
    if details.mount_namespace:
        facts["mount_namespace"] = parse_namespace(details.mount_namespace)
    missing = {
        name: "denied" if raw is None else "cut"
        for name, raw in zip(Details._fields, details, strict=True)
        if raw is None or raw == _TOO_LONG
    }
    if "cgroup" in missing:
        missing["container_id"] = missing["cgroup"]
    return facts, missing


def _login_uid(handle: Handle) -> bytes | None:
    try:
        return handle.login_uid()
    except PermissionError:
        return None
    except (FileNotFoundError, ProcessLookupError):  # ended, or the kernel has no audit
        return b""


def _cgroup(handle: Handle) -> bytes | None:
    try:
        return read_file(handle.path(b"cgroup"), _CGROUP_BYTES)
    except PermissionError:
        return None
    except (FileNotFoundError, ProcessLookupError):  # ended, or the kernel has no control groups
        return b""
    except OSError as error:
        return _told_too_long(error)


def _link(path: bytes) -> bytes | None:
    try:
        return os.readlink(path)
    except PermissionError:
        return None
    except (FileNotFoundError, ProcessLookupError):
        return b""
    except OSError as error:
        return _told_too_long(error)


def _told_too_long(error: OSError) -> bytes:
    if error.errno != errno.ENAMETOOLONG:
        raise error
    return _TOO_LONG

"""Texts of /proc from strangers. One rule: MalformedProc is the only error a text of /proc may cause."""

from __future__ import annotations

import contextlib

from procmond.collect.cgroups import cgroup_path, container_id
from procmond.collect.environment import ENVIRONMENT_NAMES
from procmond.collect.procfs_parse import (
    MalformedProc,
    parse_environment,
    parse_ids,
    parse_login_uid,
    parse_namespace,
    parse_stat,
    split_arguments,
    tty_name,
)
from procmond.collect.scripts import script_path
from procmond.collect.users import parse_passwd

SEEDS = (
    (
        b"7 (cat) S 1 4711 4712 34816 4711 4194304 1337 0 0 0 30 12 0 0 20 0 3 0 1958 1852 891 9 94 95 96"
        b" 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 97 98 99 1000 1042 1042 1050 0\n"
    ),
    b"Name:\tx\nTgid:\t42\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nFDSize:\t64\n",
    b"python3\0-u\0x.py\0",
    b"0::/system.slice/docker-0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef.scope\n",
    b"0::/machine.slice/machine-a\\x2db.scope\n",
    b"root:x:0:0:root:/root:/bin/sh\n",
    b"pid:[4026531836]",
)


def target(data: bytes) -> None:
    """Give the same bytes to every parser; what is parsed is of the promised form."""
    with contextlib.suppress(MalformedProc):
        stat = parse_stat(data)
        tty_name(stat.tty)
    for parse in (parse_ids, parse_login_uid, parse_namespace):
        with contextlib.suppress(MalformedProc):
            parse(data)
    argv = split_arguments(data)
    assert len(argv) <= data.count(b"\0") + 1
    assert parse_environment(data, ENVIRONMENT_NAMES).keys() <= ENVIRONMENT_NAMES
    assert script_path("/usr/bin/python3", argv, "/")[:1] in ("", "/")
    assert len(container_id(data)) <= 4 * len(data)
    cgroup_path(data)
    parse_passwd(data)

"""procmond.access, against the account database of this machine."""

from __future__ import annotations

import os
import pwd

import pytest

from common.accounts import Identity, find_group, find_user
from common.config import Resolved
from common.errors import ConfigError
from procmond.access import resolve_access
from procmond.config import ProcmondConfig, load, parse_arguments
from tests.support.daemons import as_user
from tests.support.privilege import needs_root

MISSING = "no-such-account-here"
OWN_GROUP = 0 if os.geteuid() == 0 else os.getegid()
"""Only root can give a socket to root."""


def configured(*argv: str, **environment: str) -> Resolved[ProcmondConfig]:
    return load(parse_arguments(argv), environment)


def test_a_missing_default_name_is_a_warning_and_leaves_the_socket_to_us() -> None:
    access = resolve_access(configured())
    group, user = find_group("daemoneye"), find_user("daemoneye")
    assert access.uids == {0}
    assert access.gids == (set() if group is None else {group})
    assert access.socket_gid == (OWN_GROUP if group is None else group)
    assert access.admin_uids == ({0} if user is None else {0, user.uid})
    assert len(access.warnings) == (group is None) + (user is None)
    assert access.front is None


def test_given_names_and_numbers_replace_their_own_list_only() -> None:
    access = resolve_access(configured("--allow-user", "4711", "--allow-group", "4712", "root"))
    assert access.uids == {4711}
    assert access.gids == {4712, 0}
    assert access.socket_gid == 4712
    assert 0 in access.admin_uids


@pytest.mark.parametrize(
    ("flag", "noun"), [("--allow-user", "user"), ("--allow-group", "group"), ("--admin-user", "user")]
)
def test_a_missing_given_name_is_refused(flag: str, noun: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"^{flag}: expected the name or number of a {noun}; there is no '{MISSING}'$"
    ):
        resolve_access(configured(flag, MISSING))


def test_the_default_name_is_refused_when_it_was_given_and_is_missing() -> None:
    if find_group("daemoneye") is not None:
        pytest.skip("this machine has the group daemoneye")
    with pytest.raises(ConfigError, match=r"^PROCMOND_ALLOW_GROUPS: "):
        resolve_access(configured(PROCMOND_ALLOW_GROUPS="daemoneye"))


def test_empty_lists_let_nobody_in() -> None:
    access = resolve_access(
        configured(PROCMOND_ALLOW_USERS="", PROCMOND_ALLOW_GROUPS="", PROCMOND_ADMIN_USERS="")
    )
    assert access.uids == access.gids == access.admin_uids == frozenset()
    assert access.socket_gid == OWN_GROUP
    assert access.warnings == ()


@needs_root
def test_without_root_the_socket_stays_with_our_group() -> None:
    def socket_gid() -> int:
        return resolve_access(configured(PROCMOND_ALLOW_GROUPS="")).socket_gid

    assert as_user(65_534, 65_533, socket_gid) == 65_533


def test_the_front_becomes_the_named_user() -> None:
    entry = next(entry for entry in pwd.getpwall() if entry.pw_uid != 0)
    access = resolve_access(configured(PROCMOND_FRONT_USER=entry.pw_name))
    assert access.front == Identity(entry.pw_uid, entry.pw_gid)


@pytest.mark.parametrize("name", ["root", "0", MISSING])
def test_the_front_never_becomes_root_or_nobody_known(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^PROCMOND_FRONT_USER: expected an existing user other than root"):
        resolve_access(configured(PROCMOND_FRONT_USER=name))

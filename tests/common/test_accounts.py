"""common.accounts, against the account database of this machine."""

from __future__ import annotations

import grp
import pwd

import pytest

from common.accounts import MAX_ID, Identity, find_group, find_user, is_account

MISSING = "no-such-account-here"


def test_names_are_looked_up() -> None:
    entry = pwd.getpwuid(0)
    assert find_user(entry.pw_name) == Identity(0, entry.pw_gid)
    group = grp.getgrall()[0]
    assert find_group(group.gr_name) == group.gr_gid
    assert find_user(MISSING) is None
    assert find_group(MISSING) is None


def test_a_number_is_a_number_whoever_has_it() -> None:
    unused = max(entry.pw_uid for entry in pwd.getpwall() if entry.pw_uid < 1_000_000) + 77
    assert find_user(unused) == find_user(str(unused)) == Identity(unused, unused)
    assert find_group(unused) == find_group(str(unused)) == unused
    assert find_user(0) == Identity(0, pwd.getpwuid(0).pw_gid)


@pytest.mark.parametrize("value", ["root", 0, "0", MAX_ID, "www-data", "DOMAIN\\user", "a.b@c"])
def test_what_may_name_an_account(value: str | int) -> None:
    assert is_account(value)


@pytest.mark.parametrize("value", [-1, MAX_ID + 1, str(MAX_ID + 1), "a b", "a:b", "a,b", "a/b"])
def test_what_never_names_one(value: str | int) -> None:
    assert not is_account(value)

"""procmond.front.admission: who gets in, how much runs at once, and that every refusal is counted."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from common.errors import Busy, Denied
from common.messages import Permission
from procmond.front.admission import Admission
from procmond.front.settings import FrontSettings


def admission(**settings: Any) -> Admission:
    return Admission(FrontSettings(**{"allowed_uids": frozenset({0}), **settings}))


@pytest.mark.parametrize(
    ("uid", "gids", "expected"),
    [
        (0, {0}, Permission.ADMINISTER),
        (1000, {1000}, Permission.QUERY),
        (2000, {7, 50}, Permission.QUERY),
        (3000, {50}, Permission.ADMINISTER),
    ],
    ids=["administrator", "allowed user", "allowed group", "administrator by group"],
)
def test_a_peer_may_do_what_its_credentials_allow(uid: int, gids: set[int], expected: Permission) -> None:
    door = admission(
        allowed_uids=frozenset({0, 1000}), allowed_gids=frozenset({50}), admin_uids=frozenset({0, 3000})
    )
    assert door.permission(uid, gids) is expected
    assert not door.refusals


@pytest.mark.parametrize("gids", [set(), {0}, {51}])
def test_anyone_else_is_denied_and_counted(gids: set[int]) -> None:
    door = admission(allowed_gids=frozenset({50}))
    with pytest.raises(Denied, match="uid 1000 may not ask here"):
        door.permission(1000, gids)
    assert door.refusals == {"peer_denied": 1}


def test_to_be_an_administrator_is_not_to_be_allowed() -> None:
    with pytest.raises(Denied):
        admission(admin_uids=frozenset({9})).permission(9, set())


def test_connections_in_all_are_limited() -> None:
    door = admission(max_connections=2)
    door.connect(1)
    door.connect(2)
    with pytest.raises(Busy, match="2 connections are open, the limit"):
        door.connect(3)
    assert door.refusals == {"too_many_connections": 1}
    door.disconnect(1)
    door.connect(3)
    assert door.connections == 2


def test_connections_of_one_user_are_limited_and_others_are_not_held_up() -> None:
    door = admission(max_connections_per_uid=1)
    door.connect(1)
    with pytest.raises(Busy, match="1 connections of uid 1 are open"):
        door.connect(1)
    door.connect(2)
    assert door.refusals == {"too_many_connections_of_uid": 1}
    door.disconnect(1)
    door.connect(1)


def test_tasks_of_one_connection_are_limited() -> None:
    door = admission(max_tasks_per_connection=2)
    door.begin(0)
    door.begin(1)
    with pytest.raises(Busy, match="2 tasks are in flight on this connection"):
        door.begin(2)
    assert door.refusals == {"too_many_tasks_of_connection": 1}
    assert door.tasks == 2


def test_tasks_in_all_are_limited() -> None:
    door = admission(max_tasks=2)
    door.begin(0)
    door.begin(0)
    with pytest.raises(Busy, match="2 tasks are in flight here"):
        door.begin(0)
    assert door.refusals == {"too_many_tasks": 1}
    door.end()
    door.begin(0)
    assert door.tasks == 2


def test_new_settings_count_from_then_on() -> None:
    door = admission(max_connections=2)
    door.connect(1)
    door.connect(1)
    door.settings = msgspec.structs.replace(door.settings, max_connections=1)
    with pytest.raises(Busy):
        door.connect(1)
    door.disconnect(1)
    with pytest.raises(Busy):
        door.connect(1)
    door.disconnect(1)
    door.connect(1)
    assert door.connections == 1

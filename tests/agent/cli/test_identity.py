"""The agent's uid for a first look belongs to nobody."""

from __future__ import annotations

import os
import pwd

import pytest

from agent.cli.identity import TRANSIENT_IDS, ids_of_status, pick_id, taken_ids
from common.errors import ConfigError


def test_only_free_numbers_of_the_range_are_offered() -> None:
    taken = set(TRANSIENT_IDS) - {61200, 61300}
    assert pick_id(taken, min) == 61200
    assert pick_id(taken, max) == 61300


def test_a_full_range_is_said() -> None:
    with pytest.raises(ConfigError, match="61184 to 65519 is in use"):
        pick_id(set(TRANSIENT_IDS), min)


def test_every_id_of_a_process_counts() -> None:
    status = "Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t9 10 \nNoNewPrivs:\t0\n"
    assert ids_of_status(status) == set(range(1, 11))
    assert ids_of_status("Name:\tUid:\nGroups:\t\n") == set()


def test_accounts_and_running_processes_are_taken() -> None:
    taken = taken_ids()
    assert os.geteuid() in taken
    assert {entry.pw_uid for entry in pwd.getpwall()} <= taken

"""What the collector must not read, and when it may again."""

from __future__ import annotations

import msgspec
import pytest

from procmond.collect.guard import Face, Guard
from procmond.pulse import Pulse, Stage
from procmond.quarantine import Culprit, Withheld


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


CULPRIT = Culprit(7, 70, 1000, Stage.ARGUMENTS, 30.0)


FACE = ("name", 1)


def withholds(guard: Guard, *, pid: int = 7, start_ticks: int = 70, face: Face = FACE, uid: int = 1) -> bool:
    return guard.withholds(Stage.ARGUMENTS, pid, start_ticks, face=face, uid=uid)


def test_nothing_is_withheld_by_default() -> None:
    assert not Guard().active
    assert not withholds(Guard())


def test_only_the_culprit_is_withheld_and_only_what_stalled() -> None:
    guard = Guard(None, Withheld(culprits=(CULPRIT,)), Clock())
    assert guard.active
    assert withholds(guard)
    assert not withholds(guard, pid=8)
    assert not withholds(guard, start_ticks=71)
    assert not guard.withholds(Stage.IMAGE, 7, 70, face=FACE, uid=1)


@pytest.mark.parametrize("other", [("other", 1), ("name", 2)])
def test_another_face_is_looked_at_again_for_good(other: Face) -> None:
    guard = Guard(None, Withheld(culprits=(CULPRIT,)), Clock())
    assert withholds(guard)
    assert not withholds(guard, face=other)
    assert not withholds(guard)


def test_after_a_second_stall_only_another_image_is_looked_at_again() -> None:
    again = msgspec.structs.replace(CULPRIT, repeated=True)
    guard = Guard(None, Withheld(culprits=(again,)), Clock())
    assert withholds(guard)
    assert withholds(guard, face=("other", 1))
    assert not withholds(guard, face=("other", 2))


def test_the_delay_ends() -> None:
    clock = Clock()
    guard = Guard(None, Withheld(culprits=(CULPRIT,), users=((1, 30.0),)), clock)
    assert withholds(guard)
    clock.now = 30.0
    assert not withholds(guard)


def test_all_of_a_user_and_everybody() -> None:
    of_user = Guard(None, Withheld(users=((1000, 30.0),)), Clock())
    assert of_user.users_matter
    assert withholds(of_user, uid=1000)
    assert not withholds(of_user, uid=1001)
    everybody = Guard(None, Withheld(everyone=True), Clock())
    assert withholds(everybody)


def test_it_shows_on_the_pulse_what_is_read() -> None:
    pulse = Pulse()
    guard = Guard(pulse)
    guard.enter(Stage.IMAGE, 7, 70)
    assert pulse.read()[1:] == (Stage.IMAGE, 7, 70)
    guard.leave()
    assert pulse.read().stage is Stage.IDLE
    pulse.close()

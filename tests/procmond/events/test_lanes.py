"""Events behind one that waits: who may overtake whom."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from procmond.events.event import Event, Key
from procmond.events.lanes import Lanes
from tests.support.events import EXEC, EXIT, FORK, event

SLOW: Key = (10, 1)
CHILD: Key = (11, 2)
OTHER: Key = (20, 1)


class Stage:
    def __init__(self, capacity: int = 100) -> None:
        self.out: list[Event] = []
        self.finished: list[Event] = []
        self.lanes = Lanes(self.out.append, capacity)

    def wait(self, waiting: Event) -> Event:
        self.lanes.put(waiting, lambda: self.finished.append(waiting))
        return waiting

    def put(self, *events: Event) -> None:
        for each in events:
            self.lanes.put(each)


def test_nobody_waits_when_nothing_is_waited_for() -> None:
    stage = Stage()
    first, second = event(FORK, SLOW), event(EXIT, SLOW)
    stage.put(first, second)
    assert stage.out == [first, second]
    assert stage.lanes.waiting == 0


def test_the_rest_of_a_process_waits_and_others_do_not() -> None:
    stage = Stage()
    slow = stage.wait(event(EXEC, SLOW))
    exit_of_slow, of_other = event(EXIT, SLOW), event(EXEC, OTHER)
    stage.put(exit_of_slow, of_other)
    assert stage.out == [of_other]
    stage.lanes.release(slow)
    assert stage.out == [of_other, slow, exit_of_slow]
    assert stage.finished == [slow]
    assert stage.lanes.waiting == 0


def test_children_do_not_overtake_the_image_they_come_from() -> None:
    stage = Stage()
    slow = stage.wait(event(EXEC, SLOW))
    born = event(FORK, CHILD, parent=SLOW)
    grandchild = event(FORK, (12, 3), parent=CHILD)
    ran = event(EXEC, CHILD, parent=(1, 1))  # reparented meanwhile
    stage.put(born, grandchild, ran)
    assert stage.out == []
    stage.lanes.release(slow)
    assert stage.out == [slow, born, grandchild, ran]


def test_who_has_a_number_next_does_not_overtake_its_last_holder() -> None:
    stage = Stage()
    slow = stage.wait(event(EXEC, SLOW))
    end, born = event(EXIT, SLOW), event(FORK, (SLOW[0], 9), parent=OTHER)
    stage.put(end, born)
    assert stage.out == []
    stage.lanes.release(slow)
    assert stage.out == [slow, end, born]


def test_a_number_given_to_a_child_of_one_that_waits_too_is_waited_for_no_longer() -> None:
    stage = Stage()
    last_holder, parent = stage.wait(event(EXEC, SLOW)), stage.wait(event(EXEC, OTHER))
    born = event(FORK, (SLOW[0], 9), parent=OTHER)
    stage.put(born)
    assert stage.out == [last_holder]
    stage.lanes.release(parent)
    assert stage.out == [last_holder, parent, born]


def test_two_that_wait_in_one_lane_come_out_in_order_whichever_is_ready_first() -> None:
    stage = Stage()
    first, second = stage.wait(event(EXEC, SLOW)), stage.wait(event(EXEC, SLOW))
    stage.lanes.release(second)
    assert stage.out == []
    stage.lanes.release(first)
    assert stage.out == [first, second]


def test_a_child_that_waits_holds_up_its_parent_no_more() -> None:
    stage = Stage()
    parent = stage.wait(event(EXEC, SLOW))
    born = event(FORK, CHILD, parent=SLOW)
    stage.put(born)
    child = stage.wait(event(EXEC, CHILD, parent=SLOW))
    sibling = event(FORK, (12, 3), parent=SLOW)
    stage.put(sibling)
    stage.lanes.release(parent)
    assert stage.out == [parent, born, sibling]
    after = event(EXIT, SLOW)
    stage.put(after)
    assert stage.out[-1] is after
    stage.lanes.release(child)
    assert stage.out[-1] is child


def test_a_release_counts_once() -> None:
    stage = Stage()
    slow = stage.wait(event(EXEC, SLOW))
    stage.lanes.release(slow)
    stage.lanes.release(slow)
    assert stage.out == [slow]


def test_when_too_many_wait_the_oldest_goes_as_it_is() -> None:
    stage = Stage(capacity=2)
    slow = stage.wait(event(EXEC, SLOW))
    stage.put(event(EXIT, SLOW))
    later = stage.wait(event(EXEC, OTHER))
    assert stage.out[0] is slow
    assert later not in stage.out
    assert stage.lanes.waiting == 1


def test_flush_lets_everything_go() -> None:
    stage = Stage()
    waiting = [stage.wait(event(EXEC, key)) for key in (SLOW, OTHER)]
    stage.lanes.flush()
    assert stage.out == waiting


KEYS = st.tuples(st.integers(1, 4), st.integers(1, 2))


@given(
    plan=st.lists(st.tuples(KEYS, st.none() | KEYS, st.booleans()), max_size=40),
    random=st.randoms(use_true_random=False),
)
def test_nothing_is_lost_or_repeated_and_each_number_stays_in_order(
    plan: list[tuple[Key, Key | None, bool]], random: Random
) -> None:
    stage = Stage(capacity=7)
    made: list[Event] = []
    waiting: list[Event] = []
    for number, (key, parent, slow) in enumerate(plan):
        one = event(EXEC, key, number, parent=parent)
        made.append(one)
        if slow:
            waiting.append(stage.wait(one))
        else:
            stage.put(one)
        if waiting and random.random() < 0.3:
            stage.lanes.release(waiting.pop(random.randrange(len(waiting))))
    stage.lanes.flush()
    assert sorted(one.boot_ns for one in stage.out) == list(range(len(made)))
    assert stage.lanes.waiting == 0
    for pid in range(1, 5):
        mine = [one.boot_ns for one in stage.out if one.key[0] == pid]
        assert mine == sorted(mine)

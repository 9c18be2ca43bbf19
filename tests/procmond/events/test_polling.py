"""Two looks at all processes, and what must have happened between them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from procmond.collect.sighting import FileIdentity
from procmond.events.event import Key
from procmond.events.polling import Seen, differ
from tests.support.events import EXEC, EXIT, FORK

SH = FileIdentity(1, 10, 5, 0, 0)
LS = FileIdentity(1, 11, 5, 0, 0)
INIT: Key = (1, 1)
SHELL: Key = (100, 50)
BEFORE = {INIT: Seen(None, "init", "/init", LS), SHELL: Seen(INIT, "sh", "/bin/sh", SH)}


def changes(now: dict[Key, Seen]) -> list[tuple[object, Key]]:
    return [(change.kind, change.key) for change in differ(BEFORE, now)]


def test_nothing_happened_when_nothing_changed() -> None:
    assert changes(BEFORE) == []


def test_a_new_process_with_its_parents_image_was_forked() -> None:
    assert changes({**BEFORE, (101, 60): Seen(SHELL, "sh", "/bin/sh", SH)}) == [(FORK, (101, 60))]


def test_a_new_process_with_another_image_also_ran_it() -> None:
    now = {**BEFORE, (101, 60): Seen(SHELL, "ls", "/bin/ls", LS)}
    assert changes(now) == [(FORK, (101, 60)), (EXEC, (101, 60))]


def test_another_image_in_the_same_process_was_run() -> None:
    assert changes({**BEFORE, SHELL: Seen(INIT, "ls", "/bin/ls", LS)}) == [(EXEC, SHELL)]


def test_a_renamed_or_relinked_image_is_not_another() -> None:
    touched = SH._replace(ctime_ns=99)
    assert changes({**BEFORE, SHELL: Seen(INIT, "sh", "/bin/new-name", touched)}) == []


def test_a_zombie_runs_nothing_new() -> None:
    assert changes({**BEFORE, SHELL: Seen(INIT, "sh", None, None)}) == []


def test_a_number_used_again_is_an_end_and_a_beginning() -> None:
    now = {INIT: BEFORE[INIT], (100, 70): Seen(INIT, "sh", "/bin/sh", SH)}
    assert changes(now) == [(EXIT, SHELL), (FORK, (100, 70)), (EXEC, (100, 70))]


def test_parents_come_before_their_children() -> None:
    young = {(90, 80): Seen((200, 70), "sh", "/bin/sh", SH), (200, 70): Seen(SHELL, "sh", "/bin/sh", SH)}
    assert changes({**BEFORE, **young}) == [(FORK, (200, 70)), (FORK, (90, 80))]


KEYS = st.tuples(st.integers(1, 5), st.integers(1, 3))
LOOKS = st.dictionaries(
    KEYS, st.builds(Seen, st.none() | KEYS, st.just("x"), st.none(), st.none() | st.sampled_from((SH, LS)))
)


@given(before=LOOKS, now=LOOKS)
def test_the_changes_lead_from_one_look_to_the_next(before: dict[Key, Seen], now: dict[Key, Seen]) -> None:
    alive = set(before)
    for kind, key in differ(before, now):
        if kind is EXIT:
            alive.remove(key)
        elif kind is FORK:
            assert key not in alive
            alive.add(key)
        else:
            assert key in alive
    assert alive == set(now)

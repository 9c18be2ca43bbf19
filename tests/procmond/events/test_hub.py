"""Many subscribers of one stream, and what a collector's successor must know."""

from __future__ import annotations

from collections import Counter

import pytest

from common.errors import PeerError
from common.messages import EventSource, ProcessEvent, ProcessEventKind
from procmond.events.hub import Hub, Resume, decode_resume
from procmond.events.source import Totals
from procmond.events.subscriber import Subscriber, Wish
from procmond.link import MAX_RESUME_BYTES
from tests.support.events import CREDENTIALS, EXEC, EXIT, FORK, decoded, event

ALL = 1 << 30
ANY = ProcessEventKind.UNSPECIFIED
EBPF = EventSource.EBPF
A = (10, 1)


def hub(taken: dict[ProcessEventKind, int] | None = None, lost: int = 0) -> Hub:
    made = Hub()
    made.start(EBPF, Totals(taken or {}, {("kernel_ring_full", EXEC): lost}))
    return made


def listener(to: Hub, resume: Resume | None = None, wish: Wish | None = None) -> Subscriber:
    """Somebody who has the snapshot behind him, unless the gap comes first."""
    made = Subscriber(wish or Wish(), began_ns=0, first=1 if resume is None else resume.next)
    if resume is None:
        made.begin_snapshot()
        made.end_snapshot()
    else:
        made.snapshot_due = False
    to.add(made, resume, now_ns=9_000)
    return made


def lost(taken: list[ProcessEvent]) -> dict[ProcessEventKind, int]:
    """What the one gap among these says is lost, by kind."""
    (gap,) = [one.gap for one in taken if one.gap is not None]
    return {loss.kind: loss.count for loss in gap.losses}


def test_everybody_gets_every_event_under_numbers_of_its_own() -> None:
    there = hub()
    first = listener(there)
    there.publish(event(FORK, A))
    second = listener(there)
    there.publish(event(EXEC, A))
    assert [(one.kind, one.sequence) for one in decoded(first.take(ALL))] == [(FORK, 1), (EXEC, 2)]
    assert [(one.kind, one.sequence) for one in decoded(second.take(ALL))] == [(EXEC, 1)]
    assert there.delivered == 3


def test_one_that_does_not_read_costs_the_others_nothing() -> None:
    there = hub()
    idle = Subscriber(Wish(), began_ns=0, max_events=1)
    there.add(idle, None, 0)
    busy = listener(there)
    for _ in range(5):
        there.publish(event(EXEC, A))
        assert len(busy.take(ALL)) == 1
    assert there.lost == Counter({("subscriber_queue_full", EXEC): 4})


def test_a_loss_of_the_source_counts_once_however_many_listen() -> None:
    there = hub()
    listeners = [listener(there) for _ in range(3)]
    there.lose({("kernel_ring_full", EXEC): 5, ("kernel_program_missed", FORK): 1}, 1, 2)
    assert there.lost == Counter({("kernel_ring_full", EXEC): 5, ("kernel_program_missed", FORK): 1})
    for one in listeners:
        (gap,) = decoded(one.take(ALL))
        assert gap.gap is not None
        assert gap.gap.count == 5


def test_what_the_next_collector_finds_missing_is_exactly_what_was_taken_and_not_told() -> None:
    before = hub({FORK: 100, EXEC: 50})
    sub = listener(before)
    for kind in (FORK, EXEC, EXIT):
        before.publish(event(kind, A))
    assert len(sub.take(1)) == 1  # the fork is on its way
    said = before.resume(sub, began_ns=77, now_ns=5_000)
    assert (said.next, said.until_ns) == (2, 5_000)
    # Then it takes two more from the ring, tells nothing of them, and dies.
    taken = {FORK: 102, EXEC: 52, EXIT: 1}
    after = hub(taken)
    resumed = listener(after, decode_resume(said.encode()))
    (gap,) = decoded(resumed.take(ALL))
    assert gap.gap is not None
    assert (gap.sequence, gap.gap.reason, gap.gap.count) == (2, "collector_lost", 4)
    assert (gap.gap.from_boot_time_ns, gap.gap.to_boot_time_ns) == (5_000, 9_000)
    assert lost([gap]) == {FORK: 1, EXEC: 2, EXIT: 1}
    assert resumed.snapshot_due


def test_losses_of_the_source_between_two_collectors_are_among_them() -> None:
    before = hub({EXEC: 10}, lost=3)
    sub = listener(before)
    said = before.resume(sub, 0, 0)
    after = hub({EXEC: 10}, lost=8)
    assert lost(decoded(listener(after, said).take(ALL))) == {EXEC: 5}


def test_a_loss_that_was_not_told_before_the_end_is_told_by_the_next() -> None:
    before = hub({EXEC: 10})
    sub = listener(before)
    before.lose({("kernel_ring_full", EXEC): 4}, 1, 2)
    said = before.resume(sub, 0, 0)
    after = hub({EXEC: 10}, lost=4)
    assert lost(decoded(listener(after, said).take(ALL))) == {EXEC: 4}


def test_events_nobody_listened_to_meanwhile_are_missing_to_who_comes_back() -> None:
    before = hub()
    said = before.resume(listener(before), 0, 0)
    after = hub()
    after.discard(CREDENTIALS, 3)
    assert lost(decoded(listener(after, said).take(ALL))) == {CREDENTIALS: 3}


def test_counts_of_another_source_are_not_compared() -> None:
    before = hub({EXEC: 10})
    said = before.resume(listener(before), 0, 0)
    after = Hub()
    after.start(EventSource.POLLING, None)
    (gap,) = decoded(listener(after, said).take(ALL))
    assert gap.gap is not None
    assert gap.gap.count == 0


def test_of_a_filtered_stream_nobody_knows_how_many_it_missed() -> None:
    before = hub()
    wish = Wish(roots=frozenset({1}), unfiltered=False)
    said = before.resume(listener(before, wish=wish), 0, 0)
    after = hub({EXEC: 6})
    (gap,) = decoded(listener(after, said, wish).take(ALL))
    assert gap.gap is not None
    assert gap.gap.count == 0
    assert lost([gap]) == {EXEC: 6}, "of which some may have been meant"


def test_who_left_is_still_accounted_for() -> None:
    there = hub()
    sub = Subscriber(Wish(), began_ns=0, max_events=1)
    there.add(sub, None, 0)
    there.publish(event(EXEC, A))
    there.publish(event(EXEC, A))
    sub.begin_snapshot()
    sub.end_snapshot()
    sub.take(1)
    there.remove(sub)
    assert there.delivered == 1
    assert there.lost == Counter({("subscriber_queue_full", EXEC): 1})


def test_how_far_a_stream_got_fits_its_message() -> None:
    said = Resume(EBPF, 2**64 - 1, 2**64 - 1, 2**64 - 1, (2**64 - 1,) * 5)
    assert decode_resume(said.encode()) == said
    assert len(said.encode()) <= MAX_RESUME_BYTES


@pytest.mark.parametrize("raw", [b"", b"x", bytes(64), bytes(66)])
def test_anything_else_is_refused(raw: bytes) -> None:
    with pytest.raises(PeerError):
        decode_resume(raw)

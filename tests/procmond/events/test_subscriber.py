"""One subscriber's stream: numbers, gaps, snapshots and filters; and that every event has a fate."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from common.messages import ProcessEvent, ProcessEventKind
from procmond.events.subscriber import QUEUE_FULL, Subscriber, Wish
from tests.support.events import CREDENTIALS, EXEC, EXIT, FORK, decoded, event

GAP = ProcessEventKind.GAP
ALL = 1 << 30
A, B, C = (10, 1), (11, 2), (12, 3)


def subscriber(
    wish: Wish | None = None,
    *,
    live: bool = True,
    since_ns: int = 0,
    first: int = 1,
    max_events: int = 1_000,
    max_bytes: int = 1 << 20,
) -> Subscriber:
    """One whose snapshot showed nothing; or with `live=False` one that waits for it."""
    made = Subscriber(
        wish or Wish(),
        began_ns=500,
        since_ns=since_ns,
        first=first,
        max_events=max_events,
        max_bytes=max_bytes,
    )
    if live:
        made.begin_snapshot()
        made.end_snapshot()
    return made


def test_events_come_out_in_order_with_numbers_from_one() -> None:
    sub = subscriber()
    for kind in (FORK, EXEC, EXIT):
        sub.offer(event(kind, A))
    taken = decoded(sub.take(ALL))
    assert [(one.kind, one.sequence) for one in taken] == [(FORK, 1), (EXEC, 2), (EXIT, 3)]
    assert sub.delivered == Counter({FORK: 1, EXEC: 1, EXIT: 1})
    assert not sub


def test_a_frame_takes_no_more_than_its_limit_and_one_event() -> None:
    sub = subscriber()
    for _ in range(10):
        sub.offer(event(EXEC, A, size=100))
    assert len(sub.take(250)) == 3
    assert len(sub.take(1)) == 1
    assert len(sub.take(ALL)) == 6


def test_a_full_queue_drops_the_newest_and_a_gap_stands_where_they_were() -> None:
    sub = subscriber(max_events=2)
    for boot_ns, kind in enumerate((FORK, EXEC, EXIT, FORK, FORK), 1_000):
        sub.offer(event(kind, A, boot_ns))
    assert [one.kind for one in decoded(sub.take(1))] == [FORK]
    sub.offer(event(EXIT, B, 2_000))
    _, gap, last = decoded(sub.take(ALL))
    assert (gap.kind, gap.sequence) == (GAP, 6)
    assert gap.gap is not None
    assert (gap.gap.reason, gap.gap.count) == (QUEUE_FULL, 3)
    assert (gap.gap.from_sequence, gap.gap.to_sequence) == (3, 5)
    assert (gap.gap.from_boot_time_ns, gap.gap.to_boot_time_ns) == (1_002, 1_004)
    assert {(loss.kind, loss.count) for loss in gap.gap.losses} == {(EXIT, 1), (FORK, 2)}
    assert (last.kind, last.sequence) == (EXIT, 7)
    assert not sub.snapshot_due, "what this reader did not take, it repairs itself"


def test_the_queue_is_bounded_in_bytes_too() -> None:
    sub = subscriber(max_bytes=1_000)
    for _ in range(10):
        sub.offer(event(EXEC, A, size=300))
    taken = decoded(sub.take(ALL))
    assert [one.kind for one in taken] == [EXEC, EXEC, EXEC, GAP]


def test_a_loss_in_the_kernel_stands_at_its_place_and_asks_for_a_snapshot() -> None:
    sub = subscriber()
    sub.offer(event(EXEC, A))
    sub.miss("kernel_ring_full", {EXEC: 3, EXIT: 1}, 5, 9)
    sub.offer(event(EXEC, B))
    first, gap = decoded(sub.take(ALL))
    assert gap.gap is not None
    assert (gap.kind, gap.sequence, gap.gap.count) == (GAP, 2, 4)
    assert (gap.gap.from_sequence, gap.gap.to_sequence) == (0, 0), "these never had numbers"
    assert (gap.gap.from_boot_time_ns, gap.gap.to_boot_time_ns) == (5, 9)
    assert sub.snapshot_due
    assert sub.take(ALL) == [], "the snapshot comes next"
    sub.begin_snapshot()
    assert sub.number() == 3
    sub.end_snapshot()
    assert [(one.sequence, one.pid) for one in decoded(sub.take(ALL))] == [(4, B[0])]
    assert first.sequence == 1


def test_a_gap_says_on_the_wall_clock_too_when_it_ended() -> None:
    sub = Subscriber(Wish(), began_ns=0, wall_ms=lambda at_ns: 1_000 + at_ns)
    sub.begin_snapshot()
    sub.end_snapshot()
    sub.miss("kernel_ring_full", {EXEC: 1}, 10, 20)
    (gap,) = decoded(sub.take(ALL))
    assert (gap.boot_time_ns, gap.wall_time_ms) == (20, 1_020)


def test_gaps_are_said_though_their_kind_was_not_asked_for() -> None:
    sub = subscriber(Wish(kinds=frozenset({EXEC}), unfiltered=False))
    sub.miss("kernel_ring_full", {FORK: 2}, 1, 2, exact=False)
    (gap,) = decoded(sub.take(ALL))
    assert gap.gap is not None
    assert gap.gap.count == 0, "how many of them were meant nobody knows"
    assert gap.gap.losses[0].count == 2


def test_what_the_snapshot_shows_is_not_told_again() -> None:
    sub = subscriber(live=False)
    sub.begin_snapshot()
    sub.offer(event(FORK, A, 1_000))
    sub.offer(event(EXEC, A, 1_010))
    sub.offer(event(CREDENTIALS, A, 1_020))
    sub.offer(event(EXEC, A, 2_000))
    sub.offer(event(EXIT, A, 3_000))
    sub.offer(event(FORK, B, 1_500))
    sub.show(A, 1_500)
    assert not sub.take(0)
    sub.end_snapshot()
    taken = decoded(sub.take(ALL))
    assert [(one.kind, one.pid, one.boot_time_ns) for one in taken] == [
        (EXEC, 10, 2_000),
        (EXIT, 10, 3_000),
        (FORK, 11, 1_500),
    ]
    assert sub.repeated == Counter({FORK: 1, EXEC: 1, CREDENTIALS: 1})


def test_a_number_shown_by_the_snapshot_does_not_hide_another_process_with_it() -> None:
    sub = subscriber(live=False)
    sub.begin_snapshot()
    sub.show((10, 1), 5_000)
    sub.offer(event(FORK, (10, 99), 4_000))
    sub.end_snapshot()
    assert [one.start_ticks for one in decoded(sub.take(ALL))] == [99]


def test_events_from_before_the_stream_are_none_of_its() -> None:
    sub = subscriber(since_ns=900)
    sub.offer(event(EXIT, A, 899))
    sub.offer(event(EXIT, A, 900))
    assert len(sub.take(ALL)) == 1


def test_a_tree_has_its_roots_their_children_and_whoever_comes() -> None:
    sub = subscriber(Wish(roots=frozenset({10}), unfiltered=False), live=False)
    sub.begin_snapshot()
    assert sub.belongs((10, 0), [(1, 0)])
    assert sub.belongs((11, 0), [(10, 0)])
    assert not sub.belongs((12, 0), [(1, 0)])
    sub.offer(event(FORK, (13, 7), parent=(11, 0)))
    sub.offer(event(FORK, (14, 7), parent=(12, 0)))
    sub.end_snapshot()
    sub.offer(event(FORK, (15, 8), parent=(13, 7)))
    sub.offer(event(EXIT, (13, 7)))
    sub.offer(event(EXEC, (15, 8), parent=(1, 0)))
    sub.offer(event(EXEC, (12, 0)))
    assert [(one.kind, one.pid) for one in decoded(sub.take(ALL))] == [
        (FORK, 13),
        (FORK, 15),
        (EXIT, 13),
        (EXEC, 15),
    ]


def test_who_has_a_roots_number_after_it_is_not_that_root() -> None:
    sub = Subscriber(Wish(roots=frozenset({10})), began_ns=5 * 10_000_000)
    sub.begin_snapshot()
    assert sub.belongs((10, 5), [])
    assert not sub.belongs((10, 6), [])


def test_names_paths_and_kinds_filter() -> None:
    wish = Wish(
        matches=lambda _pid, name, path: name == "sh" or path == "/bin/ls",
        kinds=frozenset({EXEC}),
        unfiltered=False,
    )
    sub = subscriber(wish)
    sub.offer(event(EXEC, A, name="sh"))
    sub.offer(event(EXEC, B, path="/bin/ls"))
    sub.offer(event(EXEC, C))
    sub.offer(event(EXIT, A, name="sh"))
    assert [one.pid for one in decoded(sub.take(ALL))] == [10, 11]
    assert sub.filtered == Counter({EXEC: 1, EXIT: 1})


def test_numbers_go_on_where_a_lost_collector_stopped() -> None:
    sub = subscriber(first=41)
    sub.offer(event(EXEC, A))
    assert decoded(sub.take(ALL))[0].sequence == 41


ACTION = st.sampled_from(("offer", "offer", "offer", "offer", "take", "miss", "snapshot"))


@given(st.lists(st.tuples(ACTION, st.sampled_from((FORK, EXEC, EXIT)), st.integers(0, 300)), max_size=120))
def test_every_event_has_one_fate_and_numbers_have_no_hole_but_what_a_gap_says(
    steps: list[tuple[str, ProcessEventKind, int]],
) -> None:
    sub = subscriber(max_events=5, max_bytes=900)
    offered: Counter[ProcessEventKind] = Counter()
    missed: Counter[ProcessEventKind] = Counter()
    taken: list[ProcessEvent] = []

    def take(limit: int) -> None:
        taken.extend(decoded(sub.take(limit)))

    for now, (action, kind, number) in enumerate(steps, 1_000):
        if action == "offer":
            sub.offer(event(kind, (number % 7 + 1, 1), now, size=number))
            offered[kind] += 1
        elif action == "take":
            take(number)
        elif action == "miss":
            sub.miss("kernel_ring_full", {kind: number + 1}, now, now)
            missed[kind] += number + 1
        else:
            sub.begin_snapshot()
            sub.show((number % 7 + 1, 1), now)
            sub.end_snapshot()
        told = sub.delivered + sub.filtered + sub.repeated + _told(taken)
        assert offered + missed == told + sub.unsettled
    while sub:
        if sub.snapshot_due:
            sub.begin_snapshot()
            sub.end_snapshot()
        take(500)
    assert not +sub.unsettled
    due = 1
    for one in taken:
        if one.gap is not None and one.gap.from_sequence:
            assert one.gap.from_sequence == due
            due = one.gap.to_sequence + 1
        assert one.sequence == due
        due += 1


def _told(taken: list[ProcessEvent]) -> Counter[ProcessEventKind]:
    """What the gaps that were taken say is lost."""
    told: Counter[ProcessEventKind] = Counter()
    for one in taken:
        if one.gap is not None:
            for loss in one.gap.losses:
                told[loss.kind] += loss.count
    return told

"""What is asked of a state: who belongs where, by which generation, and under which policy."""

from __future__ import annotations

from dataclasses import replace

import pytest
from states import ALL, NOW, THREE, draft, generation, rollout, worker

from clusterd.core.model import BOOT, NO_SLOT, SPARE, Cluster, Kind, Phase, Policy, Stage

TWO, FOUR = replace(THREE, workers=2), replace(THREE, workers=4)
GONE = draft(current=7, stopping=True).cluster
"""What was current has left already."""


def changing(stage: Stage = Stage.PREPARING, target: Policy = THREE, **changes: object) -> Cluster:
    """A rollout from generation 1 to 2."""
    return draft(generation(2, target), rollout=replace(rollout(stage), **changes)).cluster  # type: ignore[arg-type]


def test_places() -> None:
    """Where a worker is, in words."""
    assert worker(10, 3).place == "slot 3" and worker(10, SPARE, slot=NO_SLOT).place == "spare"


def test_policy() -> None:
    """The current generation's; while there is none, that of the one being started; else what Policy() has."""
    assert changing(target=TWO).policy == THREE
    assert replace(changing(target=TWO), current=None).policy == TWO
    assert Cluster().policy == GONE.policy == Policy()


def test_who_is_wanted() -> None:
    """Seats a rollout has moved want its target, the others its base; after a failure all of them do."""
    for c in (Cluster(), GONE):
        assert c.wanted(0) is None and list(c.seats) == [] and list(c.spare_seats) == []
    c = draft().cluster
    assert [c.wanted(seat) for seat in (BOOT, 0, 2, 3)] == [None, 1, 1, None] and list(c.seats) == [0, 1, 2]
    c = changing(Stage.COMMITTED, moved=2)
    assert [c.wanted(seat) for seat in range(4)] == [2, 2, 1, None]
    c = changing(Stage.RETURNING, moved=2)
    assert [c.wanted(seat) for seat in range(4)] == [1, 1, 1, None]
    c = changing(kind=Kind.TRY, moved=1)
    assert c.wanted(0) == 1, "what is tried serves nowhere"


def test_who_is_untouched() -> None:
    """The seats that a rollout has yet to come to; none of a try, which comes to none, or of a return."""
    c = changing(moved=1)
    assert [c.untouched(seat) for seat in range(3)] == [False, True, True]
    assert not changing(kind=Kind.TRY).untouched(2) and not changing(Stage.RETURNING).untouched(2)
    assert not draft().cluster.untouched(2)


@pytest.mark.parametrize(("stage", "prepares"), [(stage, stage in (Stage.PREPARING, Stage.SOAKING)) for stage in Stage])
def test_who_is_prepared(stage: Stage, prepares: bool) -> None:
    """The batch, until it is committed, as far as the target has workers for it."""
    c = changing(stage, moved=1, upto=3)
    assert [c.prepared(seat) for seat in range(4)] == [None, *([2, 2] if prepares else [None, None]), None]
    c = changing(stage, target=TWO, moved=1, upto=3)
    assert [c.prepared(seat) for seat in range(4)] == [None, 2 if prepares else None, None, None]


def test_the_seats_of_a_rollout() -> None:
    """Those of both generations; of a try one, which is the target's."""
    for target, seats in ((TWO, 3), (FOUR, 4)):
        c = changing(target=target)
        assert c.rollout and c.span(c.rollout) == seats and c.seats_of(c.rollout) == target.workers
        assert list(c.seats) == list(range(seats))
    c = changing(target=TWO, base=None)
    assert c.rollout and c.span(c.rollout) == 2
    c = changing(target=FOUR, kind=Kind.TRY)
    assert c.rollout and c.span(c.rollout) == 1 and c.seats_of(c.rollout) == 1 and list(c.seats) == [0, 1, 2]


def test_the_seats_of_spares() -> None:
    """As many as the current generation wants; who belongs there is of that generation."""
    c = draft(generation(1, replace(THREE, spares=2))).cluster
    assert list(c.spare_seats) == [SPARE, SPARE - 1]
    assert [c.tenant(seat) for seat in (0, SPARE, SPARE - 1, SPARE - 2, BOOT)] == [1, 1, 1, None, None]


def test_who_occupies_a_seat() -> None:
    """Whoever is, or will be, what belongs there; not who is on its way out, spent, or of another generation."""
    leaving = worker(20, 0, Phase.DRAINING), worker(21, 0, killed=True), worker(22, 0, spent="old")
    c = draft(*leaving, ALL[1], worker(23, 2, generation=2), generation(2)).cluster
    assert [c.occupant(seat) for seat in range(4)] == [None, ALL[1], None, None]
    starting = worker(24, 0, Phase.STARTING, since=NOW, ready_at=None)
    assert draft(*leaving, starting).cluster.occupant(0) == starting

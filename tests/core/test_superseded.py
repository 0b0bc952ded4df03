"""A change that another one, or a stop, comes upon: each is answered with what became of it."""

from __future__ import annotations

import pytest
from played import POLICIES, at_rest, started
from world import World

from clusterd.core.actions import Outcome
from clusterd.core.events import Asked, StopAsked
from clusterd.core.model import Kind, Stage

ALL, ONE = POLICIES["all"], POLICIES["one"]


def go_on_until_moved(world: World, seats: int) -> None:
    """Up to where the rollout under way has `seats` served by its target."""
    while (r := world.cluster.rollout) is not None:
        if r.moved == seats and all(next(world.cluster.accepting(s, r.target), None) for s in range(seats)):
            return
        if world.pending:
            world.deliver(0)
        else:
            assert world.pass_time()
    raise AssertionError("it is over")


def outcomes(world: World, number: int) -> list[Outcome]:
    return [f.outcome for f in world.finished if f.number == number]


def returning_after_done() -> World:
    """Reload #2 was done; its workers keep dying, and generation 1 begins to come back."""
    world = started(ALL)
    world.event(Asked(Kind.RELOAD, ALL))
    go_on_until_moved(world, 3)
    while world.cluster.rollout is not None:
        world.deliver(0)
    for _ in range(3):
        while not world.cluster.workers or not next(world.cluster.accepting(), None):
            world.deliver(0)
        world.die(next(world.cluster.accepting()).id)
    assert world.cluster.rollout is not None and world.cluster.rollout.stage is Stage.RETURNING
    return world


def test_a_second_reload_supersedes() -> None:
    """The first caller is told so, the second reload is done."""
    world = started(ALL)
    world.event(Asked(Kind.RELOAD, ALL))
    world.deliver(0)
    world.event(Asked(Kind.RELOAD, ALL))
    world.quiesce()
    assert world.outcome(2) is Outcome.SUPERSEDED and world.outcome(3) is Outcome.DONE
    at_rest(world, 3, 3)


@pytest.mark.parametrize("between", [[], [Kind.RELOAD]], ids=["at once", "after a reload"])
@pytest.mark.parametrize("moved", [1, 2])
def test_a_rollback_goes_on_where_another_has_moved_seats(moved: int, between: list[Kind]) -> None:
    """Workers of the previous generation that serve already stay, and the rollback is done."""
    world = started(ONE)
    world.event(Asked(Kind.RELOAD, ONE))
    world.quiesce()
    world.event(Asked(Kind.ROLLBACK, ONE))
    go_on_until_moved(world, moved)
    back = {w.id for w in world.cluster.accepting(generation=1)}
    for kind in between:
        world.event(Asked(kind, ONE))
        world.deliver(0)
    world.event(Asked(Kind.ROLLBACK, ONE))
    world.quiesce()
    last = 4 + len(between)
    assert [world.outcome(number) for number in range(3, last)] == [Outcome.SUPERSEDED] * (last - 3)
    assert world.outcome(last) is Outcome.DONE
    at_rest(world, 3, 1)
    assert back <= set(world.cluster.workers)


def test_a_rollback_that_fails_where_another_has_moved_seats_is_refused() -> None:
    """And the seats that the other had moved go back to the current generation."""
    world = started(ONE)
    world.event(Asked(Kind.RELOAD, ONE))
    world.quiesce()
    world.event(Asked(Kind.ROLLBACK, ONE))
    go_on_until_moved(world, 1)
    world.broken = frozenset({1})
    world.event(Asked(Kind.ROLLBACK, ONE))
    world.die(next(world.cluster.accepting(0, 1)).id)
    assert world.outcome(4) is Outcome.REFUSED
    world.quiesce()
    at_rest(world, 3, 2)


def test_a_reload_while_a_change_that_was_done_is_returned() -> None:
    """The change did not last, and that is said of it; the new reload is done."""
    world = returning_after_done()
    world.event(Asked(Kind.RELOAD, ALL))
    assert outcomes(world, 2) == [Outcome.DONE, Outcome.RETURNED]
    assert "superseded by #3 before generation 1 served everywhere" in world.finished[-1].reason
    world.quiesce()
    assert outcomes(world, 2) == [Outcome.DONE, Outcome.RETURNED]
    assert world.outcome(3) is Outcome.DONE
    at_rest(world, 3, 3)


def test_a_stop_while_a_change_that_was_done_is_returned() -> None:
    """The same, and everything stops."""
    world = returning_after_done()
    world.event(StopAsked())
    world.quiesce()
    assert outcomes(world, 2) == [Outcome.DONE, Outcome.RETURNED]
    assert world.exited == 0 and not world.cluster.workers


def test_a_reload_while_another_is_undone() -> None:
    """Who asked for the first hears of its failure: it was over before the second began."""
    world = started(ONE)
    world.event(Asked(Kind.RELOAD, ONE))
    go_on_until_moved(world, 1)
    world.broken = frozenset({2})
    while (r := world.cluster.rollout) is not None and r.stage is not Stage.RETURNING:
        if world.pending:
            world.deliver(0)
        else:
            world.pass_time()
    world.event(Asked(Kind.RELOAD, ONE))
    assert world.outcome(2) is Outcome.REFUSED
    assert "died" in world.finished[-1].reason or "exited" in world.finished[-1].reason
    world.quiesce()
    assert world.outcome(3) is Outcome.DONE
    at_rest(world, 3, 3)

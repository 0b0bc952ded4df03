"""Workers that are to be replaced while they serve: spent, too old, hung; and more or fewer of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from played import POLICIES, at_rest, started
from world import World

from clusterd.core.actions import Drain, Fork, Kill, Outcome, Steer, Tell, What
from clusterd.core.events import (
    Asked,
    Passed,
    ScaleAsked,
    StopAsked,
    WorkerHung,
    WorkerReady,
    WorkerServing,
    WorkerSpent,
)
from clusterd.core.model import Kind, Phase, Policy, Scaled, Stage

ALL = POLICIES["all"]
SILENT = "has given no sign of life for 15 s"


def since(world: World, events: int) -> list[object]:
    """What was asked for after the first `events` actions."""
    return list(world.actions[events:])


def said(world: World, what: What) -> list[str]:
    return [a.text for a in world.actions if isinstance(a, Tell) and a.what is what]


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES.keys())
def test_a_spent_worker_serves_until_its_heir_does(policy: Policy) -> None:
    """The heir is forked, ready and accepting before the spent one is told to drain; its seat is never empty."""
    world = started(policy)
    spent = next(world.cluster.accepting(0))
    world.event(WorkerSpent(spent.id, "has served 1000 requests"))
    while not any(isinstance(a, Drain) and a.worker == spent.id for a in world.actions):
        assert spent.id in {w.id for w in world.cluster.accepting(0)}
        world.deliver(0)
    assert [w.id for w in world.cluster.accepting(0) if w.id != spent.id]
    (drain,) = (a for a in world.actions if isinstance(a, Drain))
    assert (drain.linger, drain.timeout) == (policy.linger, policy.drain_timeout)
    world.quiesce()
    at_rest(world, policy.workers)
    assert spent.id not in world.cluster.workers
    assert said(world, What.WORKER_SPENT) == ["has served 1000 requests"]
    assert not said(world, What.WORKER_DIED)


def test_one_succession_at_a_time() -> None:
    """All are spent at once: one heir starts at a time, and in the end all are new."""
    world = started(ALL)
    old = set(world.cluster.workers)
    for w in old:
        world.event(WorkerSpent(w, "has served 1000 requests"))
    while world.pending:
        assert sum(w.phase is not Phase.DRAINING and not w.accepting for w in world.cluster.workers.values()) <= 1
        world.deliver(0)
    at_rest(world, 3)
    assert not old & set(world.cluster.workers)


def test_a_spent_worker_whose_heirs_die_serves_on() -> None:
    """Heirs are tried with back-off; the one that lives takes over."""
    world = started(ALL)
    spent = next(world.cluster.accepting(0))
    world.broken = frozenset({1})
    world.event(WorkerSpent(spent.id, "has served 1000 requests"))
    world.go_on(20)
    assert spent.id in {w.id for w in world.cluster.accepting(0)}
    assert world.cluster.failures[0].count > 3
    world.broken = frozenset()
    world.quiesce()
    at_rest(world, 3)
    assert spent.id not in world.cluster.workers


def test_a_spent_worker_that_dies_is_replaced_as_any_other() -> None:
    """A death before the heir was there takes nothing else with it."""
    world = started(ALL)
    spent = next(world.cluster.accepting(0))
    world.now += 10
    world.event(WorkerSpent(spent.id, "has served 1000 requests"))
    world.die(spent.id)
    world.quiesce()
    at_rest(world, 3)


def test_only_who_serves_is_spent() -> None:
    """A spare or a draining worker that says so changes nothing; nor does who says it twice, or at a stop."""
    world = started(POLICIES["spares"])
    spare = next(w for w in world.cluster.workers.values() if w.seat < 0)
    before = world.cluster
    world.event(WorkerSpent(spare.id, "has served 1000 requests"))
    world.event(WorkerSpent(999, "has served 1000 requests"))
    assert world.cluster == before
    worker = next(world.cluster.accepting(0))
    world.event(WorkerSpent(worker.id, "has served 1000 requests"))
    world.event(WorkerSpent(worker.id, "takes 3 GiB"))
    assert said(world, What.WORKER_SPENT) == ["has served 1000 requests"]


def test_a_rollout_takes_a_spent_worker_with_it() -> None:
    """Seats that it has not come to get no heir of the old generation."""
    world = started(POLICIES["one"])
    world.event(Asked(Kind.RELOAD, POLICIES["one"]))
    last = next(world.cluster.accepting(2))
    count = len(world.actions)
    world.event(WorkerSpent(last.id, "has served 1000 requests"))
    world.quiesce()
    assert world.outcome(2) is Outcome.DONE
    at_rest(world, 3, 2)
    assert [a.generation for a in since(world, count) if isinstance(a, Fork)] == [2, 2, 2]


def test_max_age_goes_round() -> None:
    """Each worker is replaced once in its time and a tenth; no two at once, and never a seat without."""
    world = World()
    world.event(Asked(Kind.START, replace(ALL, max_age=100.0)))
    world.go_on(1)
    first = dict(world.cluster.workers)
    begun = world.now
    world.go_on(98)
    assert set(world.cluster.workers) == set(first)
    world.go_on(12)
    assert not set(world.cluster.workers) & set(first)
    at_rest(world, 3)
    assert said(world, What.WORKER_SPENT) == ["has served for 100 s"] * 3
    world.go_on(1000)
    recycled = len(said(world, What.WORKER_SPENT))
    assert 3 * (world.now - begun) / 112 - 3 <= recycled <= 3 * (world.now - begun) / 100
    at_rest(world, 3)


def test_a_hung_worker_is_steered_around_at_once_and_killed_after_a_grace() -> None:
    """Its successor begins in the same slot while it still hangs."""
    world = started(ALL)
    world.now += 10
    hung = next(world.cluster.accepting(1))
    count = len(world.actions)
    world.event(WorkerHung(hung.id, SILENT, 5.0))
    world.pending = [e for e in world.pending if getattr(e, "worker", None) != hung.id]  # it says nothing to the drain
    assert Steer((0, 2)) in since(world, count)
    (fork,) = (a for a in since(world, count) if isinstance(a, Fork))
    assert fork.slot == hung.slot
    world.event(WorkerReady(fork.worker))
    world.event(WorkerServing(fork.worker))
    assert world.cluster.steered == (0, 1, 2) and Kill(hung.id) not in world.actions
    world.now += 6
    world.event(Passed())
    assert Kill(hung.id) in world.actions
    world.pending = [e for e in world.pending if getattr(e, "worker", None) not in (None, fork.worker)]
    world.quiesce()
    at_rest(world, 3)
    assert said(world, What.WORKER_HUNG) == said(world, What.WORKER_CUT) == [SILENT]


def test_who_hangs_and_accepts_is_followed_elsewhere() -> None:
    """Its successor is not to share the slot with it; the next one is there again."""
    world = started(ALL)
    world.now += 10
    hung = next(world.cluster.accepting(1))
    count = len(world.actions)
    world.event(WorkerHung(hung.id, SILENT, 5.0, accepts=True))
    world.pending = [e for e in world.pending if getattr(e, "worker", None) != hung.id]
    (fork,) = (a for a in since(world, count) if isinstance(a, Fork))
    assert fork.slot == 3
    world.go_on(20)
    at_rest(world, 3)
    assert world.cluster.steered == (0, 2, 3)
    world.die(fork.worker)
    world.quiesce()
    assert world.cluster.steered == (0, 1, 2)


def test_a_worker_that_paused_finishes_and_leaves() -> None:
    """It answers the drain: it is not killed, and its seat has another already."""
    world = started(ALL)
    world.now += 10
    hung = next(world.cluster.accepting(1))
    world.event(WorkerHung(hung.id, SILENT, 5.0))
    assert Drain(hung.id, 0.0, 5.0) in world.actions
    world.quiesce()
    at_rest(world, 3)
    assert Kill(hung.id) not in world.actions and not said(world, What.WORKER_CUT)


def test_a_spare_that_hangs_is_killed() -> None:
    """It has nothing to finish, and another is made ready."""
    world = started(POLICIES["spares"])
    spare = next(w for w in world.cluster.workers.values() if w.seat < 0)
    world.event(WorkerHung(spare.id, SILENT, 5.0))
    assert Kill(spare.id) in world.actions
    world.quiesce()
    at_rest(world, 3)


def test_who_starts_or_drains_does_not_hang() -> None:
    """Both have a time of their own."""
    world = World()
    world.event(Asked(Kind.START, ALL))
    world.deliver(0)
    starting = next(iter(world.cluster.workers))
    before = world.cluster
    world.event(WorkerHung(starting, SILENT, 5.0))
    assert world.cluster == before
    world.quiesce()
    at_rest(world, 3)


def test_a_deploy_that_hangs_is_returned() -> None:
    """Hanging workers count as dying ones while a generation is watched."""
    world = started(ALL)
    world.event(Asked(Kind.RELOAD, ALL))
    world.go_on(5)
    assert world.outcome(2) is Outcome.DONE and world.cluster.watch is not None
    for _ in range(3):
        world.event(WorkerHung(next(world.cluster.accepting(generation=2)).id, SILENT, 5.0))
        world.go_on(1)
    world.quiesce()
    at_rest(world, 3, 1)
    assert SILENT in said(world, What.RETURNED)[0]


def test_scaled_up_and_down() -> None:
    """New seats are filled; who is too many is steered around, drains and leaves. The file's number comes back."""
    world = started(ALL)
    world.event(ScaleAsked(5, 3))
    world.quiesce()
    at_rest(world, 5)
    assert world.cluster.scaled == Scaled(5, 3)
    count = len(world.actions)
    world.event(ScaleAsked(2, 3))
    orders = [a for a in since(world, count) if isinstance(a, Steer | Drain)]
    assert orders[0] == Steer((0, 1)) and len(orders) == 4
    world.quiesce()
    at_rest(world, 2)
    world.event(ScaleAsked(None, 3))
    world.quiesce()
    at_rest(world, 3)
    assert world.cluster.scaled is None
    assert said(world, What.SCALED) == ["from 3 to 5 workers", "from 5 to 2 workers", "from 2 to 3 workers"]


@pytest.mark.parametrize("policy", [ALL, POLICIES["one"]], ids=["all", "one"])
def test_what_was_scaled_holds_over_a_reload_until_the_file_says_another_number(policy: Policy) -> None:
    """A rollback too; the number in the file counts from when it is another one."""
    world = started(policy)
    world.event(ScaleAsked(5, 3))
    world.event(Asked(Kind.RELOAD, policy))
    world.quiesce()
    assert world.outcome(2) is Outcome.DONE
    at_rest(world, 5, 2)
    world.event(Asked(Kind.ROLLBACK, policy))
    world.quiesce()
    at_rest(world, 5, 1)
    world.event(Asked(Kind.RELOAD, replace(policy, workers=4)))
    world.quiesce()
    at_rest(world, 4, 3)
    assert world.cluster.scaled is None


@pytest.mark.parametrize("workers", [1, 2, 6])
@pytest.mark.parametrize("policy", ["all", "one", "fresh"])
def test_scaled_in_the_middle_of_a_reload(policy: str, workers: int) -> None:
    """At any moment of it: the reload is done, with so many workers."""
    before = started(POLICIES[policy])
    before.event(Asked(Kind.RELOAD, POLICIES[policy]))
    while before.cluster.rollout is not None:
        world = before.copy()
        world.event(ScaleAsked(workers, 3))
        world.quiesce()
        assert world.outcome(2) is Outcome.DONE
        at_rest(world, workers, 2)
        if before.pending:
            before.deliver(0)
        elif before.cluster.rollout.stage in (Stage.SOAKING, Stage.PREPARING):
            before.pass_time()


def test_a_service_that_stops_is_not_scaled() -> None:
    """Nothing is forked for a service that is about to be gone."""
    world = started(ALL)
    world.event(StopAsked())
    before = world.cluster
    world.event(ScaleAsked(5, 3))
    assert world.cluster == before

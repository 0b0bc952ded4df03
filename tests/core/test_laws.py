"""The tables' laws, the slots, the deadlines: one rule a test, each from the smallest state that shows it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import World

from clusterd.core import backoff, invariants, slots
from clusterd.core.actions import Drain, EndGeneration, Kill, Outcome, Steer, Usher
from clusterd.core.events import Asked, Passed, StopAsked, WorkerGone, WorkerServing, ZygoteUp
from clusterd.core.lifecycle import ROLLOUT, WORKER, IllegalMove, move_rollout, move_worker
from clusterd.core.machine import deadline, step
from clusterd.core.model import Cluster, Failures, Kind, Mode, Phase, Policy, Stage, Worker


def started(policy: Policy) -> World:
    world = World()
    world.event(Asked(Kind.START, policy))
    world.quiesce()
    return world


def test_an_illegal_move_raises_and_changes_nothing() -> None:
    """A worker that says it serves before it was told to is not believed: the state is as it was."""
    world = World()
    world.event(Asked(Kind.START, Policy(workers=1)))
    world.event(ZygoteUp(1))
    (worker,) = world.cluster.workers
    before = world.cluster
    with pytest.raises(IllegalMove, match="starting cannot take 'serving'"):
        step(before, WorkerServing(worker), world.now)
    assert world.cluster is before and before.workers[worker].phase is Phase.STARTING


def test_what_the_tables_do_not_have_is_illegal() -> None:
    """Every pair outside a table raises."""
    for phase in Phase:
        for what in {what for _, what in WORKER}:
            if (phase, what) not in WORKER:
                with pytest.raises(IllegalMove):
                    move_worker(phase, what)
    for stage in Stage:
        for what in {what for _, what in ROLLOUT}:
            if (stage, what) not in ROLLOUT:
                with pytest.raises(IllegalMove):
                    move_rollout(stage, what)


def test_drains_do_not_pile_up() -> None:
    """With more generations than max-generations, the oldest that still drains is cut, and no other."""
    policy = Policy(workers=1, drain_timeout=1000.0, soak=0.0, max_generations=3)
    world = started(policy)
    for number in range(2, 6):
        world.event(Asked(Kind.RELOAD, policy))
        while world.cluster.rollout is not None:
            event = next(e for e in world.pending if not isinstance(e, WorkerGone))  # nobody ends what it has
            world.pending.remove(event)
            world.event(event)
        cut = {a.worker for a in world.actions if isinstance(a, Kill)}
        assert len(cut) == max(0, number - 3)
        assert {w.generation for w in world.cluster.workers.values() if not w.killed} == set(
            range(max(1, number - 2), number + 1)
        )


def test_no_way_leads_out_of_draining() -> None:
    """Law 2: a worker that drains never serves again."""
    assert {to for (phase, _), to in WORKER.items() if phase is Phase.DRAINING} == {Phase.DRAINING}


def test_a_worker_that_does_not_finish_draining_is_killed() -> None:
    """At the end of drain-timeout and a second's grace the worker is killed, and the reload is long done."""
    policy = Policy(workers=1, drain_timeout=7.0, soak=0.0)
    world = started(policy)
    (old,) = world.cluster.workers
    world.event(Asked(Kind.RELOAD, policy))
    while not any(w.phase is Phase.DRAINING for w in world.cluster.workers.values()):
        world.deliver(0) if world.pending else world.pass_time()
    world.pending = [e for e in world.pending if getattr(e, "worker", None) != old]
    drained_at = world.cluster.workers[old].since
    cluster, actions = step(world.cluster, Passed(), drained_at + 7.9)
    assert Kill(old) not in actions
    cluster, actions = step(cluster, Passed(), drained_at + 8.0)
    assert Kill(old) in actions and cluster.workers[old].killed


def test_an_import_that_never_ends_is_given_up() -> None:
    """A zygote that is not up within ready-timeout is ended, and a reload refused for it."""
    policy = Policy(workers=1, ready_timeout=5.0)
    world = started(policy)
    world.event(Asked(Kind.RELOAD, policy))
    world.pending.clear()
    due = deadline(world.cluster, world.now)
    assert due == world.now + 5.0
    cluster, actions = step(world.cluster, Passed(), due)
    assert EndGeneration(2) in actions and cluster.rollout is None and list(cluster.generations) == [1]


def test_a_stop_shortens_drains_that_are_under_way() -> None:
    """Who drains for a reload with 30 seconds to go has, at a stop, what [stop] gives."""
    policy = Policy(workers=1, drain_timeout=30.0, stop_timeout=2.0, soak=0.0)
    world = started(policy)
    (old,) = world.cluster.workers
    world.event(Asked(Kind.RELOAD, policy))
    while not any(w.phase is Phase.DRAINING for w in world.cluster.workers.values()):
        world.deliver(0) if world.pending else world.pass_time()
    cluster, actions = step(world.cluster, StopAsked(), world.now)
    assert {a.worker: a.timeout for a in actions if isinstance(a, Drain)} == dict.fromkeys(cluster.workers, 2.0)
    assert old in cluster.workers


def test_new_connections_leave_a_slot_before_its_worker_drains() -> None:
    """The program is changed first: a connection that arrived in between would wait for a worker that has left."""
    policy = Policy(workers=2, slots=8, fresh_slots=True)
    world = started(policy)
    old = {w.slot for w in world.cluster.workers.values()}
    world.event(Asked(Kind.RELOAD, policy))
    world.quiesce()
    first = next(i for i, action in enumerate(world.actions) if isinstance(action, Drain))
    steered = [action for action in world.actions[:first] if isinstance(action, Steer)]
    assert len(old) == 2 and len(old & set(steered[-1].slots)) == 1  # the other is still served


def test_fresh_slots_are_not_those_of_the_old_workers() -> None:
    """A program that accepts as soon as it runs gets sockets of its own, so a refused one has never had a request."""
    policy = Policy(workers=3, slots=8, fresh_slots=True)
    world = started(policy)
    old = {w.slot for w in world.cluster.workers.values()}
    world.event(Asked(Kind.RELOAD, policy))
    world.quiesce()
    new = {w.slot for w in world.cluster.workers.values()}
    assert len(new) == 3 and not old & new and world.cluster.steered == tuple(sorted(new))


def test_without_a_free_slot_a_successor_shares() -> None:
    """Where there are not twice as many slots as workers, a fresh slot is the seat's own again."""
    policy = Policy(workers=3, slots=4, fresh_slots=True)
    world = started(policy)
    world.event(Asked(Kind.RELOAD, policy))
    world.quiesce()
    assert sorted(w.seat for w in world.cluster.workers.values()) == [0, 1, 2]


def test_spare_slots_are_relayed_while_something_serves() -> None:
    """A connection that was queued in a spare slot before the start is passed on to a live one."""
    world = started(Policy(workers=2, slots=5))
    assert slots.usher(world.cluster) == (Mode.RELAY, (2, 3, 4))


def test_a_slot_whose_worker_comes_back_is_left_to_wait() -> None:
    """A crash costs the time of a fork: no usher is started for that, and nothing new is sent there."""
    world = started(Policy(workers=2, slots=2))
    world.now += 10
    world.die(min(world.cluster.workers))
    assert slots.usher(world.cluster) == (Mode.OFF, ()) and world.cluster.steered == (1,)


def test_a_slot_in_back_off_is_relayed() -> None:
    """A slot whose worker keeps dying is looked after by the usher until its next attempt."""
    world = started(Policy(workers=2, slots=2))
    for _ in range(2):
        world.die(next(w.id for w in world.cluster.workers.values() if w.seat == 0))
        if not any(w.seat == 0 for w in world.cluster.workers.values()):
            break
    assert slots.usher(world.cluster) == (Mode.RELAY, (0,))


def test_nothing_is_refused_before_a_start_has_failed() -> None:
    """At a cold start connections wait for the first boot; once it has failed they are told so at once."""
    world = World(cluster=Cluster(strict=False), unbootable=frozenset({1}))
    world.event(Asked(Kind.START, Policy(workers=1, slots=4)))
    assert slots.usher(world.cluster) == (Mode.OFF, ())
    world.deliver(0)
    assert slots.usher(world.cluster) == (Mode.REFUSE, (0, 1, 2, 3))


def test_the_usher_is_told_only_what_is_new() -> None:
    """An action for the usher is a change of its orders."""
    world = started(Policy(workers=2, slots=4))
    _, actions = step(world.cluster, Passed(), world.now)
    assert not [a for a in actions if isinstance(a, Usher | Steer)]


@given(count=st.integers(0, 200), salt=st.integers(0, 10**9))
def test_the_back_off_grows_to_its_cap(count: int, salt: int) -> None:
    """Each further failure waits at least as long, a tenth more or less, and never longer than max-delay allows."""
    policy = Policy(delay=0.1, max_delay=30.0)
    wait = backoff.after_failure(Failures(count), policy, 0.0, salt).until
    longer = backoff.after_failure(Failures(count + 1), policy, 0.0, salt).until
    assert 0.09 <= wait <= longer <= 33.0
    assert count < 20 or wait >= 27.0
    meant = min(30.0, 0.1 * 1.5**count)
    assert 0.9 * meant <= wait <= 1.1 * meant


def test_seats_that_fail_together_are_tried_apart() -> None:
    """The jitter: of workers that died in the same moment no two neighbours come back in the same one."""
    waits = [backoff.after_failure(None, Policy(delay=1.0), 0.0, salt).until for salt in range(64)]
    assert len(set(waits)) == 64 and max(waits) - min(waits) > 0.15


def test_a_stop_before_anything_runs_ends_at_once() -> None:
    """Nothing started, nothing to wait for: status 0."""
    world = World()
    world.event(StopAsked())
    assert world.exited == 0 and world.cluster.stopped


def test_requests_while_stopping_are_refused() -> None:
    """A reload after the stop began is answered, and does nothing."""
    world = started(Policy(workers=1))
    world.event(StopAsked())
    world.event(Asked(Kind.RELOAD, Policy(workers=1)))
    assert world.outcome(2) is Outcome.REFUSED and world.cluster.rollout is None


def test_the_invariants_catch_a_worker_that_accepts_too_early() -> None:
    """The check is not empty: a state that the laws forbid is refused."""
    world = started(Policy(workers=1))
    (worker,) = world.cluster.workers.values()
    wrong = replace(world.cluster, workers={worker.id: replace(worker, phase=Phase.READY)})
    with pytest.raises(invariants.Broken, match="accepts while ready"):
        invariants.check(wrong)
    twice = Worker(99, worker.seat, worker.slot, worker.generation, since=0.0)
    with pytest.raises(invariants.Broken, match="2 workers of generation 1 in seat 0"):
        invariants.check(world.cluster.with_worker(twice))


def test_where_clients_wait_nobody_is_refused() -> None:
    """With `unavailable = "wait"` the usher is left out while nothing can serve; else it relays as ever."""
    policy = Policy(workers=2, slots=4, waits=True)
    world = started(policy)
    assert slots.usher(world.cluster) == (Mode.RELAY, (2, 3))
    world.broken = frozenset({1})
    for number in list(world.cluster.workers):
        world.die(number)
    world.go_on(5)
    assert world.cluster.problem and slots.usher(world.cluster) == (Mode.OFF, ())

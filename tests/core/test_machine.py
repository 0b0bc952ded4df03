"""The whole core against a played world: each operation, and each failure that an operator knows by name."""

from __future__ import annotations

import pytest
from played import POLICIES, at_rest, started
from world import World

from clusterd.core import backoff
from clusterd.core.actions import Fork, Outcome, Serve
from clusterd.core.events import (
    Asked,
    StopAsked,
    TwinGone,
    TwinUp,
    WorkerGone,
    ZygoteGone,
    ZygoteUp,
)
from clusterd.core.machine import deadline
from clusterd.core.model import NO_SLOT, Boot, Cluster, Kind, Phase, Policy


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES.keys())
def test_start_serves_every_seat(policy: Policy) -> None:
    """A start ends when every seat is served, and says so once."""
    world = started(policy)
    at_rest(world, policy.workers, 1)
    assert world.outcome(1) is Outcome.DONE


def test_the_number_of_workers_is_known_when_the_zygote_is_up() -> None:
    """A start whose file is read only at the boot still starts, and commits, all workers at once."""
    world = World()
    world.event(Asked(Kind.START, Policy(workers=1)))
    world.pending.clear()
    world.event(ZygoteUp(1, policy=Policy(workers=3)))
    world.quiesce()
    at_rest(world, 3, 1)
    assert world.commits == [3]


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES.keys())
def test_reload_replaces_every_worker(policy: Policy) -> None:
    """A reload replaces every worker and parks the generation before."""
    world = started(policy)
    old = set(world.cluster.workers)
    world.event(Asked(Kind.RELOAD, policy))
    world.quiesce()
    at_rest(world, policy.workers, 2)
    assert not old & set(world.cluster.workers) and world.cluster.previous == 1
    assert world.outcome(2) is Outcome.DONE


@pytest.mark.parametrize("before,after", [(2, 5), (5, 2)])
@pytest.mark.parametrize("surge", [None, 1, 2])
def test_reload_changes_the_number_of_workers(before: int, after: int, surge: int | None) -> None:
    """A reload takes the new number of workers, up and down, whatever the surge."""
    world = started(Policy(workers=before))
    world.event(Asked(Kind.RELOAD, Policy(workers=after, surge=surge)))
    world.quiesce()
    at_rest(world, after, 2)


def test_nothing_serves_before_all_are_ready() -> None:
    """surge = all: until every new worker is ready and has soaked, no new one serves and no old one drains."""
    world = started(POLICIES["all"])
    world.event(Asked(Kind.RELOAD, POLICIES["all"]))
    while world.pending:
        assert all(w.phase is Phase.SERVING for w in world.cluster.workers.values() if w.generation == 1)
        assert all(w.phase is not Phase.SERVING for w in world.cluster.workers.values() if w.generation == 2)
        world.deliver(0)
    assert world.serving() == {0: [1], 1: [1], 2: [1]}


@pytest.mark.parametrize("surge", [None, 1, 2])
def test_seats_that_are_given_up_need_not_be_served_by_the_old_code(surge: int | None) -> None:
    """A reload to fewer workers ends, though the last seats of the old generation never serve again."""
    world = started(Policy(workers=5, slots=8))
    world.deaf = frozenset({1})
    world.die(5)
    world.event(Asked(Kind.RELOAD, Policy(workers=3, slots=8, surge=surge)))
    world.quiesce()
    assert world.outcome(2) is Outcome.DONE
    at_rest(world, 3, 2)


def test_surge_bounds_the_extra_workers() -> None:
    """surge = K: never more than K workers beyond the wanted number, counting those that drain."""
    policy = POLICIES["two"]
    world = started(policy)
    world.event(Asked(Kind.RELOAD, policy))
    while world.pending or world.pass_time():
        assert len(world.cluster.workers) <= policy.workers + 2
        if world.pending:
            world.deliver(0)
    at_rest(world, policy.workers, 2)


@pytest.mark.parametrize("how", ["broken", "unbootable"])
@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES.keys())
def test_broken_code_is_refused(policy: Policy, how: str) -> None:
    """Code that cannot be imported, or whose workers die, is refused: the old workers serve, and new deaths heal."""
    world = started(policy)
    old = set(world.cluster.workers)
    setattr(world, how, frozenset({2}))
    world.event(Asked(Kind.RELOAD, policy))
    world.quiesce()
    assert set(world.cluster.workers) == old and world.outcome(2) is Outcome.REFUSED
    world.die(min(old))
    world.quiesce()
    at_rest(world, policy.workers, 1)


def test_surge_failure_at_the_second_worker_is_undone() -> None:
    """surge = 1 with a failure after a seat was moved: that seat goes back, and the reload was refused."""
    world = started(POLICIES["one"])
    world.event(Asked(Kind.RELOAD, POLICIES["one"]))
    while not (world.cluster.rollout and world.cluster.rollout.moved == 1 and world.cluster.rollout.upto == 2):
        world.deliver(0) if world.pending else world.pass_time()
    world.broken = frozenset({2})
    (second,) = [w.id for w in world.cluster.workers.values() if w.generation == 2 and w.seat == 1] or [None]
    assert second is not None
    world.die(second)
    world.quiesce()
    at_rest(world, 3, 1)
    assert world.outcome(2) is Outcome.REFUSED


def test_a_worker_told_to_serve_does_so_in_time_or_is_no_worker() -> None:
    """Workers that never begin to accept do not hang a reload: it is given up, and the old generation serves on."""
    world = started(POLICIES["all"])
    world.deaf = frozenset({2})
    world.event(Asked(Kind.RELOAD, POLICIES["all"]))
    world.quiesce()
    at_rest(world, 3, 1)
    assert world.outcome(2) is Outcome.RETURNED


def test_a_return_that_cannot_be_completed_is_told_in_time() -> None:
    """When neither generation can be started, whoever waits for the reload is told, and it heals later."""
    world = started(POLICIES["one"])
    world.event(Asked(Kind.RELOAD, POLICIES["one"]))
    while not (world.cluster.rollout and world.cluster.rollout.moved == 1 and world.cluster.rollout.upto == 2):
        world.deliver(0) if world.pending else world.pass_time()
    world.broken = frozenset({1, 2})
    world.die(max(world.cluster.workers))
    world.go_on(3 * 60 + 1)
    assert world.outcome(2) is Outcome.REFUSED and world.cluster.rollout is None
    assert list(world.cluster.accepting()), "the moved seat's worker serves on meanwhile"
    world.broken = frozenset()
    world.quiesce()
    at_rest(world, 3, 1)


def test_a_committed_generation_that_cannot_be_imported_again_is_returned() -> None:
    """Committed, it loses worker and zygotes, and what is on disk is broken: no boot after boot without an end."""
    world = started(POLICIES["all"])
    world.event(Asked(Kind.RELOAD, POLICIES["all"]))
    while not (world.cluster.rollout and world.cluster.rollout.moved):
        world.deliver(0) if world.pending else world.pass_time()
    world.pending = [e for e in world.pending if not isinstance(e, TwinUp)]
    world.unbootable = frozenset({2})
    world.event(TwinGone(2))
    world.pending = [e for e in world.pending if not isinstance(e, TwinUp)]
    world.event(ZygoteGone(2, "killed by SIGKILL"))
    world.die(max(world.cluster.workers))
    world.quiesce()
    at_rest(world, 3, 1)
    assert world.outcome(2) is Outcome.RETURNED


def test_a_zygote_that_is_up_too_late_is_not_up() -> None:
    """It said so and was given up before that was heard: nobody is there to fork, and another is booted."""
    world = started(POLICIES["all"])
    world.event(TwinGone(1))
    world.pending.clear()
    world.event(ZygoteGone(1, "killed by SIGKILL"))
    world.pass_time()
    (up,) = world.pending
    world.pending.clear()
    while world.cluster.generations[1].boot is Boot.BOOTING:
        world.pass_time()
    world.event(up)
    assert world.cluster.generations[1].boot is Boot.LOST
    world.quiesce()
    at_rest(world, 3, 1)


def test_a_generation_that_has_left_waits_for_no_boot() -> None:
    """A zygote that was booting when its generation was replaced leaves no deadline behind."""
    policy = Policy(workers=2, ready_timeout=10.0, drain_timeout=300.0)
    world = started(policy)
    world.pending.clear()
    world.event(TwinGone(1))
    world.event(ZygoteGone(1, "killed by SIGKILL"))
    world.pending.clear()
    world.pass_time()
    assert world.cluster.generations[1].boot is Boot.BOOTING
    world.pending.clear()  # it boots again, and takes its time
    world.event(Asked(Kind.RELOAD, policy))
    for _ in range(60):  # the old workers drain, and stay
        ready = [e for e in world.pending if not (isinstance(e, WorkerGone) and e.worker <= 2)]
        if ready:
            world.deliver(world.pending.index(ready[0]))
        elif (deadline(world.cluster, world.now) or 0) < 200:
            world.pass_time()
    assert world.cluster.generations[1].ended and world.cluster.workers[1].phase is Phase.DRAINING


def test_a_generation_that_keeps_dying_is_returned() -> None:
    """Within the watch, deaths of as many workers as there are bring the parked generation back, and it is told of what
    the last one died: also when each had lived for long enough to be no trouble of its seat.
    """
    world = started(POLICIES["all"])
    world.event(Asked(Kind.RELOAD, POLICIES["all"]))
    while world.cluster.watch is None:
        world.deliver(0) if world.pending else world.pass_time()
    world.broken = frozenset({2})
    for _ in range(3):
        victim = next(w.id for w in world.cluster.workers.values() if w.generation == 2 and w.alive)
        world.die(victim)
    world.quiesce()
    at_rest(world, 3, 1)
    done, returned = (f for f in world.finished if f.number == 2)
    assert (done.outcome, returned.outcome) == (Outcome.DONE, Outcome.RETURNED)
    assert returned.reason.startswith("its workers keep dying, the last: worker ")
    assert returned.reason.endswith(": killed by SIGKILL")


def test_rollback_and_back() -> None:
    """A rollback serves the parked generation, and parks the one it replaces."""
    world = started(POLICIES["all"])
    world.event(Asked(Kind.RELOAD, POLICIES["all"]))
    world.quiesce()
    for expected in (1, 2):
        world.event(Asked(Kind.ROLLBACK, POLICIES["all"]))
        world.quiesce()
        at_rest(world, 3, expected)


def test_rollback_without_a_previous_is_refused() -> None:
    """Nothing parked: refused, nothing changed."""
    world = started(POLICIES["all"])
    world.event(Asked(Kind.ROLLBACK, POLICIES["all"]))
    at_rest(world, 3, 1)
    assert world.outcome(2) is Outcome.REFUSED


@pytest.mark.parametrize("bad", [False, True])
def test_try_leaves_no_trace(bad: bool) -> None:
    """A try boots and checks, answers, and changes nothing."""
    world = started(POLICIES["all"])
    old = set(world.cluster.workers)
    world.broken = frozenset({2} if bad else set())
    world.event(Asked(Kind.TRY, POLICIES["all"]))
    world.quiesce()
    assert world.outcome(2) is (Outcome.REFUSED if bad else Outcome.DONE)
    assert set(world.cluster.workers) == old
    at_rest(world, 3, 1)


@pytest.mark.parametrize("how", ["broken", "unbootable"])
def test_first_start_that_fails_ends(how: str) -> None:
    """The first start that fails ends the service with status 1, nothing left."""
    world = World()
    setattr(world, how, frozenset({1}))
    world.event(Asked(Kind.START, POLICIES["all"]))
    world.quiesce()
    assert world.exited == 1 and not world.cluster.workers


@pytest.mark.parametrize("how", ["broken", "unbootable"])
def test_later_start_that_fails_stays_and_heals(how: str) -> None:
    """A start after a failed one stays, tries once per back-off step, and serves when the code is repaired."""
    world = World(cluster=Cluster(strict=False))
    setattr(world, how, frozenset({1}))
    world.event(Asked(Kind.START, POLICIES["all"]))
    began = world.now
    while world.now < began + 100:
        world.deliver(0) if world.pending else world.pass_time()
        assert world.exited is None
    assert world.cluster.problem and max(f.count for f in world.cluster.failures.values()) > 5
    setattr(world, how, frozenset())
    world.quiesce()
    at_rest(world, 3)


@pytest.mark.parametrize("how", ["broken", "unbootable"])
def test_stop_while_a_later_start_fails(how: str) -> None:
    """Told to stop at any moment of a start that fails again and again, it exits, with status 0."""
    world = World(cluster=Cluster(strict=False))
    setattr(world, how, frozenset({1}))
    world.event(Asked(Kind.START, POLICIES["all"]))
    for _ in range(30):
        stopped = world.copy()
        stopped.event(StopAsked())
        stopped.quiesce()
        assert stopped.exited == 0 and not stopped.cluster.workers
        if world.pending:
            world.deliver(0)
        else:
            world.pass_time()


def test_reload_with_nobody_alive_waits_for_nothing() -> None:
    """A reload when no worker lives cancels the back-off and does not soak."""
    world = World(cluster=Cluster(strict=False), unbootable=frozenset({1}))
    world.event(Asked(Kind.START, POLICIES["all"]))
    for _ in range(40):
        world.deliver(0) if world.pending else world.pass_time()
    now = world.now
    world.event(Asked(Kind.RELOAD, POLICIES["all"]))
    while world.pending:
        world.deliver(0)
    assert world.now == now and world.serving() == {0: [2], 1: [2], 2: [2]}


def test_stop_drains_and_leaves_nothing() -> None:
    """A stop drains everybody, then ends with status 0."""
    world = started(POLICIES["all"])
    world.event(StopAsked())
    world.quiesce()
    assert world.exited == 0 and not world.cluster.workers and not world.cluster.generations


def test_a_crash_loop_backs_off_but_never_ends() -> None:
    """Deaths soon after READY delay the next attempt more and more, up to the cap; the other seats are untouched."""
    world = started(Policy(workers=2, delay=0.1, max_delay=2.0))
    gaps: list[float] = []
    for _ in range(12):
        seat0 = next(w for w in world.cluster.workers.values() if w.seat == 0)
        died = world.now
        world.die(seat0.id)
        while not any(w.seat == 0 and w.accepting for w in world.cluster.workers.values()):
            world.deliver(0) if world.pending else world.pass_time()
        gaps.append(world.now - died)
    assert gaps[0] < 0.2 and gaps[:8] == sorted(gaps[:8]) and 1.7 < gaps[-1] < 2.3
    world.quiesce()
    at_rest(world, 2, 1)


def test_who_lives_for_long_enough_is_forgiven() -> None:
    """What has been counted is forgotten a moment after READY, not at READY: then a death waits for nothing again."""
    world = started(Policy(workers=2, delay=0.1, max_delay=30.0))
    for _ in range(6):
        world.die(next(w.id for w in world.cluster.workers.values() if w.seat == 0))
        while not any(w.seat == 0 and w.accepting for w in world.cluster.workers.values()):
            world.deliver(0) if world.pending else world.pass_time()
    assert world.cluster.failures[0].count == 6 and world.cluster.problem
    ready = world.now
    world.quiesce()
    assert not world.cluster.failures and not world.cluster.problem
    assert ready < world.now <= ready + backoff.MIN_LIFE
    done = len(world.actions)
    world.die(next(w.id for w in world.cluster.workers.values() if w.seat == 0))
    assert [a for a in world.actions[done:] if isinstance(a, Fork)], "in the very step that learns of it"


def test_a_spare_takes_the_place_of_a_dead_worker_at_once() -> None:
    """It is told to serve in the step that learns of the death, on the dead one's slot; then another spare is made."""
    world = started(POLICIES["spares"])
    (spare, *_) = (w for w in world.cluster.workers.values() if w.seat < 0)
    victim = next(w for w in world.cluster.workers.values() if w.seat == 1)
    world.now += 60
    done = len(world.actions)
    world.die(victim.id)
    taken = [a for a in world.actions[done:] if isinstance(a, Serve)]
    assert [(a.worker in {w.id for w in world.cluster.workers.values() if w.handed}, a.slot) for a in taken] == [
        (True, victim.slot)
    ]
    assert not [a for a in world.actions[done:] if isinstance(a, Fork)]
    world.quiesce()
    assert [a.slot for a in world.actions[done:] if isinstance(a, Fork)] == [NO_SLOT]
    assert world.cluster.workers[taken[0].worker].slot == victim.slot and spare.slot == NO_SLOT
    at_rest(world, 3, 1)


def test_spares_are_not_burnt_in_a_crash_loop() -> None:
    """A seat that backs off is not given a spare before its time."""
    world = started(POLICIES["spares"])
    died = 0
    while died < 6:
        serving = [w for w in world.cluster.workers.values() if w.seat == 0 and w.phase is Phase.SERVING]
        if serving and serving[0].accepting:
            world.die(serving[0].id)
            died += 1
            continue
        assert world.pending or world.cluster.failures[0].until > world.now
        world.deliver(0) if world.pending else world.pass_time()
    assert world.cluster.failures[0].count == 6
    world.quiesce()
    at_rest(world, 3, 1)

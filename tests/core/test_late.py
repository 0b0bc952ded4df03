"""What is said too late, twice, or of whom nobody knows; and what remains when a master comes late."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

import pytest
from played import POLICIES, at_rest, started
from world import World

from clusterd.core import events, machine, rules
from clusterd.core.actions import (
    BootZygote,
    Drain,
    EndGeneration,
    Exit,
    Fork,
    Kill,
    Outcome,
    PromoteTwin,
    Serve,
    Steer,
    Tell,
    What,
)
from clusterd.core.draft import Draft
from clusterd.core.events import (
    Adopted,
    Asked,
    Event,
    Passed,
    StopAsked,
    TwinGone,
    WorkerDraining,
    WorkerFailed,
    WorkerGone,
    WorkerHung,
    WorkerReady,
    WorkerServing,
    ZygoteGone,
    ZygoteUnborn,
    ZygoteUp,
)
from clusterd.core.model import Boot, Cluster, Kind, Phase, Stage, Twin

ALL = POLICIES["all"]
NOBODY = 4711
OF_SOMEBODY = [kind for kind in typing.get_args(Event) if {"worker", "generation"} & kind.__annotations__.keys()]


def of_nobody(kind: type[Any]) -> Event:
    values = {"worker": NOBODY, "generation": NOBODY, "reason": "", "grace": 1.0}
    needed = [f.name for f in dataclasses.fields(kind) if f.default is dataclasses.MISSING]
    return typing.cast(Event, kind(**{name: values[name] for name in needed}))


@pytest.mark.parametrize("kind", OF_SOMEBODY, ids=lambda kind: kind.__name__)
def test_of_whom_nobody_knows(kind: type[Any]) -> None:
    """It is taken in, and nothing is decided upon it: whom it is of may just have been forgotten."""
    world = started(ALL)
    before, actions = world.cluster, len(world.actions)
    world.event(of_nobody(kind))
    assert world.cluster == before and world.actions[actions:] == []


@pytest.mark.parametrize("phase", [Phase.READY, Phase.SERVING, Phase.DRAINING], ids=str)
def test_ready_said_again(phase: Phase) -> None:
    """A new master asks, and is told what the old one knew: that changes nothing and is no news."""
    world = started(POLICIES["spares"])
    if phase is Phase.DRAINING:
        world.event(Asked(Kind.RELOAD, POLICIES["spares"]))
        while not any(w.phase is phase for w in world.cluster.workers.values()):
            if world.pending:
                world.deliver(0)
            else:
                assert world.pass_time()
    worker = next(w.id for w in world.cluster.workers.values() if w.phase is phase)
    before, actions = world.cluster, len(world.actions)
    world.event(WorkerReady(worker))
    assert world.cluster == before and world.actions[actions:] == []


def test_a_zygote_that_was_never_born_boots_again() -> None:
    """A master that died between decision and deed: nobody's fault, and it is not told as one."""
    world = World()
    world.event(Asked(Kind.START, ALL))
    world.pending.clear()
    world.event(ZygoteUnborn(1))
    assert not world.cluster.failures and [type(e) for e in world.pending] == [ZygoteUp]
    world.quiesce()
    at_rest(world, 3)
    before = world.cluster
    world.event(ZygoteUnborn(1))
    assert world.cluster == before, "it is up"


def test_a_second_stop_is_the_first() -> None:
    """Whoever asks again changes nothing."""
    world = started(ALL)
    world.event(StopAsked())
    before, actions = world.cluster, len(world.actions)
    world.event(StopAsked())
    assert world.cluster == before and world.actions[actions:] == []
    world.quiesce()
    assert world.exited == 0


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.READY], ids=str)
def test_who_leaves_by_itself_amid_a_stop_is_not_told(phase: Phase) -> None:
    """It was about to be told to: nobody asks why it went."""
    world = World()
    world.event(Asked(Kind.START, ALL))
    while not (found := [w.id for w in world.cluster.workers.values() if w.phase is phase]):
        world.deliver(0)
    world.event(StopAsked())
    world.event(WorkerDraining(found[0]))
    assert not [a for a in world.actions if isinstance(a, Tell) and a.what is What.WORKER_LEFT]
    world.quiesce()
    assert world.exited == 0


def test_its_own_last_words_say_why_it_died() -> None:
    """The first of them: what comes after is of the same failure. Without any, the way it ended has to do."""
    world = started(ALL)
    first, second = (next(world.cluster.accepting(seat)).id for seat in (0, 1))
    world.event(WorkerFailed(first, "KeyError: 'SECRET'"))
    world.event(WorkerFailed(first, "the loop is closed"))
    world.die(first)
    world.event(WorkerGone(second, "exited with status 3", "is the port taken?"))
    died = [a for a in world.actions if isinstance(a, Tell) and a.what is What.WORKER_DIED]
    assert [(a.worker, a.text) for a in died] == [
        (first, "KeyError: 'SECRET'"),
        (second, "exited with status 3: is the port taken?"),
    ]
    world.quiesce()
    at_rest(world, 3)


def test_a_death_that_is_told_late() -> None:
    """Nothing new goes there at once; the successor comes when it is known how it ended, as that decides when."""
    world = started(ALL)
    dead = next(world.cluster.accepting(0))
    actions = len(world.actions)
    world.die(dead.id, reaped=False)
    assert world.actions[actions:] == [Steer((1, 2))] and world.cluster.unsettled == [0]
    world.event(WorkerServing(dead.id))
    assert world.steered == (1, 2), "what it had said before is read late"
    world.quiesce()
    at_rest(world, 3)
    assert dead.id not in world.cluster.workers


@pytest.mark.parametrize(
    ("kind", "stage"), [(Kind.RELOAD, Stage.PREPARING), (Kind.RELOAD, Stage.SOAKING), (Kind.TRY, Stage.SOAKING)]
)
def test_who_is_dead_has_not_soaked(kind: Kind, stage: Stage) -> None:
    """However long it takes to tell: the change waits, and fails of it."""
    world = started(ALL)
    world.event(Asked(kind, ALL))
    while not (ready := [w.id for w in world.cluster.workers.values() if w.generation == 2 and w.phase is Phase.READY]):
        world.deliver(0)
    while stage is Stage.SOAKING and world.pending:
        world.deliver(0)
    assert world.cluster.rollout is not None and world.cluster.rollout.stage is stage
    world.die(ready[0], reaped=False)
    gone = world.pending.pop()
    while world.pending:
        world.deliver(0)
    world.now += 2 * ALL.soak
    world.event(Passed())
    assert world.cluster.rollout is not None and world.finished[1:] == []
    world.event(gone)
    assert world.outcome(2) is Outcome.REFUSED and "killed by SIGKILL" in world.finished[-1].reason
    world.quiesce()
    at_rest(world, 3, generation=1)


def test_who_leaves_by_itself_is_told_and_followed() -> None:
    """It finishes what it has, in the time of a drain; its seat gets another at once."""
    world = started(ALL)
    world.now += 10
    leaver = next(world.cluster.accepting(1))
    actions = len(world.actions)
    world.event(WorkerDraining(leaver.id))
    after = world.cluster.workers[leaver.id]
    assert (after.phase, after.accepting) == (Phase.DRAINING, False)
    assert after.until == world.now + ALL.drain_timeout + rules.KILL_GRACE
    told = [a for a in world.actions[actions:] if isinstance(a, Tell | Fork)]
    assert [a.what if isinstance(a, Tell) else (a.generation, a.slot) for a in told] == [What.WORKER_LEFT, (1, 1)]
    world.die(leaver.id)
    assert not [a for a in world.actions[actions:] if isinstance(a, Tell) and a.what is What.WORKER_DIED]
    world.quiesce()
    at_rest(world, 3)


def test_a_try_waits_for_nothing() -> None:
    """While something is under way it is refused, and says what that is."""
    world = started(ALL)
    world.event(Asked(Kind.RELOAD, ALL))
    world.event(Asked(Kind.TRY, ALL))
    (refused,) = [f for f in world.finished if f.number == 3]
    assert refused.outcome is Outcome.REFUSED
    assert refused.reason == "#2 is under way (reload); try again when it has ended"
    world.quiesce()
    assert world.outcome(2) is Outcome.DONE


def test_a_zygote_with_a_twin_dies_and_costs_nothing() -> None:
    """The twin takes its place and another twin is made; nothing is booted, and nobody waits."""
    world = started(ALL)
    assert world.cluster.generations[1].twin is Twin.UP
    actions = len(world.actions)
    world.event(ZygoteGone(1, "killed by SIGKILL"))
    after = world.actions[actions:]
    assert PromoteTwin(1) in after and not [a for a in after if isinstance(a, BootZygote)]
    assert [a.text for a in after if isinstance(a, Tell)] == ["killed by SIGKILL"]
    assert world.cluster.generations[1].boot is Boot.UP
    world.quiesce()
    assert world.cluster.generations[1].twin is Twin.UP
    at_rest(world, 3)


@pytest.mark.parametrize("decided", [True, False], ids=["by the old one", "by the new one"])
def test_what_a_new_master_says_again(decided: bool) -> None:
    """To each what it was told last, once: serve, drain in the time that is left, die."""
    world = started(ALL)
    killed, draining, serving = (next(world.cluster.accepting(seat)).id for seat in range(3))
    world.event(WorkerDraining(draining))
    world.event(WorkerHung(killed, "hangs", 5.0))
    world.pending.clear()
    world.now += 5.0 + rules.KILL_GRACE
    if decided:
        world.event(Passed())
        assert world.cluster.workers[killed].killed
    actions = len(world.actions)
    world.replace_master()
    again = world.actions[actions:]
    left = ALL.drain_timeout - 5.0 - rules.KILL_GRACE
    assert [a for a in again if isinstance(a, Drain)] == [Drain(draining, ALL.linger, left)]
    assert [a for a in again if isinstance(a, Kill)] == [Kill(killed)]
    assert [a for a in again if isinstance(a, Serve)] == [Serve(serving, None)]


def test_a_new_master_that_finds_all_stopped_says_so() -> None:
    """The one before it died over its last order: to end."""
    world = started(ALL)
    world.event(StopAsked())
    world.quiesce()
    assert world.exited == 0
    actions = len(world.actions)
    world.replace_master()
    assert world.actions[actions:].count(Exit(0)) == 1


def test_a_parked_generation_that_is_lost_is_none_to_roll_back_to() -> None:
    """Its zygotes are dead: what is left of it is the code on disk, which is not what was parked."""
    world = started(ALL)
    world.event(Asked(Kind.RELOAD, ALL))
    world.quiesce()
    assert world.cluster.previous == 1
    world.event(TwinGone(1))
    world.event(ZygoteGone(1, "killed by SIGKILL"))
    world.quiesce()
    at_rest(world, 3, 2)
    assert world.cluster.previous is None and 1 not in world.cluster.generations
    world.event(Asked(Kind.ROLLBACK, ALL))
    assert world.outcome(3) is Outcome.REFUSED


def test_a_try_gives_way_to_a_return() -> None:
    """While code on disk is tried, the generation that serves keeps dying: the return is what matters."""
    world = started(ALL)
    world.event(Asked(Kind.RELOAD, ALL))
    while world.cluster.watch is None or world.pending:
        if world.pending:
            world.deliver(0)
        else:
            assert world.pass_time()
    world.event(Asked(Kind.TRY, ALL))
    for _ in range(3):
        while not next(world.cluster.accepting(), None):
            world.deliver(0)
        world.die(next(world.cluster.accepting()).id)
    world.quiesce()
    assert world.outcome(3) is Outcome.SUPERSEDED
    assert [f.outcome for f in world.finished if f.number == 2] == [Outcome.DONE, Outcome.RETURNED]
    at_rest(world, 3, 1)


def test_a_generation_that_was_told_to_end_is_told_again() -> None:
    """The master that told it may have died over it; a worker of it still drains, so it is still known."""
    world = started(ALL)
    slow = next(world.cluster.accepting(0)).id
    for _ in range(2):
        world.event(Asked(Kind.RELOAD, ALL))
        while world.cluster.rollout is not None:
            world.pending = [e for e in world.pending if not (isinstance(e, WorkerGone) and e.worker == slow)]
            if world.pending:
                world.deliver(0)
            else:
                assert world.pass_time()
    assert world.cluster.generations[1].ended and world.cluster.workers[slow].phase is Phase.DRAINING
    actions = len(world.actions)
    world.replace_master()
    again = world.actions[actions:]
    assert EndGeneration(1) in again and slow in [a.worker for a in again if isinstance(a, Drain)]


def test_a_master_that_comes_before_anything_was_asked_steers_all_the_same() -> None:
    """Wherever a connection goes then it waits for the first worker: nowhere is no place to steer to."""
    world = World()
    world.replace_master()
    assert [a for a in world.actions if isinstance(a, Steer)][-1] == Steer((0,))


def test_rules_that_never_rest_are_a_bug_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step ends whatever the rules do; the last actions say which rule it is."""

    def restless(d: Draft) -> None:
        d.act(EndGeneration(NOBODY))

    monkeypatch.setattr(machine, "RULES", (restless,))
    with pytest.raises(AssertionError, match=rf"no fixed point: .*EndGeneration\(generation={NOBODY}\)"):
        machine.step(Cluster(), Passed(), 1.0)


def test_every_event_is_somebodys() -> None:
    """Each event there is is one of those that are tried here, or of the whole instance."""
    assert {kind for kind in typing.get_args(Event) if kind not in OF_SOMEBODY} == {
        Asked,
        Adopted,
        Passed,
        StopAsked,
        events.ScaleAsked,
    }

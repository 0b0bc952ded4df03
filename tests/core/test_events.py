"""Events one at a time, on states made for them: what each changes, and what is told of it, of whom."""

from __future__ import annotations

from dataclasses import replace

import pytest
from states import ALL, NOW, THREE, draft, generation, rollout, worker

from clusterd.core import rules
from clusterd.core.actions import (
    Action,
    Drain,
    EndGeneration,
    Exit,
    Finish,
    Fork,
    Kill,
    MakeTwin,
    Outcome,
    PromoteTwin,
    Serve,
    Steer,
    Tell,
    Usher,
    What,
)
from clusterd.core.backoff import MIN_LIFE
from clusterd.core.events import (
    Adopted,
    Asked,
    Event,
    ScaleAsked,
    TwinGone,
    TwinUp,
    WorkerDraining,
    WorkerGone,
    WorkerHung,
    WorkerReady,
    WorkerServing,
    ZygoteGone,
    ZygoteUnborn,
    ZygoteUp,
)
from clusterd.core.machine import deadline, step
from clusterd.core.model import (
    BOOT,
    NO_SLOT,
    SPARE,
    Boot,
    Cluster,
    Failures,
    Generation,
    Kind,
    Mode,
    Phase,
    Stage,
    Twin,
    Watch,
    Worker,
)

SPARE_SLOTS = (Mode.RELAY, tuple(range(3, 8)))
AT_REST = draft(*ALL, steered=(0, 1, 2), ushered=SPARE_SLOTS).cluster
ODD = replace(ALL[1], slot=6)  # no number of it is another's
STARTING = worker(30, 1, Phase.STARTING, slot=6, ready_at=None, until=NOW + 60.0)
YOUNG = replace(ODD, ready_at=NOW - MIN_LIFE / 2)


def after(event: Event, *members: Worker | Generation, **changes: object) -> tuple[Cluster, list[Action]]:
    return step(draft(*members, **changes).cluster, event, NOW)


def tells(actions: list[Action], *kinds: What) -> list[Tell]:
    return [a for a in actions if isinstance(a, Tell) and (not kinds or a.what in kinds)]


# a new master


def test_a_new_master_with_nothing_to_do() -> None:
    """It says to everybody what is true, to the kernel and the usher too, and ends nobody."""
    _, actions = step(AT_REST, Adopted(), NOW)
    assert actions == [Serve(10), Serve(11), Serve(12), Steer((0, 1, 2)), Usher(*SPARE_SLOTS)]


def test_what_a_new_master_says_to_workers() -> None:
    """A former spare gets its sockets with the order again; who drains hears of the time that is left."""
    handed = replace(ALL[1], slot=1, handed=True)
    late = worker(20, 0, Phase.DRAINING, 1, until=NOW + rules.KILL_GRACE / 2)
    _, actions = after(Adopted(), ALL[0], handed, ALL[2], late)
    said = [a for a in actions if isinstance(a, Serve | Drain)]
    assert said == [Serve(10), Serve(11, 1), Serve(12), Drain(20, 0.0, 0.0)]


def test_a_new_master_after_the_end() -> None:
    """It leaves as its predecessor was to, once."""
    _, actions = step(Cluster(stopping=True, stopped=True, status=1), Adopted(), NOW)
    assert [a for a in actions if isinstance(a, Exit)] == [Exit(1)]
    _, actions = after(Adopted(), stopping=True, status=1)
    assert [a for a in actions if isinstance(a, Exit)] == [Exit(1)], "decided in this very step"


def test_a_new_master_ends_again_who_was_told_to_end() -> None:
    """And who is to end from this step on, once."""
    drains = worker(20, 0, Phase.DRAINING, 2, until=NOW + 9.0), worker(21, 0, Phase.DRAINING, 3, until=NOW + 9.0)
    _, actions = after(Adopted(), generation(2, ended=True), generation(3), *ALL, *drains)
    assert sorted(a.generation for a in actions if isinstance(a, EndGeneration)) == [2, 3]


# requests


def test_a_reload_before_anything_serves_is_a_start() -> None:
    """And is answered as one."""
    cluster, _ = step(Cluster(), Asked(Kind.RELOAD, THREE), NOW)
    assert cluster.rollout is not None and cluster.rollout.kind is Kind.START
    cluster, _ = step(Cluster(), Asked(Kind.TRY, THREE), NOW)
    assert cluster.rollout is not None and cluster.rollout.kind is Kind.TRY, "which serves nobody"


@pytest.mark.parametrize(("kind", "forgets"), [(Kind.RELOAD, True), (Kind.TRY, False)])
def test_what_a_change_begins_with(kind: Kind, forgets: bool) -> None:
    """A clean slate: no back-off, no watch of what it replaces. A try changes nothing."""
    seat, watch = Failures(3, NOW + 9.0), Watch(1, Kind.RELOAD, NOW + 9.0)
    others = ALL[1:]
    cluster, _ = after(
        Asked(kind, THREE), generation(9), *others, failures={0: seat}, watch=watch, previous=9, next_generation=10
    )
    assert (0 in cluster.failures, cluster.watch is not None) == (not forgets, not forgets)


def test_a_request_that_cannot_be() -> None:
    """It is answered, and told under its own number, of what serves."""
    cluster, actions = after(Asked(Kind.ROLLBACK, THREE), *ALL, next_rollout=7)
    why = "no previous generation is parked: there is none before the first reload, nor after a return"
    assert actions[:2] == [
        Finish(7, Kind.ROLLBACK, Outcome.REFUSED, 1, why),
        Tell(What.REFUSED, why, generation=1, number=7),
    ]
    assert cluster.next_rollout == 8 and cluster.rollout is None
    _, actions = step(Cluster(), Asked(Kind.ROLLBACK, THREE), NOW)
    assert actions[0] == Finish(1, Kind.ROLLBACK, Outcome.REFUSED, 0, why), "nothing serves yet"


def test_a_number_of_workers() -> None:
    """It is told, with the generation that serves."""
    _, actions = after(ScaleAsked(4, 3), *ALL)
    assert tells(actions, What.SCALED) == [Tell(What.SCALED, "from 3 to 4 workers", generation=1)]


# zygotes and twins


def test_a_zygote_that_is_up() -> None:
    """Its time begins, and its twin has every chance again."""
    booting = generation(1, boot=Boot.BOOTING, twin=Twin.NONE, twin_losses=2)
    cluster, _ = after(ZygoteUp(1), booting, *ALL)
    g = cluster.generations[1]
    assert (g.boot, g.since, g.twin_losses, g.twin) == (Boot.UP, NOW, 0, Twin.ASKED)


@pytest.mark.parametrize("event", [ZygoteUp(2), ZygoteUnborn(2), ZygoteGone(2, "killed")])
@pytest.mark.parametrize("boot", [Boot.BOOTING, Boot.LOST, Boot.UP])
def test_of_a_generation_that_was_told_to_end(event: Event, boot: Boot) -> None:
    """Whatever is said of its zygote changes nothing, and is no news: a worker of it still drains."""
    ended = generation(2, boot=boot, ended=True)
    cluster, actions = after(event, ended, *ALL, worker(20, 0, Phase.DRAINING, 2, until=NOW + 9.0))
    assert cluster.generations[2] == ended and not tells(actions)


def test_a_zygote_that_dies() -> None:
    """It is told of its own generation; of one that was lost before it is no news."""
    cluster, actions = after(ZygoteGone(1, "killed by SIGKILL"), generation(1, twin_losses=2), *ALL)
    assert tells(actions, What.ZYGOTE_LOST) == [Tell(What.ZYGOTE_LOST, "killed by SIGKILL", generation=1)]
    g = cluster.generations[1]
    assert PromoteTwin(1) in actions and MakeTwin(1) in actions and (g.twin, g.twin_losses) == (Twin.ASKED, 0)
    waits = {BOOT: Failures(2, NOW + 9.0)}
    cluster, actions = after(ZygoteGone(1, "x"), generation(1, boot=Boot.LOST, twin=Twin.NONE), *ALL, failures=waits)
    assert not tells(actions) and cluster.failures == waits


@pytest.mark.parametrize(("lived", "count"), [(MIN_LIFE / 2, 3), (MIN_LIFE, 1)])
def test_a_zygote_without_a_twin_that_dies(lived: float, count: int) -> None:
    """Soon after it was up that is one more failure of its boot, and the wait grows; later, the first."""
    there = generation(1, twinned=False, twin=Twin.NONE, since=NOW - lived)
    cluster, actions = after(ZygoteGone(1, "x"), there, *ALL, failures={BOOT: Failures(2, NOW - 5.0)})
    assert cluster.failures[BOOT].count == count and cluster.generations[1].boot is Boot.LOST
    assert tells(actions, What.BOOT_FAILED) == [Tell(What.BOOT_FAILED, "x", generation=1)]


def test_an_import_that_fails_late() -> None:
    """However long it took, it is one more failure: it was never up."""
    there = generation(1, boot=Boot.BOOTING, twin=Twin.NONE, since=NOW - 30.0)
    cluster, _ = after(ZygoteGone(1, "x"), there, *ALL, failures={BOOT: Failures(2, NOW - 40.0)})
    assert cluster.failures[BOOT].count == 3


@pytest.mark.parametrize(
    ("twin", "since", "losses"),
    [
        (Twin.UP, NOW - MIN_LIFE, 0),
        (Twin.UP, NOW - MIN_LIFE / 2, 2),
        (Twin.ASKED, NOW - 60.0, 2),
        (Twin.NONE, NOW - 60.0, 1),
    ],
)
def test_a_twin_that_dies(twin: Twin, since: float, losses: int) -> None:
    """It counts against twins unless it has lived; of one that was not there nothing counts."""
    cluster, _ = after(TwinGone(1), generation(1, twin=twin, twin_since=since, twin_losses=1), *ALL)
    assert cluster.generations[1].twin_losses == losses


def test_a_twin_that_is_up() -> None:
    """Its life begins when it is first said."""
    asked = generation(1, twin=Twin.ASKED, twin_since=NOW - 60.0)
    assert after(TwinUp(1), asked, *ALL)[0].generations[1].twin_since == NOW
    there = generation(1, twin=Twin.UP, twin_since=NOW - 60.0)
    assert after(TwinUp(1), there, *ALL)[0].generations[1].twin_since == NOW - 60.0


# workers


@pytest.mark.parametrize(
    ("event", "who", "told"),
    [
        (WorkerReady(30), STARTING, Tell(What.WORKER_READY, "", 30, 6, 1)),
        (WorkerServing(11), replace(ODD, accepting=False), Tell(What.WORKER_REPLACED, "", 11, 6, 1)),
        (WorkerServing(11), ODD, None),  # said again, to a new master
        (WorkerServing(11), replace(ODD, phase=Phase.DRAINING, accepting=False, until=NOW + 9.0), None),  # too late
        (WorkerDraining(11), ODD, Tell(What.WORKER_LEFT, "", 11, 6, 1)),
        (WorkerGone(11, "killed"), ODD, Tell(What.WORKER_DIED, "killed", 11, 6, 1)),
        (WorkerGone(11, "killed", "do this"), ODD, Tell(What.WORKER_DIED, "killed: do this", 11, 6, 1)),
        (WorkerGone(11, "killed"), replace(ODD, phase=Phase.DRAINING), None),
        (WorkerGone(11, "killed"), replace(ODD, killed=True), None),
        (WorkerHung(11, "silent", 5.0), ODD, Tell(What.WORKER_HUNG, "silent", 11, 6, 1)),
        (WorkerHung(11, "silent", 5.0), replace(ODD, phase=Phase.DRAINING, until=NOW + 9.0), None),
        (WorkerHung(30, "silent", 5.0), STARTING, None),
    ],
)
def test_what_is_told_of_a_worker(event: Event, who: Worker, told: Tell | None) -> None:
    """Once, of the right one, where it was, and of which generation; what is expected is no news."""
    _, actions = after(event, ALL[0], who, ALL[2])
    assert tells(actions) == ([told] if told else [])


def test_a_worker_of_a_rollout_is_no_replacement() -> None:
    """That it serves is the rollout's to tell."""
    new = replace(ODD, id=20, generation=2, accepting=False)
    committed = rollout(Stage.COMMITTED, 3, 3)
    cluster, actions = after(WorkerServing(20), generation(2), *ALL, new, rollout=committed)
    assert cluster.workers[20].accepting and not tells(actions, What.WORKER_REPLACED)
    preparing = rollout(Stage.PREPARING, 0, 3)
    _, actions = after(WorkerServing(11), generation(2), replace(ODD, accepting=False), rollout=preparing)
    assert tells(actions) == [Tell(What.WORKER_REPLACED, "", 11, 6, 1)], "of the generation that serves meanwhile"


@pytest.mark.parametrize("event", [WorkerGone(11, "killed"), WorkerHung(11, "silent", 5.0), WorkerDraining(11)])
def test_at_a_stop_nothing_is_told_of_workers(event: Event) -> None:
    """They all end."""
    _, actions = after(event, ALL[0], replace(ODD, until=NOW + 1.0), ALL[2], stopping=True)
    assert not tells(actions)


def test_one_that_hangs() -> None:
    """It has its grace and the time to report and leave; its seat counts it as lost."""
    cluster, actions = after(WorkerHung(11, "silent", 5.0), ALL[0], YOUNG, ALL[2])
    assert cluster.workers[11].until == NOW + 5.0 + rules.KILL_GRACE
    assert Drain(11, 0.0, 5.0) in actions and cluster.failures[1].count == 1
    begins = replace(ODD, accepting=False, until=NOW + 9.0)
    cluster, _ = after(WorkerHung(11, "silent", 5.0, accepts=True), ALL[0], begins, ALL[2])
    assert not cluster.workers[11].accepting, "it had not begun to"
    waits = replace(YOUNG, phase=Phase.READY, accepting=False)
    cluster, actions = after(WorkerHung(11, "silent", 5.0), ALL[0], waits, ALL[2])
    assert Kill(11) in actions, "it has nothing to finish"
    _, actions = step(cluster, WorkerGone(11, "killed by SIGKILL"), NOW)
    assert tells(actions, What.WORKER_DIED) == [Tell(What.WORKER_DIED, "silent", 11, 6, 1)]


def test_one_that_serves_has_no_deadline() -> None:
    """It had one to begin by; who drains keeps its own, whatever it says."""
    cluster, _ = after(WorkerServing(11), ALL[0], replace(ODD, accepting=False, until=NOW + 9.0), ALL[2])
    assert (cluster.workers[11].accepting, cluster.workers[11].until) == (True, None)
    drains = replace(ODD, phase=Phase.DRAINING, accepting=False, until=NOW + 9.0)
    cluster, _ = after(WorkerServing(11), ALL[0], drains, ALL[2])
    assert (cluster.workers[11].accepting, cluster.workers[11].until) == (False, NOW + 9.0)


@pytest.mark.parametrize("event", [WorkerGone(11, "killed"), WorkerDraining(11)])
@pytest.mark.parametrize(("born", "before", "count"), [(YOUNG, 0, 1), (YOUNG, 1, 2), (ODD, 2, 0)])
def test_a_seat_that_loses_its_worker(event: Event, born: Worker, before: int, count: int) -> None:
    """One that hardly lived counts, and from the second on is told as its trouble; one that lived forgives it all."""
    failures = {1: Failures(before, NOW - 1.0)} if before else {}
    cluster, _ = after(event, ALL[0], born, ALL[2], failures=failures)
    assert (cluster.failures[1].count if 1 in cluster.failures else 0) == count
    assert bool(cluster.problem) == (count >= 2)


@pytest.mark.parametrize(("seat", "fails"), [(0, False), (1, True)])
def test_who_dies_while_others_are_prepared(seat: int, fails: bool) -> None:
    """One at a time: whoever is being prepared is the rollout's failure; one that serves already counts, no more."""
    new = worker(20, 0, generation=2), worker(21, 1, Phase.READY, 2)
    preparing = rollout(Stage.SOAKING, 1, 2)
    one = replace(THREE, surge=1)
    cluster, _ = after(WorkerGone(20 + seat, "killed"), generation(2, one), *ALL[1:], *new, rollout=preparing)
    assert cluster.rollout is not None
    assert (cluster.rollout.stage is Stage.RETURNING) == fails and cluster.rollout.deaths == (not fails)


# deadlines


def test_no_deadlines_but_those_of_workers_at_a_stop() -> None:
    """What boots is not waited for any more."""
    last = worker(10, 0, Phase.DRAINING, until=NOW + 3.0)
    booting = generation(2, boot=Boot.BOOTING, since=NOW - 1.0)
    assert deadline(draft(booting, last, stopping=True).cluster, NOW) == NOW + 3.0
    assert deadline(draft(booting, stopping=True).cluster, NOW) is None
    assert deadline(draft(booting, last).cluster, NOW + 1.0) == NOW + 3.0
    assert deadline(draft(booting).cluster, NOW) == NOW - 1.0 + THREE.ready_timeout


def test_who_was_killed_has_no_deadline() -> None:
    """Also one that says it drains once it has been: nothing more can be done about it, and the loop must rest."""
    killed = worker(10, 0, killed=True)
    cluster, _ = after(WorkerDraining(10), killed, *ALL[1:])
    alone = replace(cluster, workers={10: cluster.workers[10]})
    assert alone.workers[10].phase is Phase.DRAINING and deadline(alone, NOW) is None
    assert deadline(draft(replace(killed, until=NOW - 1.0)).cluster, NOW) is None


def test_a_spare_that_is_known_to_be_dead_gets_no_seat() -> None:
    """Whoever reaps it may be late; nor is one told to serve that died in its own seat."""
    spare = worker(40, SPARE, Phase.READY, slot=NO_SLOT)
    gone = WorkerGone(10, "killed by SIGKILL")
    _, actions = after(gone, *ALL, spare)
    assert [a for a in actions if isinstance(a, Serve | Fork)] == [Serve(40, 0)]
    _, actions = after(gone, *ALL, replace(spare, dead=True))
    assert [(type(a), a.worker) for a in actions if isinstance(a, Serve | Fork)] == [(Fork, 100)]
    _, actions = after(Adopted(), worker(30, 1, Phase.READY, slot=6, dead=True), ALL[0], ALL[2])
    assert [a for a in actions if isinstance(a, Serve)] == [Serve(10), Serve(12)]


def test_a_seat_that_is_filled_waits_for_no_back_off() -> None:
    """Its successor is on its way: what is waited for is that; and once it is ready, that it has lived."""
    failures = {1: Failures(2, NOW + 5.0)}
    others = ALL[0], ALL[2]
    assert deadline(draft(*others, failures=failures).cluster, NOW) == NOW + 5.0
    assert deadline(draft(*others, STARTING, failures=failures).cluster, NOW) == STARTING.until
    lives = replace(YOUNG, ready_at=NOW)
    assert deadline(draft(*others, lives, failures=failures).cluster, NOW) == NOW + MIN_LIFE


def test_a_boot_that_failed_is_waited_for() -> None:
    """Lost, until its back-off is over; once up, until it has lived."""
    failures = {BOOT: Failures(2, NOW + 5.0)}
    lost = generation(1, boot=Boot.LOST, twin=Twin.NONE)
    assert deadline(draft(lost, *ALL, failures=failures).cluster, NOW) == NOW + 5.0
    assert deadline(draft(lost, *ALL, failures=failures).cluster, NOW + 5.0) is None
    up = generation(1, since=NOW)
    assert deadline(draft(up, *ALL, failures=failures).cluster, NOW) == NOW + MIN_LIFE

"""What is told of each rollout, and answered to who asked: once, of the right one, in this order."""

from __future__ import annotations

from dataclasses import replace

import pytest
from played import POLICIES, at_rest, started
from world import World

from clusterd.core.actions import Finish, Outcome, Tell, What
from clusterd.core.events import Asked, Passed, StopAsked, WorkerDraining, WorkerGone, WorkerHung
from clusterd.core.model import BOOT, Cluster, Kind, Mode, Phase, Stage, Watch

ALL, ONE = POLICIES["all"], POLICIES["one"]
DIED = "exited with status 1"


def story(world: World, begin: int = 0) -> list[str]:
    """What was told of generations and answered, each in a line; what is told of workers has tests of its own."""
    lines = []
    for action in world.actions[begin:]:
        if isinstance(action, Tell) and action.worker is None:
            where = [f"{name} {value}" for name in ("generation", "number") if (value := getattr(action, name))]
            lines.append(": ".join(filter(None, [" ".join([action.what.value, *where]), action.text])))
        elif isinstance(action, Finish):
            ended = f"answered #{action.number} {action.kind} {action.outcome} generation {action.generation}"
            lines.append(f"{ended} after {action.seconds:g} s" + (f": {action.reason}" if action.reason else ""))
    return lines


def until_moved(world: World, moved: int, upto: int) -> None:
    while not ((r := world.cluster.rollout) and r.moved == moved and r.upto == upto):
        if world.pending:
            world.deliver(0)
        else:
            assert world.pass_time()


def test_a_start() -> None:
    """Without a soak: nobody serves meanwhile. Without a watch: there is nothing to go back to."""
    world = started(ALL)
    assert story(world) == [
        "begun generation 1 number 1: start",
        "committed generation 1 number 1",
        "answered #1 start done generation 1 after 0 s",
        "started generation 1 number 1",
    ]
    assert world.cluster.watch is None and world.cluster.previous is None


@pytest.mark.parametrize("watch", [0.0, 0.5, 30.0])
def test_a_reload(watch: float) -> None:
    """It is watched for as long as the file says, or not at all."""
    world = started(ALL)
    begin = len(world.actions)
    world.event(Asked(Kind.RELOAD, replace(ALL, watch=watch)))
    while world.cluster.rollout is not None:
        if world.pending:
            world.deliver(0)
        else:
            assert world.pass_time()
    until = Watch(2, Kind.RELOAD, world.now + watch) if watch else None
    assert world.cluster.watch == until
    world.quiesce()
    assert story(world, begin) == [
        "begun generation 2 number 2: reload",
        "committed generation 2 number 2",
        "answered #2 reload done generation 2 after 2 s",
        "done generation 2 number 2",
        *(["settled generation 2 number 2"] if watch else []),
    ]


def test_a_try() -> None:
    """It soaks as the reload would, and is gone."""
    world = started(ALL)
    begin = len(world.actions)
    world.event(Asked(Kind.TRY, ALL))
    world.quiesce()
    assert story(world, begin) == [
        "begun generation 2 number 2: try",
        "answered #2 try done generation 2 after 2 s",
        "done generation 2 number 2",
        "generation-gone generation 2",
    ]


def test_a_try_soaks_where_nobody_serves() -> None:
    """A reload would not: there somebody waits. A try is to find out what the code is like."""
    world = World(cluster=Cluster(strict=False), unbootable=frozenset({1}))
    world.event(Asked(Kind.START, ALL))
    world.go_on(1)
    begin = len(world.actions)
    world.event(Asked(Kind.TRY, ALL))
    world.go_on(3)
    assert "answered #2 try done generation 2 after 2 s" in story(world, begin)


@pytest.mark.parametrize(("how", "why"), [("broken", f"worker 4 (slot 0): {DIED}"), ("unbootable", "SyntaxError")])
def test_a_reload_that_is_refused(how: str, why: str) -> None:
    """Its failure is the answer's and the record's."""
    world = started(ALL)
    begin = len(world.actions)
    setattr(world, how, frozenset({2}))
    world.event(Asked(Kind.RELOAD, ALL))
    world.quiesce()
    assert story(world, begin) == [
        "begun generation 2 number 2: reload",
        f"answered #2 reload refused generation 2 after 0 s: {why}",
        f"refused generation 2 number 2: {why}",
        "generation-gone generation 2",
    ]


def test_a_reload_that_is_undone() -> None:
    """One worker at a time, and the second is broken: nothing was committed as a whole, so nothing is 'returned'."""
    world = started(ONE)
    begin = len(world.actions)
    world.event(Asked(Kind.RELOAD, ONE))
    until_moved(world, 1, 2)
    world.broken = frozenset({2})
    second = next(w for w in world.cluster.workers.values() if w.generation == 2 and w.seat == 1)
    world.die(second.id)
    world.quiesce()
    why = f"undone: worker {second.id} (slot 1): killed by SIGKILL"
    assert story(world, begin) == [
        "begun generation 2 number 2: reload",
        "committed generation 2 number 2",
        f"answered #2 reload refused generation 2 after 2 s: {why}",
        f"undone generation 2 number 2: {why}",
        "generation-gone generation 2",
    ]
    at_rest(world, 3, 1)


def test_a_reload_that_is_returned() -> None:
    """Committed, its workers do not begin to accept: that it goes back is told when it begins to, and when it has."""
    world = started(ALL)
    begin = len(world.actions)
    world.deaf = frozenset({2})
    world.event(Asked(Kind.RELOAD, ALL))
    world.quiesce()
    last = [a for a in world.actions if isinstance(a, Tell) and a.what is What.WORKER_TIMEOUT]
    assert len(last) == 3 and {a.text for a in last} == {"did not begin to accept within 60 s"}
    why = f"its workers keep dying, the last: worker 6 (slot 2): {last[0].text}"
    assert story(world, begin) == [
        "begun generation 2 number 2: reload",
        "committed generation 2 number 2",
        f"returning generation 2 number 2: {why}",
        f"answered #2 reload returned generation 2 after 62 s: {why}",
        f"returned generation 2 number 2: {why}",
        "generation-gone generation 2",
    ]
    at_rest(world, 3, 1)


@pytest.mark.parametrize(("workers", "deaths"), [(1, 3), (3, 3), (5, 5)])
def test_a_reload_that_is_returned_while_it_is_watched(workers: int, deaths: int) -> None:
    """After as many deaths as it has workers, and three at least; what failed before it is no matter any more."""
    policy = replace(ALL, workers=workers)
    world = started(policy)
    world.event(Asked(Kind.RELOAD, policy))
    world.go_on(5)
    begin = len(world.actions)
    for count in range(deaths):
        assert world.cluster.current == 2 and (count < 2 or world.cluster.failures)
        while world.pending or not list(world.cluster.accepting(generation=2)):
            if world.pending:
                world.deliver(0)
            else:
                assert world.pass_time()
        last = max(world.cluster.accepting(generation=2), key=lambda w: w.id)
        world.event(WorkerHung(last.id, "hangs", 5.0))
    assert (world.cluster.current, world.cluster.previous, world.cluster.failures) == (1, None, {})
    began = world.now
    world.quiesce()
    why = f"its workers keep dying, the last: worker {last.id} ({last.place}): hangs"
    assert [line.partition(" s: ")[0] if line.startswith("answered") else line for line in story(world, begin)] == [
        f"returning generation 2 number 2: {why}",
        "answered #2 reload returned generation 2 after 0",
        f"returned generation 2 number 2: {why}",
        "generation-gone generation 2",
    ]
    assert world.now - began < 60
    at_rest(world, workers, 1)


def test_a_return_that_takes_too_long() -> None:
    """Each batch has the time of a boot: with one at a time that of three, then whoever waits is told how it stands."""
    world = started(ONE)
    world.event(Asked(Kind.RELOAD, ONE))
    until_moved(world, 1, 2)
    world.broken = frozenset({1, 2})
    second = max(world.cluster.workers)
    began = world.now
    world.die(second)
    world.go_on(179)
    assert world.cluster.rollout is not None and world.cluster.rollout.stage is Stage.RETURNING
    world.go_on(2)
    (answer,) = (line for line in story(world) if line.startswith("answered #2"))
    why = f"undone: worker {second} (slot 1): killed by SIGKILL; generation 1 does not serve everywhere yet"
    assert answer == f"answered #2 reload refused generation 2 after {began + 180 - 100:g} s: {why}"


def test_a_return_all_at_once_has_the_time_of_one_boot() -> None:
    """Whatever the number of workers."""
    world = started(ALL)
    world.deaf = frozenset({2})
    world.event(Asked(Kind.RELOAD, ALL))
    until_moved(world, 3, 3)
    world.broken = frozenset({1})
    for w in list(world.cluster.accepting(generation=1)):
        world.die(w.id)
    world.go_on(60.5)
    assert world.cluster.rollout is not None and world.cluster.rollout.stage is Stage.RETURNING
    world.go_on(59)
    assert world.cluster.rollout is not None and world.cluster.rollout.stage is Stage.RETURNING
    world.go_on(1)
    (answer,) = (line for line in story(world) if line.startswith("answered #2"))
    assert answer.startswith("answered #2 reload returned generation 2 after 122 s: ")
    assert answer.endswith("; generation 1 does not serve everywhere yet")


def test_another_change_while_one_is_returned() -> None:
    """Who asked for the first is answered with why it failed, and that it was not at its end."""
    world = started(ALL)
    world.deaf = frozenset({2})
    world.event(Asked(Kind.RELOAD, ALL))
    until_moved(world, 3, 3)
    world.broken = frozenset({1})
    for w in list(world.cluster.accepting(generation=1)):
        world.die(w.id)
    world.go_on(60.5)
    world.event(Asked(Kind.RELOAD, ALL))
    (answer,) = (line for line in story(world) if line.startswith("answered #2"))
    assert answer.startswith("answered #2 reload returned generation 2")
    assert "; superseded by #3 before generation 1 served everywhere" in answer


@pytest.mark.parametrize(("how", "why"), [("broken", f"worker 1 (slot 0): {DIED}"), ("unbootable", "SyntaxError")])
def test_the_first_start_that_fails(how: str, why: str) -> None:
    """It ends the service, and the status says why until the end."""
    world = World()
    setattr(world, how, frozenset({1}))
    world.event(Asked(Kind.START, ALL))
    while world.cluster.rollout is not None:
        world.deliver(0)
    assert (world.cluster.stopping, world.cluster.status, world.cluster.problem) == (True, 1, why)
    world.quiesce()
    assert world.exited == 1
    assert story(world) == [
        "begun generation 1 number 1: start",
        f"answered #1 start refused generation 1 after 0 s: {why}",
        f"start-failed generation 1 number 1: {why}",
        "stopped",
    ]


def test_a_later_start_whose_import_fails() -> None:
    """It stays, says why, and imports again, with back-off."""
    world = World(cluster=Cluster(strict=False), unbootable=frozenset({1}))
    world.event(Asked(Kind.START, ALL))
    while world.cluster.rollout is not None:
        world.deliver(0)
    assert world.cluster.failures.keys() == {BOOT} and world.cluster.failures[BOOT].until > world.now
    assert (world.cluster.problem, world.cluster.current) == ("SyntaxError", 1)
    assert world.cluster.ushered[0] is Mode.REFUSE
    world.go_on(0.2)
    world.unbootable = frozenset()
    world.quiesce()
    lines = story(world)
    assert lines[:3] == [
        "begun generation 1 number 1: start",
        "answered #1 start refused generation 1 after 0 s: SyntaxError",
        "degraded generation 1 number 1: SyntaxError",
    ]
    assert set(lines[3:-1]) == {"boot-failed generation 1: SyntaxError"} and lines[-1] == "recovered generation 1"


def test_a_later_start_whose_workers_die() -> None:
    """Its zygote is well: the boot has not failed, and workers are tried again without another import."""
    world = World(cluster=Cluster(strict=False), broken=frozenset({1}))
    world.event(Asked(Kind.START, ALL))
    while world.cluster.rollout is not None:
        world.deliver(0)
    why = f"worker 1 (slot 0): {DIED}"
    assert BOOT not in world.cluster.failures and world.cluster.problem == why
    assert story(world)[-2:] == [
        f"answered #1 start refused generation 1 after 0 s: {why}",
        f"degraded generation 1 number 1: {why}",
    ]


def test_a_stop_amid_a_reload() -> None:
    """The reload is answered before the service ends."""
    world = started(ALL)
    begin = len(world.actions)
    world.event(Asked(Kind.RELOAD, ALL))
    world.event(StopAsked())
    assert world.outcome(2) is Outcome.STOPPED
    world.quiesce()
    assert story(world, begin)[:4] == [
        "begun generation 2 number 2: reload",
        "answered #2 reload stopped generation 2 after 0 s: the service was told to stop",
        "superseded generation 2 number 2: the service was told to stop",
        "stopping",
    ]
    assert story(world)[-1] == "stopped" and world.exited == 0


def test_a_stop_ends_the_watch() -> None:
    """Deaths in a service that stops bring nothing back."""
    world = started(ALL)
    world.event(Asked(Kind.RELOAD, ALL))
    world.go_on(5)
    begin = len(world.actions)
    world.event(StopAsked())
    assert world.cluster.watch is None
    for worker in list(world.cluster.workers):
        world.event(WorkerGone(worker, "killed by SIGKILL"))
    world.quiesce()
    assert story(world, begin) == ["stopping", "stopped"]


def test_a_reload_is_done_when_nobody_older_accepts() -> None:
    """Then, and not when they have finished what they had."""
    world = started(ALL)
    old = list(world.cluster.workers)
    world.event(Asked(Kind.RELOAD, ALL))
    held: list[object] = []
    while world.cluster.rollout is not None:
        held += [e for e in world.pending if getattr(e, "worker", None) in old]
        world.pending = [e for e in world.pending if getattr(e, "worker", None) not in old]
        if world.pending:
            world.deliver(0)
        elif sum(isinstance(e, WorkerDraining) for e in held) == len(old):
            break
        else:
            assert world.pass_time()
    assert world.cluster.rollout is not None, "the old ones may still accept"
    for number, worker in enumerate(old):
        assert world.cluster.rollout is not None and world.cluster.workers[worker].phase is Phase.DRAINING
        world.event(WorkerDraining(worker))
        assert (world.cluster.rollout is None) == (number == len(old) - 1)
    assert world.outcome(2) is Outcome.DONE and set(old) <= world.cluster.workers.keys()
    world.event(Passed())
    assert set(old) <= world.cluster.workers.keys()

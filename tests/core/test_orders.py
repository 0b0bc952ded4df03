"""The rules one at a time, on states made for them: who is killed, forked, told to serve or drain, and who is not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from states import ALL, NOW, THREE, draft, generation, rollout, worker

from clusterd.core import rules
from clusterd.core.actions import BootZygote, Drain, EndGeneration, Fork, Kill, MakeTwin, Serve, Tell, What
from clusterd.core.backoff import MIN_LIFE
from clusterd.core.draft import Draft
from clusterd.core.model import (
    BOOT,
    NO_SLOT,
    SPARE,
    Boot,
    Failures,
    Kind,
    Phase,
    Stage,
    Twin,
    Worker,
)

# stop


def test_a_stop() -> None:
    """Who serves drains in the stop's time, who drains is hastened, never slowed, and who does not serve is killed."""
    policy = replace(THREE, stop_timeout=5.0, linger=3.0)
    limit = NOW + 5.0 + rules.KILL_GRACE
    d = draft(
        generation(1, policy),
        worker(10, 0, until=NOW + 2.0),  # told to serve, and has until then to begin
        worker(11, 1, Phase.STARTING),
        worker(12, 2, Phase.READY),
        worker(13, 0, Phase.DRAINING, until=limit + 1),
        worker(14, 0, Phase.DRAINING, until=limit - 1),
        worker(15, 0, Phase.DRAINING),
        worker(16, 0, Phase.DRAINING, killed=True),
        stopping=True,
    )
    rules.stop(d)
    order = [a for a in d.actions if isinstance(a, Kill | Drain)]
    assert order == [
        Drain(10, rules.STOP_LINGER, 5.0),
        Kill(11),
        Kill(12),
        Drain(13, rules.STOP_LINGER, 5.0),
        Drain(15, rules.STOP_LINGER, 5.0),
    ]
    assert {w.id: w.until for w in d.cluster.workers.values()} == {
        10: limit,
        11: None,
        12: None,
        13: limit,
        14: limit - 1,
        15: limit,
        16: None,
    }
    short = draft(generation(1, replace(policy, linger=0.5)), ALL[0], stopping=True)
    rules.stop(short)
    assert short.actions == [Drain(10, 0.5, 5.0)]


def test_a_stop_ends_zygotes_last() -> None:
    """When no worker is left; then it is told, and the master leaves with the status that was decided."""
    d = draft(generation(2), stopping=True, status=1)
    rules.stop(d)
    assert [str(type(a).__name__) for a in d.actions] == ["EndGeneration", "EndGeneration", "Tell", "Exit"]
    assert d.actions[:2] == [EndGeneration(1), EndGeneration(2)]
    assert d.cluster.stopped and not d.cluster.generations


# overdue


@pytest.mark.parametrize(
    ("late", "what", "text"),
    [
        (worker(10, 0, Phase.STARTING), What.WORKER_TIMEOUT, "not ready within 60 s"),
        (worker(10, 0, Phase.READY), What.WORKER_TIMEOUT, "not ready within 60 s"),
        (worker(10, 0, accepting=False), What.WORKER_TIMEOUT, "did not begin to accept within 60 s"),
        (worker(10, 0, Phase.STARTING, reason="KeyError"), What.WORKER_TIMEOUT, "KeyError"),
        (worker(10, 0, Phase.DRAINING), What.WORKER_CUT, "did not finish draining in time"),
        (worker(10, 0, Phase.DRAINING, reason="hangs"), What.WORKER_CUT, "hangs"),
    ],
    ids=["starts", "is ready", "is deaf", "said why", "drains", "hangs"],
)
def test_who_is_late_is_killed(late: Worker, what: What, text: str) -> None:
    """At its time, not before it, and once; what it was late with is told, of the right one."""
    d = draft(replace(late, slot=4, until=NOW))
    rules.overdue(d)
    assert d.actions == [Tell(what, text, worker=10, slot=4, generation=1), Kill(10)]
    assert d.cluster.workers[10].killed and d.cluster.workers[10].until is None
    if what is What.WORKER_TIMEOUT:
        assert d.cluster.workers[10].reason == text
    for other in (replace(late, until=NOW + 0.1), replace(late, until=None), replace(late, until=NOW, killed=True)):
        d = draft(other)
        rules.overdue(d)
        assert d.actions == []


# zygotes


def test_a_boot_that_takes_too_long() -> None:
    """Its zygote is ended, and the reason says what to look at."""
    d = draft(generation(1, boot=Boot.BOOTING, twin=Twin.NONE, since=NOW - 60.0))
    rules.zygotes(d)
    why = "the application was not imported within 60 s: its import waits, or serves by itself"
    assert d.actions == [EndGeneration(1), Tell(What.BOOT_FAILED, why, generation=1)]
    assert d.cluster.problem == why and d.cluster.generations[1].boot is Boot.LOST
    d = draft(generation(1, boot=Boot.BOOTING, twin=Twin.NONE, since=NOW - 59.0))
    rules.zygotes(d)
    assert d.actions == []


def test_a_generation_that_nobody_will_fork_from() -> None:
    """It is told to end once, known while it has workers, and then forgotten and told of."""
    old = generation(3)
    d = draft(old, worker(10, 0, Phase.DRAINING, generation=3))
    rules.zygotes(d)
    assert d.actions == [EndGeneration(3)] and d.cluster.generations[3].ended
    d.actions.clear()
    rules.zygotes(d)
    assert d.actions == []
    d.cluster = d.cluster.without_worker(10)
    rules.zygotes(d)
    assert d.actions == [Tell(What.GENERATION_GONE, generation=3)] and 3 not in d.cluster.generations


@pytest.mark.parametrize(
    ("failures", "boots"),
    [
        ({}, True),
        ({BOOT: Failures(1, NOW)}, True),
        ({BOOT: Failures(1, NOW + 0.1)}, False),
        ({0: Failures(1, NOW + 9)}, True),
    ],
    ids=["at once", "after the wait", "before", "a worker's is nothing to it"],
)
def test_a_lost_zygote_boots_again(failures: dict[int, Failures], boots: bool) -> None:
    """With back-off; its time counts from then."""
    d = draft(generation(1, boot=Boot.LOST, twin=Twin.UP), failures=failures)
    rules.zygotes(d)
    assert d.actions == ([BootZygote(1)] if boots else [])
    if boots:
        there = d.cluster.generations[1]
        assert (there.boot, there.since, there.twin) == (Boot.BOOTING, NOW, Twin.NONE)


@pytest.mark.parametrize(("failure", "boots"), [("", True), ("SyntaxError", False)])
def test_a_target_boots_unless_its_rollout_has_failed(failure: str, boots: bool) -> None:
    """Whatever the current one's back-off: they are not of one import."""
    d = draft(
        generation(2, boot=Boot.LOST),
        rollout=rollout(Stage.COMMITTED, failure=failure),
        failures={BOOT: Failures(3, NOW + 9)},
    )
    rules.zygotes(d)
    assert d.actions == ([BootZygote(2)] if boots else [])
    d = draft(
        generation(1, boot=Boot.LOST),
        generation(2),
        rollout=rollout(Stage.PREPARING),
        failures={BOOT: Failures(3, NOW + 9)},
    )
    rules.zygotes(d)
    assert d.actions == [], "the base waits for its back-off, also while another is the target"


@pytest.mark.parametrize(
    ("changes", "made"),
    [
        ({"twin": Twin.NONE}, True),
        ({"twin": Twin.ASKED}, False),
        ({"twin": Twin.UP}, False),
        ({"twin": Twin.NONE, "twinned": False}, False),
        ({"twin": Twin.NONE, "twin_losses": 2}, True),
        ({"twin": Twin.NONE, "twin_losses": 3}, False),
        ({"twin": Twin.NONE, "boot": Boot.BOOTING, "since": NOW}, False),
    ],
)
def test_twins(changes: dict[str, object], made: bool) -> None:
    """One for who is up and can have one, until three in a row hardly lived."""
    d = draft(generation(1, **changes))
    rules.zygotes(d)
    assert d.actions == ([MakeTwin(1)] if made else [])


def test_nothing_of_zygotes_at_a_stop() -> None:
    """They are ended when the last worker has left."""
    d = draft(generation(1, boot=Boot.LOST, twin=Twin.NONE), generation(3), stopping=True)
    rules.zygotes(d)
    assert d.actions == []


# boot_failed


@pytest.mark.parametrize(
    ("stage", "boot", "fails"),
    [
        (Stage.PREPARING, Boot.UP, True),
        (Stage.SOAKING, Boot.UP, True),
        (Stage.COMMITTED, Boot.UP, False),
        (Stage.COMMITTED, Boot.BOOTING, True),
        (Stage.RETURNING, Boot.BOOTING, False),
    ],
)
def test_a_zygote_that_is_lost_amid_a_rollout(stage: Stage, boot: Boot, fails: bool) -> None:
    """It is the rollout's failure while it needs it; its first failure stays the reason."""
    target = generation(2, boot=boot)
    d = draft(target, rollout=rollout(stage))
    rules.boot_failed(d, target, "killed")
    assert d.cluster.rollout is not None and d.cluster.rollout.failure == ("killed" if fails else "")
    assert (BOOT in d.cluster.failures) == (not fails) == bool(d.actions)
    assert (d.cluster.generations[2].boot, d.cluster.generations[2].twin) == (Boot.LOST, Twin.NONE)
    d = draft(target, rollout=rollout(stage, failure="SyntaxError"))
    rules.boot_failed(d, target, "killed")
    assert d.cluster.rollout is not None and d.cluster.rollout.failure == "SyntaxError"
    d = draft(target, rollout=rollout(Stage.PREPARING))
    rules.boot_failed(d, d.cluster.generations[1], "killed")
    assert d.cluster.rollout is not None and not d.cluster.rollout.failure, "the base's is the seats' own trouble"
    assert d.actions == [Tell(What.BOOT_FAILED, "killed", generation=1)] and d.cluster.problem == "killed"


# recycle, spend


def test_who_is_old_enough() -> None:
    """Who serves and was not followed yet, from when it was ready, and a tenth late at most; told of the right one."""
    policy = replace(THREE, max_age=40.0)
    d = draft(generation(1, policy), replace(ALL[0], slot=5))
    end = rules.end_of_life(d.cluster, d.cluster.workers[10])
    assert end is not None and NOW - 10.0 <= end < NOW - 6.0
    rules.recycle(d)
    assert d.actions == [Tell(What.WORKER_SPENT, "has served for 40 s", worker=10, slot=5, generation=1)]
    for other in (
        replace(ALL[0], phase=Phase.DRAINING),
        replace(ALL[0], phase=Phase.READY),
        replace(ALL[0], killed=True),
        replace(ALL[0], spent="has served enough"),
        replace(ALL[0], ready_at=None),
        replace(ALL[0], ready_at=NOW - 39.0),
    ):
        d = draft(generation(1, policy), other)
        rules.recycle(d)
        assert d.actions == []
        # What is no deadline in the past to whom it cannot apply: the loop would turn without a rest.
        assert rules.end_of_life(d.cluster, other) == (None if other.ready_at != NOW - 39.0 else end + 11.0)
    for d in (draft(generation(1, policy), ALL[0], stopping=True), draft(ALL[0])):
        rules.recycle(d)
        assert d.actions == []
    d = draft(ALL[0], stopping=True)
    rules.spend(d, ALL[0], "takes 3 GiB")
    assert d.actions == [] and d.cluster.workers == {10: ALL[0]}


# forks


def test_a_worker_in_every_seat() -> None:
    """Numbered on, in its slot, with the time of a start; not where one is, or back-off says later."""
    d = draft(ALL[1], failures={2: Failures(1, NOW + 0.1)})
    rules.forks(d)
    assert d.actions == [Fork(100, 1, 0)] and d.cluster.next_worker == 101
    assert d.cluster.workers[100] == Worker(100, 0, 0, 1, NOW, until=NOW + THREE.ready_timeout)
    d = draft(ALL[1], failures={2: Failures(1, NOW)})
    rules.forks(d)
    assert d.actions == [Fork(100, 1, 0), Fork(101, 1, 2)]
    for d in (draft(stopping=True), draft(generation(1, boot=Boot.BOOTING)), draft(*ALL)):
        rules.forks(d)
        assert d.actions == []


SPARES = replace(THREE, spares=1)


@pytest.mark.parametrize(
    ("changes", "taken"),
    [
        ({}, True),
        ({"phase": Phase.STARTING}, False),
        ({"killed": True}, False),
        ({"generation": 2}, False),
        ({"seat": SPARE - 1}, True),
    ],
    ids=["ready", "starts", "is killed", "older code", "another"],
)
def test_a_spare_takes_a_seat(changes: dict[str, object], taken: bool) -> None:
    """One that is ready, of the generation that is wanted; its life begins then, and its sockets come with it."""
    spare = replace(worker(20, SPARE, Phase.READY, slot=NO_SLOT), **changes)  # type: ignore[arg-type]
    d = draft(generation(1, SPARES), generation(2, SPARES), ALL[1], ALL[2], spare)
    rules.forks(d)
    assert d.actions == ([] if taken else [Fork(100, 1, 0)])
    if taken:
        assert d.cluster.workers[20] == replace(spare, seat=0, slot=0, handed=True, ready_at=NOW)


def test_who_is_ready_in_a_seat_is_no_spare() -> None:
    """A worker that is about to serve elsewhere is not taken from there."""
    d = draft(ALL[1], worker(20, 2, Phase.READY))
    rules.forks(d)
    assert d.actions == [Fork(100, 1, 0)] and d.cluster.workers[20].seat == 2


@pytest.mark.parametrize(
    ("changes", "made"),
    [
        ({}, True),
        ({"stopping": True}, False),
        ({"rollout": rollout(Stage.PREPARING)}, False),
        ({"rollout": rollout(Stage.PREPARING, kind=Kind.TRY)}, True),
        ({"failures": {SPARE: Failures(1, NOW + 1)}}, False),
    ],
    ids=["at rest", "stops", "changes", "tries", "backs off"],
)
def test_spares_are_made_when_all_is_served(changes: dict[str, object], made: bool) -> None:
    """They must not delay who serves."""
    d = draft(generation(1, SPARES), generation(2, SPARES), *ALL, **changes)
    rules.spares(d)
    assert d.actions == ([Fork(100, 1, NO_SLOT)] if made else [])
    d = draft(generation(1, SPARES), generation(2, SPARES), *ALL[:2], **changes)
    rules.spares(d)
    assert d.actions == [], "a seat is not served"
    d = draft(generation(1, SPARES), generation(2, SPARES), *ALL, worker(20, SPARE, Phase.STARTING), **changes)
    rules.spares(d)
    assert d.actions == [], "there is one"


def test_seats_that_a_rollout_has_not_come_to_are_left_alone() -> None:
    """Who is alive there serves on, whatever is prepared beside it; where nobody is, somebody has to be."""
    d = draft(generation(2), *ALL, rollout=rollout(Stage.PREPARING))
    rules.forks(d)
    assert d.actions == [Fork(100, 2, 0), Fork(101, 2, 1), Fork(102, 2, 2)]
    dying = replace(ALL[0], phase=Phase.DRAINING, accepting=False)
    prepared = [worker(20 + seat, seat, Phase.READY, generation=2) for seat in range(3)]
    d = draft(generation(2), dying, ALL[1], ALL[2], *prepared, rollout=rollout(Stage.SOAKING))
    rules.forks(d)
    assert d.actions == [Fork(100, 1, 0)]
    spent = replace(ALL[0], spent="has served enough")
    d = draft(generation(2), spent, ALL[1], ALL[2], *prepared, rollout=rollout(Stage.SOAKING))
    rules.forks(d)
    assert d.actions == [], "the target follows it"
    d = draft(generation(2), *ALL, rollout=rollout(Stage.PREPARING, failure="SyntaxError"))
    rules.forks(d)
    assert d.actions == [], "it is given up"


def test_one_heir_at_a_time() -> None:
    """Until it accepts the other spent ones wait; a seat that nobody serves does not."""
    spent = [replace(w, spent="has served enough") for w in ALL]
    d = draft(*spent)
    rules.forks(d)
    assert d.actions == [Fork(100, 1, 0)]
    d = draft(*spent, worker(20, 0))
    rules.forks(d)
    assert d.actions == [Fork(100, 1, 1)], "the first heir accepts"
    d = draft(spent[0], spent[1], worker(20, 0, Phase.STARTING))
    rules.forks(d)
    assert d.actions == [Fork(100, 1, 2)]
    gone = replace(spent[0], phase=Phase.DRAINING)
    d = draft(gone, spent[1], ALL[2], worker(20, 0, Phase.STARTING))
    rules.forks(d)
    assert d.actions == [Fork(100, 1, 1)], "who drains is no succession under way"


@pytest.mark.parametrize(
    ("coming", "forked"),
    [
        ([], 1),
        ([worker(20, 1, Phase.STARTING)], 0),
        ([worker(20, 1, Phase.READY)], 0),
        ([worker(20, 1)], 1),
        ([worker(20, 1, Phase.STARTING, killed=True)], 1),
        ([worker(20, SPARE, Phase.STARTING, slot=NO_SLOT)], 1),
    ],
    ids=["nobody", "one starts", "one is ready", "one serves", "one is killed", "a spare starts"],
)
def test_a_return_brings_back_as_many_at_a_time_as_the_rollout_moved(coming: list[Worker], forked: int) -> None:
    """As many as the machine was said to bear."""
    one = replace(THREE, surge=1)
    target = [worker(30 + seat, seat, generation=2) for seat in range(3)]
    returning = rollout(Stage.RETURNING, upto=0, failure="x")
    d = draft(generation(1, one), generation(2, one), *target, *coming, rollout=returning)
    rules.forks(d)
    assert sum(isinstance(a, Fork) for a in d.actions) == forked
    d = draft(generation(1, one), generation(2, one), *coming, rollout=rollout(Stage.COMMITTED, 3, 3))
    rules.forks(d)
    assert sum(isinstance(a, Fork) for a in d.actions) == 3, "only then: who died is replaced at once"


# serve, drain


def test_who_is_ready_and_wanted_serves() -> None:
    """With the time of a start to begin; a spare gets its sockets with the order."""
    d = draft(
        generation(2),
        worker(10, 0, Phase.READY),
        worker(11, 1, Phase.READY, slot=6, handed=True),
        worker(12, 2, Phase.READY, killed=True),
        worker(13, 2, Phase.READY, generation=2),
        worker(14, 2, Phase.STARTING),
        worker(15, SPARE, Phase.READY, slot=NO_SLOT),
    )
    rules.serve(d)
    assert d.actions == [Serve(10), Serve(11, 6)]
    assert d.cluster.workers[10].until == NOW + THREE.ready_timeout


def drained(d: Draft) -> tuple[list[int], list[int]]:
    rules.drain(d)
    return [a.worker for a in d.actions if isinstance(a, Drain)], [a.worker for a in d.actions if isinstance(a, Kill)]


def test_who_is_not_wanted_drains_once_the_other_accepts() -> None:
    """Not before: its seat would be served by nobody."""
    committed = rollout(Stage.COMMITTED, 3, 3)
    new = [worker(20 + seat, seat, generation=2, accepting=seat != 1) for seat in range(3)]
    d = draft(generation(2), *ALL, *new, rollout=committed)
    assert drained(d) == ([10, 12], [])
    assert d.cluster.workers[10].until == NOW + THREE.drain_timeout + rules.KILL_GRACE
    d = draft(generation(2), *ALL, *new, rollout=committed, stopping=True)
    assert drained(d) == ([], [])


def test_seats_that_are_not_come_to_yet_do_not_drain() -> None:
    """Nor those of the prepared, who are not killed for it; who was prepared for nothing is."""
    new = [worker(20, 0, generation=2), worker(21, 1, Phase.READY, generation=2)]
    d = draft(generation(2), *ALL, *new, rollout=rollout(Stage.PREPARING, 1, 2))
    assert drained(d) == ([10], [])
    stray = worker(22, 2, Phase.READY, generation=2)
    d = draft(generation(2), *ALL, *new, stray, rollout=rollout(Stage.PREPARING, 1, 2))
    assert drained(d) == ([10], [22])


def test_who_is_spent_drains_once_its_heir_accepts() -> None:
    """The heir stays."""
    spent = replace(ALL[0], spent="has served enough")
    d = draft(spent, ALL[1], ALL[2], worker(20, 0))
    assert drained(d) == ([10], [])
    d = draft(spent, ALL[1], ALL[2], worker(20, 0, accepting=False))
    assert drained(d) == ([], [])
    d = draft(spent, ALL[1], ALL[2])
    assert drained(d) == ([], [])


def test_who_is_too_many_drains_when_the_others_serve() -> None:
    """A seat that is given up: its worker goes when each seat that stays has one."""
    two = replace(THREE, workers=2)
    d = draft(generation(1, two), *ALL)
    assert drained(d) == ([12], [])
    d = draft(generation(1, two), ALL[0], ALL[2])
    assert drained(d) == ([], [])


# crowd


def test_the_oldest_make_room() -> None:
    """Those that drain, of more generations than there may be; who serves is left, of whatever generation."""
    two = replace(THREE, max_generations=2)
    members = [generation(n, two) for n in (1, 2, 3)]
    drains = worker(20, 0, Phase.DRAINING, generation=1, slot=4)
    serves = worker(21, 1, generation=1)
    killed = worker(22, 1, Phase.DRAINING, generation=1, killed=True)
    later = [worker(30, 0, Phase.DRAINING, generation=2), worker(31, 0, generation=3)]
    d = draft(*members, drains, serves, killed, *later, current=3)
    rules.crowd(d)
    why = "has to make room: 2 later generations have workers"
    assert d.actions == [Tell(What.WORKER_CUT, why, worker=20, slot=4, generation=1), Kill(20)]
    d = draft(*members, *later, current=3)
    rules.crowd(d)
    assert d.actions == []


# forgive


def test_who_lives_is_forgiven() -> None:
    """A second after it was ready; a seat that is no more has nothing to be forgiven."""
    failures = {seat: Failures(2, NOW - 5) for seat in (0, 1, 2, 7, SPARE)}
    young = replace(ALL[1], ready_at=NOW - 0.5)
    starting = worker(12, 2, Phase.STARTING, ready_at=None)
    d = draft(ALL[0], young, starting, failures=failures, problem="x")
    rules.forgive(d)
    assert d.cluster.failures.keys() == {1, 2} and d.cluster.problem and not d.actions


@pytest.mark.parametrize(
    ("boot", "lived", "forgiven"),
    [
        (Boot.UP, MIN_LIFE, True),
        (Boot.UP, MIN_LIFE / 2, False),
        (Boot.BOOTING, 60.0, False),
        (Boot.LOST, 60.0, False),
    ],
)
def test_a_boot_is_forgiven_when_the_zygote_lives(boot: Boot, lived: float, forgiven: bool) -> None:
    """A second after it was up; and not before anything is current."""
    there = generation(1, boot=boot, since=NOW - lived)
    d = draft(there, failures={BOOT: Failures(2, NOW)})
    rules.forgive(d)
    assert (BOOT not in d.cluster.failures) == forgiven
    d = draft(there, failures={BOOT: Failures(2, NOW)}, current=None)
    rules.forgive(d)
    assert BOOT in d.cluster.failures


@pytest.mark.parametrize(
    ("changes", "well"),
    [
        ({}, True),
        ({"stopping": True}, False),
        ({"rollout": rollout(Stage.PREPARING)}, False),
        ({"failures": {1: Failures(1, NOW), BOOT: Failures(1, NOW)}, "current": None}, False),
        ({"workers": {10: ALL[0]}}, False),
        ({"problem": ""}, False),
        ({"stopped": True}, False),
    ],
    ids=["all serve", "stops", "changes", "failures", "one serves", "was well", "is over"],
)
def test_all_is_well_again(changes: dict[str, object], well: bool) -> None:
    """When every seat is served and nothing fails: told once, of the current generation."""
    d = draft(generation(2), *ALL, **{"problem": "0/3 workers", **changes})
    rules.forgive(d)
    assert d.actions == ([Tell(What.RECOVERED, generation=1)] if well else [])
    assert (d.cluster.problem == "") == (well or changes.get("problem") == "")

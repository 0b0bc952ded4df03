"""The rules of rollouts one at a time, on states made for them: what is waited for, and what is gone back to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from states import ALL, NOW, THREE, draft, generation, rollout, worker

from clusterd.core import rollout as rules
from clusterd.core.actions import Finish, Outcome, Tell, What
from clusterd.core.draft import Draft
from clusterd.core.model import Boot, Kind, Phase, Rollout, Stage, Watch, Worker

NEW = tuple(worker(20 + seat, seat, generation=2) for seat in range(3))
COMMITTED = rollout(Stage.COMMITTED, moved=3, upto=3)
RETURNING = rollout(Stage.RETURNING, upto=0, failure="it died", returned=True)


def deaf(number: int, seat: int, generation: int = 1) -> Worker:
    """Told to serve, and not accepting yet."""
    return worker(number, seat, generation=generation, accepting=False)


def answered(d: Draft) -> list[Outcome]:
    return [action.outcome for action in d.actions if isinstance(action, Finish)]


def told(d: Draft) -> list[What]:
    return [action.what for action in d.actions if isinstance(action, Tell)]


@pytest.mark.parametrize(
    ("surge", "old", "upto"),
    [(None, ALL, 3), (1, ALL, 1), (2, ALL, 2), (5, ALL, 3), (1, ALL[:1], 1), (1, (), 3), (1, (deaf(10, 0),), 3)],
)
def test_a_batch(surge: int | None, old: tuple[Worker, ...], upto: int) -> None:
    """As many seats as the machine was said to bear; where nobody serves there is nobody to spare, and all at once."""
    new = generation(2, replace(THREE, surge=surge))
    d = draft(new, *old, rollout=rollout(Stage.PREPARING, upto=0))
    rules.prepare(d)
    assert d.cluster.rollout is not None and d.cluster.rollout.upto == upto


READY = tuple(replace(w, phase=Phase.READY, accepting=False) for w in NEW)
SOAKED = rollout(Stage.SOAKING, since=NOW - THREE.soak)


@pytest.mark.parametrize(
    ("kind", "old", "since", "commits"),
    [
        (Kind.RELOAD, ALL, NOW - THREE.soak, True),
        (Kind.RELOAD, ALL, NOW - THREE.soak + 0.1, False),
        (Kind.RELOAD, (), NOW, True),
        (Kind.START, (), NOW, True),
        (Kind.START, ALL, NOW, True),  # begun again while some of it serves
    ],
)
def test_a_soak(kind: Kind, old: tuple[Worker, ...], since: float, commits: bool) -> None:
    """It takes its time, where somebody serves meanwhile; a start does not, whoever serves."""
    d = draft(generation(2), *old, *READY, rollout=replace(SOAKED, kind=kind, since=since))
    rules.soak(d)
    assert d.cluster.rollout is not None
    assert (d.cluster.rollout.stage is Stage.COMMITTED, told(d)) == (commits, [What.COMMITTED] if commits else [])


@pytest.mark.parametrize(
    ("rule", "moves", "workers"),
    [(rules.prepare, rollout(Stage.PREPARING), READY), (rules.soak, SOAKED, READY), (rules.settle, COMMITTED, NEW)],
)
def test_what_has_failed_goes_no_further(
    rule: Callable[[Draft], None], moves: Rollout, workers: tuple[Worker, ...]
) -> None:
    """In the very pass in which it fails: its zygote may be lost just when all else is as it should be."""
    for failure in ("", "its import failed"):
        d = draft(generation(2), *workers, rollout=replace(moves, failure=failure))
        before = d.cluster
        rule(d)
        assert (d.cluster != before or bool(d.actions)) == (not failure)


@pytest.mark.parametrize("waiting", range(3))
def test_it_is_not_done_before_every_seat_is_served(waiting: int) -> None:
    """By the new generation: one worker that does not accept yet is waited for, whichever it is."""
    new = [deaf(w.id, w.seat, 2) if w.seat == waiting else w for w in NEW]
    d = draft(generation(2), *new, rollout=COMMITTED)
    rules.settle(d)
    assert not answered(d) and d.cluster.current == 1
    d = draft(generation(2), *NEW, rollout=COMMITTED)
    rules.settle(d)
    assert answered(d) == [Outcome.DONE] and d.cluster.current == 2


def test_it_is_not_done_while_an_old_worker_accepts() -> None:
    """But what serves is the new generation from now on."""
    d = draft(generation(2), *NEW, ALL[1], rollout=COMMITTED)
    rules.settle(d)
    assert not answered(d) and (d.cluster.current, d.cluster.previous) == (2, 1)


@pytest.mark.parametrize(("base", "parked", "watched"), [(Boot.UP, 1, True), (Boot.LOST, None, False)])
def test_what_is_parked(base: Boot, parked: int | None, watched: bool) -> None:
    """The generation before, if it can fork: else there is nothing to go back to, and no use in watching."""
    d = draft(generation(1, boot=base), generation(2), *NEW, rollout=COMMITTED)
    rules.settle(d)
    assert (d.cluster.previous, d.cluster.watch is not None) == (parked, watched)


@pytest.mark.parametrize("current", [1, 2])
def test_what_fails_after_its_commit_goes_back(current: int) -> None:
    """Also when it had become the current one already, and only old workers were waited for."""
    failed = replace(COMMITTED, failure="it died")
    d = draft(generation(2), *NEW, ALL[1], rollout=failed, current=current)
    rules.fail(d)
    assert d.cluster.rollout is not None
    assert (d.cluster.rollout.stage, d.cluster.rollout.returned, d.cluster.current) == (Stage.RETURNING, True, 1)
    assert told(d) == [What.RETURNING]


@pytest.mark.parametrize(
    ("workers", "ends"),
    [
        (ALL, True),
        ((*ALL, worker(20, 0, Phase.DRAINING, 2)), True),
        (ALL[:2], False),
        ((*ALL[:2], deaf(12, 2)), False),
        ((*ALL, NEW[0]), False),
        ((*ALL, worker(20, 0, Phase.DRAINING, 2, accepting=True), worker(21, 1, Phase.DRAINING, 2)), False),
    ],
)
def test_a_return_is_complete(workers: tuple[Worker, ...], ends: bool) -> None:
    """When the generation before serves every seat, and nobody of the one that failed accepts any more."""
    d = draft(generation(2), *workers, rollout=RETURNING)
    rules.returned(d)
    assert answered(d) == ([Outcome.RETURNED] if ends else [])


def test_a_return_that_is_late_is_told_all_the_same() -> None:
    """At its limit, and of what it lacks; with a surge each batch has its time."""
    for surge, batches in ((None, 1), (1, 3), (2, 2)):
        limit = batches * THREE.ready_timeout
        for early in (0.5, 0.0):
            late = replace(RETURNING, since=NOW - limit + early)
            d = draft(generation(2, replace(THREE, surge=surge)), *ALL[:2], rollout=late)
            rules.returned(d)
            finished = [a for a in d.actions if isinstance(a, Finish)]
            assert [a.reason for a in finished] == (
                [] if early else ["it died; generation 1 does not serve everywhere yet"]
            )


@pytest.mark.parametrize("previous", [3, None])
def test_a_watch_is_over_when_there_is_nothing_to_go_back_to(previous: int | None) -> None:
    """The parked generation is gone: that is no reason to hold back that it has settled."""
    d = draft(*ALL, previous=previous, watch=Watch(2, Kind.RELOAD, NOW + 20.0, deaths=9))
    rules.watch(d)
    assert d.cluster.watch is None and d.cluster.rollout is None and told(d) == [What.SETTLED]


@pytest.mark.parametrize(("deaths", "returns"), [(2, False), (3, True)])
def test_a_watched_generation_that_keeps_dying(deaths: int, returns: bool) -> None:
    """As many deaths as it has workers; the return begins with nothing held against the generation before."""
    watch = Watch(2, Kind.RELOAD, NOW + 20.0, deaths, "worker 9: killed")
    d = draft(generation(2), *NEW, current=2, previous=1, watch=watch, problem="x")
    rules.watch(d)
    r = d.cluster.rollout
    assert (r is not None) == returns
    if r is not None:
        assert (r.stage, r.target, r.base, r.returned) == (Stage.RETURNING, 2, 1, True)
        assert (d.cluster.current, d.cluster.previous, d.cluster.problem) == (1, None, "")
        assert r.failure == "its workers keep dying, the last: worker 9: killed"

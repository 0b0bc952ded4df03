"""The rules that move a rollout: prepare everything, soak, commit, settle; refuse or return what fails."""

from __future__ import annotations

from dataclasses import replace

from clusterd.core.actions import Finish, Outcome, What
from clusterd.core.backoff import after_failure
from clusterd.core.draft import Draft
from clusterd.core.model import BOOT, SPARE, Boot, Cluster, Kind, Phase, Rollout, Stage, Watch


def deaths_allowed(workers: int) -> int:
    """How many serving workers of a new generation may die, each soon after it was ready, before it is given up.

    As many as it has workers, and at least three: one bad request, or an administrator's kill, is not a bad deploy.
    """
    return max(3, workers)


def keeps_dying(death: str) -> str:
    """Why a generation is given up; with the last death's reason, as the seats' own trouble may be over by now."""
    return f"its workers keep dying, the last: {death}"


def fail(d: Draft) -> None:
    """A rollout with a failure is given up: refused where nothing was moved, returned where something was."""
    r = d.cluster.rollout
    if r is None or not r.failure or r.stage is Stage.RETURNING or d.cluster.stopping:
        return
    if r.kind is Kind.START:
        _start_failed(d, r)
    elif r.moved == 0:
        finish(d, r, Outcome.REFUSED, What.REFUSED, r.failure)
    else:
        returned = r.stage is Stage.COMMITTED
        if returned:
            d.tell(What.RETURNING, r.failure, generation=r.target, number=r.number)
        d.roll(r, "failed", moved=0, upto=0, returned=returned)
        d.cluster = replace(d.cluster, current=r.base)


def _start_failed(d: Draft, r: Rollout) -> None:
    """There is nothing to go back to: the first start ends the service, a later one stays and tries again."""
    if d.cluster.strict:
        finish(d, r, Outcome.REFUSED, What.START_FAILED, r.failure)
        d.cluster = replace(d.cluster, stopping=True, status=1, problem=r.failure)
        return
    generation = d.cluster.generations[r.target]
    if generation.boot is Boot.LOST:
        failures = after_failure(d.cluster.failures.get(BOOT), generation.policy, d.now, r.number)
        d.cluster = d.cluster.with_failures(BOOT, failures)
    d.cluster = replace(d.cluster, current=r.target, problem=r.failure)
    finish(d, r, Outcome.REFUSED, What.DEGRADED, r.failure)


def prepare(d: Draft) -> None:
    """Take on the next batch, and see it ready."""
    r = d.cluster.rollout
    if r is None or r.failure or r.stage is not Stage.PREPARING or d.cluster.generations[r.target].boot is not Boot.UP:
        return  # how many workers it wants is known when it is up: the file may have been read anew for this boot
    surge = d.cluster.generations[r.target].policy.surge
    span = d.cluster.span(r)
    if r.upto <= r.moved < span:
        cold = next(d.cluster.accepting(), None) is None
        r = d.roll(r, upto=span if surge is None or cold else min(span, r.moved + surge))
    if all_ready(d.cluster, r):
        d.roll(r, "batch ready")


def soak(d: Draft) -> None:
    """Ready for long enough: commit. A try ends here; where nobody serves, nobody is made to wait.

    A worker that is known to be dead, and not yet of what, is a failure that has still to be told.
    """
    r = d.cluster.rollout
    if r is None or r.failure or r.stage is not Stage.SOAKING or not all_ready(d.cluster, r):
        return
    policy = d.cluster.generations[r.target].policy
    waits = r.kind is not Kind.START and next(d.cluster.accepting(), None) is not None
    if (waits or r.kind is Kind.TRY) and d.now < r.since + policy.soak:
        return
    if r.kind is Kind.TRY:
        finish(d, r, Outcome.DONE, What.DONE)
        return
    d.roll(r, "soaked", moved=r.upto)
    d.tell(What.COMMITTED, generation=r.target, number=r.number)


def all_ready(c: Cluster, r: Rollout) -> bool:
    """Whether everybody of the batch lives and is ready. Who serves there already was moved by an earlier rollback to
    the same generation, which another change ended."""
    return all(
        (w := c.filled(seat, r.target)) is not None and not w.dead and (w.phase is Phase.READY or w.accepting)
        for seat in range(r.moved, min(r.upto, c.seats_of(r)))
    )


def settle(d: Draft) -> None:
    """Committed: done when the target serves all its seats and nobody older accepts; or on to the next batch."""
    r = d.cluster.rollout
    if r is None or r.failure or r.stage is not Stage.COMMITTED:
        return
    c = d.cluster
    if any(next(c.accepting(s, r.target), None) is None for s in range(min(r.moved, c.seats_of(r)))):
        return
    older = [w for w in c.workers.values() if w.generation != r.target and SPARE < w.seat < r.moved]
    last = r.moved >= c.span(r)
    if last:
        # Here, and not when the last old worker has stopped accepting: its seats beyond the new count drain only now.
        if c.current != r.target:
            parked = r.base if r.base is not None and c.generations[r.base].boot is Boot.UP else None
            d.cluster = replace(c, current=r.target, previous=parked)
        if any(w.accepting for w in older):
            return
        _done(d, r)
    elif not older:
        d.roll(r, "batch settled", upto=r.moved)


def _done(d: Draft, r: Rollout) -> None:
    finish(d, r, Outcome.DONE, What.STARTED if r.kind is Kind.START else What.DONE)
    policy = d.cluster.generations[r.target].policy
    if d.cluster.previous is not None and policy.watch > 0:
        d.cluster = replace(d.cluster, watch=Watch(r.number, r.kind, d.now + policy.watch, r.deaths))


def returned(d: Draft) -> None:
    """The previous generation serves its seats again and nobody else accepts: the return is complete. Or it is late."""
    r = d.cluster.rollout
    if r is None or r.stage is not Stage.RETURNING:
        return
    reason = r.failure
    if d.cluster.unsettled or any(w.accepting and w.generation != r.base for w in d.cluster.workers.values()):
        if d.now < return_limit(d.cluster, r):
            return
        # The seats go on being filled without a rollout; whoever waits for this one has to be told in time.
        reason += f"; generation {r.base} does not serve everywhere yet"
    _answer_return(d, r, reason)


def give_up(d: Draft, r: Rollout, outcome: Outcome, why: str) -> None:
    """It ends for a reason that is not its own. One that had failed before is answered with that."""
    if r.stage is Stage.RETURNING:
        _answer_return(d, r, f"{r.failure}; {why} before generation {r.base} served everywhere")
    else:
        finish(d, r, outcome, What.SUPERSEDED, why)


def _answer_return(d: Draft, r: Rollout, reason: str) -> None:
    if r.returned:
        finish(d, r, Outcome.RETURNED, What.RETURNED, reason)
    else:
        finish(d, r, Outcome.REFUSED, What.UNDONE, f"undone: {reason}")


def return_limit(c: Cluster, r: Rollout) -> float:
    """When a return that does not come to its end is told all the same: each batch may take as long as a boot."""
    assert r.base is not None, "a start has nothing to return to"
    surge = c.generations[r.target].policy.surge
    batches = -(-c.span(r) // surge) if surge else 1
    return r.since + batches * c.generations[r.base].policy.ready_timeout


def watch(d: Draft) -> None:
    """After a rollout: a generation that keeps dying is returned to the parked previous one."""
    c = d.cluster
    if c.watch is None or c.stopping:
        return
    previous = c.generations.get(c.previous) if c.previous is not None else None
    if d.now >= c.watch.until or previous is None or c.current is None:
        d.tell(What.SETTLED, generation=c.current, number=c.watch.number)
        d.cluster = replace(c, watch=None)
    elif c.watch.deaths >= deaths_allowed(c.policy.workers):
        if c.rollout is not None:  # a try: nothing else runs beside a watch
            give_up(d, c.rollout, Outcome.SUPERSEDED, "the current generation had to be returned")
        reason = keeps_dying(c.watch.death)
        d.tell(What.RETURNING, reason, generation=c.current, number=c.watch.number)
        r = Rollout(
            c.watch.number,
            c.watch.kind,
            c.current,
            previous.number,
            since=d.now,
            begun=d.now,
            stage=Stage.RETURNING,
            failure=reason,
            returned=True,
        )
        d.cluster = replace(
            d.cluster, rollout=r, watch=None, current=previous.number, previous=None, failures={}, problem=""
        )


def finish(d: Draft, r: Rollout, outcome: Outcome, what: What, reason: str = "") -> None:
    """The rollout is over: whoever asked is answered, everybody is told."""
    d.cluster = replace(d.cluster, rollout=None)
    d.act(Finish(r.number, r.kind, outcome, r.target, reason, d.now - r.begun))
    d.tell(what, reason, generation=r.target, number=r.number)

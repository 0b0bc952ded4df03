"""`step`: one event in, the new state and what to do out. `deadline`: when to come back if nothing happens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from clusterd.core import invariants, rollout, rules
from clusterd.core.actions import (
    Action,
    Drain,
    EndGeneration,
    Exit,
    Finish,
    Kill,
    Outcome,
    PromoteTwin,
    Serve,
    Steer,
    Usher,
    What,
)
from clusterd.core.backoff import MIN_LIFE, after_failure
from clusterd.core.draft import Draft
from clusterd.core.events import (
    Adopted,
    Asked,
    Event,
    ScaleAsked,
    StopAsked,
    TwinGone,
    TwinUp,
    WorkerDead,
    WorkerDraining,
    WorkerFailed,
    WorkerGone,
    WorkerHung,
    WorkerReady,
    WorkerServing,
    WorkerSpent,
    WorkerUnborn,
    ZygoteGone,
    ZygoteUnborn,
    ZygoteUp,
)
from clusterd.core.lifecycle import IllegalMove
from clusterd.core.model import Boot, Cluster, Generation, Kind, Phase, Policy, Rollout, Scaled, Stage, Twin, Worker

RULES: tuple[Callable[[Draft], None], ...] = (
    rules.overdue,
    rollout.fail,
    rollout.watch,
    rules.stop,
    rules.zygotes,
    rules.recycle,
    rollout.prepare,
    rollout.soak,
    rules.forks,
    rules.serve,
    rules.spares,
    rules.drain,
    rules.crowd,
    rollout.settle,
    rollout.returned,
    rules.forgive,
)

MAX_PASSES = 1000
"""A fixed point is reached in a handful of passes; a rule that fights another is a bug to be seen, not a hang."""


def step(cluster: Cluster, event: Event, now: float) -> tuple[Cluster, list[Action]]:
    """Take `event` in at monotonic time `now`; return the state after it and the actions to perform, in order.

    Raises IllegalMove for what cannot follow (the state is then unchanged: the caller keeps the old one).
    """
    d = Draft(cluster, now)
    _take(d, event)
    converge(d)
    d.steer()
    if isinstance(event, Adopted):
        _remind(d)
    if __debug__:
        invariants.check(d.cluster)
        invariants.check_step(d.cluster, d.actions)
    return d.cluster, d.actions


def converge(d: Draft) -> None:
    """Run the rules until none has anything to say."""
    for _ in range(MAX_PASSES):
        before, done = d.cluster, len(d.actions)
        for rule in RULES:
            rule(d)
        if d.cluster is before and len(d.actions) == done:
            return
    raise AssertionError(f"no fixed point: {d.actions[-10:]}")


def deadline(cluster: Cluster, now: float) -> float | None:
    """When `Passed` is due if nothing else happens before, or None. `cluster` has been through a step at `now`."""
    times = [w.until for w in cluster.workers.values() if w.until is not None and not w.killed]
    if not cluster.stopping:
        booting = [g for g in cluster.generations.values() if g.boot is Boot.BOOTING and not g.ended]
        times += [g.since + g.policy.ready_timeout for g in booting]
        for seat, f in cluster.failures.items():
            if (end := rules.forgiven_at(cluster, seat)) is not None:
                times.append(end)
            elif cluster.occupant(seat) is None and f.until > now:
                times.append(f.until)  # once past, the seat waits for its zygote, not for time
        r = cluster.rollout
        if r is not None and r.stage is Stage.SOAKING and rollout.all_ready(cluster, r):
            times.append(r.since + cluster.generations[r.target].policy.soak)
        if r is not None and r.stage is Stage.RETURNING:
            times.append(rollout.return_limit(cluster, r))
        if cluster.watch is not None:
            times.append(cluster.watch.until)
        times += [end for w in cluster.workers.values() if (end := rules.end_of_life(cluster, w)) is not None]
    return min(times, default=None)


def _take(d: Draft, event: Event) -> None:
    match event:
        case Asked():
            _asked(d, event)
        case ScaleAsked():
            _scale(d, event)
        case StopAsked():
            _stop(d)
        case Adopted():
            pass  # `_remind`, when it is known what is true by now
        case ZygoteUp():
            _zygote_up(d, event)
        case ZygoteGone():
            _zygote_gone(d, event)
        case ZygoteUnborn(number):
            _zygote_unborn(d, number)
        case TwinUp(number) | TwinGone(number):
            _twin(d, number, up=isinstance(event, TwinUp))
        case WorkerReady(number):
            if (w := d.cluster.workers.get(number)) is not None:
                d.move(w, "ready", ready_at=w.ready_at if w.ready_at is not None else d.now)
                if w.phase is Phase.STARTING:
                    d.tell(What.WORKER_READY, worker=w.id, slot=w.slot, generation=w.generation)
        case WorkerServing(number):
            if (w := d.cluster.workers.get(number)) is not None:
                _serving(d, w)
        case WorkerDraining(number):
            if (w := d.cluster.workers.get(number)) is not None:
                _draining(d, w)
        case WorkerFailed(number, reason):
            if (w := d.cluster.workers.get(number)) is not None:
                d.put(w, reason=w.reason or reason)
        case WorkerSpent(number, reason):
            if (w := d.cluster.workers.get(number)) is not None:
                rules.spend(d, w, reason)
        case WorkerHung(number):
            if (w := d.cluster.workers.get(number)) is not None:
                _hung(d, w, event)
        case WorkerDead(number):
            if (w := d.cluster.workers.get(number)) is not None:
                d.put(w, dead=True, accepting=False)
        case WorkerGone(number, reason, advice):
            if (w := d.cluster.workers.get(number)) is not None:
                _worker_gone(d, w, reason, advice)
        case WorkerUnborn(number):
            d.cluster = d.cluster.without_worker(number)


def _asked(d: Draft, asked: Asked) -> None:
    c = d.cluster
    number = c.next_rollout
    d.cluster = replace(c, next_rollout=number + 1)
    # A reload before anything serves is the start, begun again: what it must not do is leave nothing behind.
    kind = Kind.START if asked.kind is Kind.RELOAD and c.current is None else asked.kind
    refusal = _objection(c, kind)
    if refusal:
        d.act(Finish(number, kind, Outcome.REFUSED, c.current or 0, refusal))
        d.tell(What.REFUSED, refusal, number=number, generation=c.current)
        return
    if c.rollout is not None:
        rollout.give_up(d, c.rollout, Outcome.SUPERSEDED, f"superseded by #{number}")
        # Seats that half a reload had moved are left alone (`Cluster.untouched`) until the new one comes to them.
    if kind is Kind.ROLLBACK and c.previous is not None:
        target = c.previous
    else:
        target = c.next_generation
        generation = Generation(target, _scaled(d, asked.policy), since=d.now, boot=Boot.LOST)
        d.cluster = replace(d.cluster.with_generation(generation), next_generation=target + 1)
    r = Rollout(number, kind, target, c.current, since=d.now, begun=d.now)
    d.cluster = replace(d.cluster, rollout=r)
    if kind is not Kind.TRY:
        d.cluster = replace(d.cluster, failures={}, watch=None)
    d.tell(What.BEGUN, kind, generation=target, number=number)


def _objection(c: Cluster, kind: Kind) -> str:
    if c.stopping:
        return "the service is stopping"
    if kind is Kind.TRY and c.rollout is not None:
        return f"#{c.rollout.number} is under way ({c.rollout.kind}); try again when it has ended"
    if kind is Kind.ROLLBACK and (c.previous is None or c.previous not in c.generations):
        return "no previous generation is parked: there is none before the first reload, nor after a return"
    return ""


def _stop(d: Draft) -> None:
    if d.cluster.stopping:
        return
    if d.cluster.rollout is not None:
        rollout.give_up(d, d.cluster.rollout, Outcome.STOPPED, "the service was told to stop")
    d.cluster = replace(d.cluster, stopping=True, watch=None)
    d.tell(What.STOPPING)


def _scale(d: Draft, asked: ScaleAsked) -> None:
    """All generations that live have so many workers from now on; the rules bring them about."""
    if d.cluster.stopping:
        return
    scaled = Scaled(asked.workers, asked.file) if asked.workers not in (None, asked.file) else None
    workers = scaled.workers if scaled else asked.file
    generations = {
        number: replace(g, policy=replace(g.policy, workers=workers)) for number, g in d.cluster.generations.items()
    }
    before = d.cluster.policy.workers
    d.cluster = replace(d.cluster, generations=generations, scaled=scaled)
    d.tell(What.SCALED, f"from {before} to {workers} workers", generation=d.cluster.current)


def _scaled(d: Draft, policy: Policy) -> Policy:
    """`policy` of a file read now, with as many workers as an operator wants: unless the file says another number."""
    scaled = d.cluster.scaled
    if scaled is None:
        return policy
    if policy.workers != scaled.file:
        d.cluster = replace(d.cluster, scaled=None)
        return policy
    return replace(policy, workers=scaled.workers)


def _remind(d: Draft) -> None:
    """Say again what processes have been told: the master that said it may have died over it, or they have not heard.

    After the rules: to whom they have something new to say that is said alone.
    """
    told = {a.worker for a in d.actions if isinstance(a, (Kill, Serve, Drain))}
    ends = {a.generation for a in d.actions if isinstance(a, EndGeneration)}
    for w in d.cluster.workers.values():
        if w.id in told:
            continue
        policy = d.cluster.generations[w.generation].policy
        if w.killed:
            d.act(Kill(w.id))
        elif w.phase is Phase.SERVING:
            d.act(Serve(w.id, w.slot if w.handed else None))
        elif w.phase is Phase.DRAINING and w.until is not None:
            left = max(0.0, w.until - d.now - rules.KILL_GRACE)
            d.act(Drain(w.id, min(policy.linger, left), left))
    for g in d.cluster.generations.values():
        if g.ended and g.number not in ends:
            d.act(EndGeneration(g.number))
    d.act(Steer(d.cluster.steered))
    d.act(Usher(*d.cluster.ushered))
    if d.cluster.stopped and Exit(d.cluster.status) not in d.actions:
        d.act(Exit(d.cluster.status))


def _zygote_up(d: Draft, event: ZygoteUp) -> None:
    g = d.cluster.generations.get(event.generation)
    if g is None or g.ended or g.boot is not Boot.BOOTING:
        return  # said twice, or too late: it has been given up
    policy = _scaled(d, event.policy) if event.policy else g.policy
    g = replace(g, boot=Boot.UP, twinned=event.twinned, twin_losses=0, policy=policy, since=d.now)
    d.cluster = d.cluster.with_generation(g)


def _zygote_unborn(d: Draft, number: int) -> None:
    g = d.cluster.generations.get(number)
    if g is not None and g.boot is Boot.BOOTING and not g.ended:
        d.cluster = d.cluster.with_generation(replace(g, boot=Boot.LOST))


def _zygote_gone(d: Draft, event: ZygoteGone) -> None:
    g = d.cluster.generations.get(event.generation)
    if g is None or g.ended or g.boot is Boot.LOST:
        return
    if g.boot is Boot.BOOTING:
        rules.boot_failed(d, g, event.reason)
        return
    d.tell(What.ZYGOTE_LOST, event.reason, generation=g.number)
    if g.twin is Twin.UP:
        d.cluster = d.cluster.with_generation(replace(g, twin=Twin.NONE, twin_losses=0))
        d.act(PromoteTwin(g.number))
        return
    rules.boot_failed(d, g, event.reason)


def _twin(d: Draft, number: int, *, up: bool) -> None:
    g = d.cluster.generations.get(number)
    if g is None or g.twin is Twin.NONE:
        return
    if up:
        g = replace(g, twin=Twin.UP, twin_since=d.now if g.twin is Twin.ASKED else g.twin_since)
    else:
        lived = g.twin is Twin.UP and d.now >= g.twin_since + MIN_LIFE
        g = replace(g, twin=Twin.NONE, twin_losses=0 if lived else g.twin_losses + 1)
    d.cluster = d.cluster.with_generation(g)


def _worker_gone(d: Draft, w: Worker, reason: str, advice: str) -> None:
    """A death: expected when it drained; otherwise a failure of its rollout, or of its seat."""
    d.cluster = d.cluster.without_worker(w.id)
    c = d.cluster
    if w.phase is Phase.DRAINING or c.stopping:
        return
    if w.killed and not w.reason:
        return  # killed because nobody wanted it any more
    reason = (w.reason or reason) + (f": {advice}" if advice else "")
    d.tell(What.WORKER_DIED, reason, worker=w.id, slot=w.slot, generation=w.generation)
    _lost(d, w, reason)


def _serving(d: Draft, w: Worker) -> None:
    serves = w.phase is Phase.SERVING
    after = d.move(w, "serving", accepting=serves and not w.dead, until=None if serves else w.until)
    r = d.cluster.rollout
    if after.accepting and not w.accepting and (r is None or w.generation != r.target):
        d.tell(What.WORKER_REPLACED, worker=w.id, slot=w.slot, generation=w.generation)


def _draining(d: Draft, w: Worker) -> None:
    if w.phase is Phase.DRAINING:
        d.move(w, "draining", accepting=False)
        return
    timeout = d.cluster.generations[w.generation].policy.drain_timeout
    d.move(w, "draining", accepting=False, until=d.now + timeout + rules.KILL_GRACE)
    if not d.cluster.stopping:
        d.tell(What.WORKER_LEFT, worker=w.id, slot=w.slot, generation=w.generation)
        _lost(d, w, "it left by itself")


def _hung(d: Draft, w: Worker, event: WorkerHung) -> None:
    """Nothing new goes to it, its seat gets another. Should it come to itself, it finishes what it has and leaves."""
    if not w.alive or w.phase is Phase.STARTING or d.cluster.stopping:
        return  # a start has a time of its own, and so has a drain
    reason = event.reason
    d.tell(What.WORKER_HUNG, reason, worker=w.id, slot=w.slot, generation=w.generation)
    if w.phase is Phase.READY:
        d.kill(d.put(w, reason=reason))
        return
    end = d.now + event.grace + rules.KILL_GRACE
    w = d.move(w, "drain", accepting=w.accepting and event.accepts, until=end, reason=reason)
    d.act(Drain(w.id, 0.0, event.grace))
    _lost(d, w, reason)


def _lost(d: Draft, w: Worker, reason: str) -> None:
    """A worker is lost to its seat: a failure of the rollout that prepares it, or one more of the seat."""
    c = d.cluster
    r = c.rollout
    reason = f"worker {w.id} ({w.place}): {reason}"
    if r is not None and w.generation == r.target and r.stage in (Stage.PREPARING, Stage.SOAKING) and w.seat >= r.moved:
        d.roll(r, failure=r.failure or reason)
        return
    if w.ready_at is not None and d.now - w.ready_at >= MIN_LIFE:
        d.cluster = c.with_failures(w.seat, None)
    else:
        failures = after_failure(c.failures.get(w.seat), c.generations[w.generation].policy, d.now, w.id)
        d.cluster = c.with_failures(w.seat, failures)
        if failures.count >= 2:
            d.cluster = replace(d.cluster, problem=reason)
    _count_death(d, w, reason)


def _count_death(d: Draft, w: Worker, reason: str) -> None:
    c = d.cluster
    if c.watch is not None and w.generation == c.current:
        d.cluster = replace(c, watch=replace(c.watch, deaths=c.watch.deaths + 1, death=reason))
    r = c.rollout
    if r is not None and w.generation == r.target and r.stage in (Stage.COMMITTED, Stage.PREPARING, Stage.SOAKING):
        deaths = r.deaths + 1
        limit = rollout.deaths_allowed(c.generations[r.target].policy.workers)
        d.roll(r, deaths=deaths, failure=r.failure or (rollout.keeps_dying(reason) if deaths >= limit else ""))


__all__ = ["IllegalMove", "converge", "deadline", "step"]

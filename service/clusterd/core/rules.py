"""What follows from the joint state. Run in this order, again and again, until nothing changes.

Every rule looks at what is, never at how it came about: so the same rules finish a rollout that another master began.
"""

from __future__ import annotations

from dataclasses import replace

from clusterd.core import slots
from clusterd.core.actions import BootZygote, Drain, EndGeneration, Exit, Fork, MakeTwin, Serve, What
from clusterd.core.backoff import MIN_LIFE, after_failure, spread
from clusterd.core.draft import Draft
from clusterd.core.model import BOOT, NO_SLOT, SPARE, Boot, Cluster, Generation, Phase, Stage, Twin, Worker

KILL_GRACE = 1.0
"""Seconds a worker has, after the time its drain may take, to report and leave before it is killed."""

STOP_LINGER = 1.0
"""Seconds at most that idle kept connections are given at a stop: nobody serves meanwhile, and queued clients wait."""

MAX_TWIN_LOSSES = 3
"""A twin that dies again and again is not worth a fork each time."""


def stop(d: Draft) -> None:
    """Asked to stop: whoever serves drains, whoever does not yet is killed; then the zygotes leave, then the master."""
    if not d.cluster.stopping or d.cluster.stopped:
        return
    for w in d.cluster.workers.values():
        policy = d.cluster.generations[w.generation].policy
        limit = d.now + policy.stop_timeout + KILL_GRACE
        if w.phase in (Phase.STARTING, Phase.READY):
            d.kill(w)
        elif w.phase is Phase.SERVING or (not w.killed and (w.until is None or w.until > limit)):
            d.move(w, "drain", until=limit)
            d.act(Drain(w.id, min(policy.linger, STOP_LINGER), policy.stop_timeout))
    if not d.cluster.workers:
        for g in d.cluster.generations.values():
            d.act(EndGeneration(g.number))
        d.cluster = replace(d.cluster, generations={}, stopped=True)
        d.tell(What.STOPPED)
        d.act(Exit(d.cluster.status))


def overdue(d: Draft) -> None:
    """Whoever is late is killed: not ready in time, not accepting once told to, not drained in time."""
    for w in d.cluster.workers.values():
        if w.killed or w.until is None or d.now < w.until:
            continue
        if w.phase is Phase.DRAINING:
            why = w.reason or "did not finish draining in time"
            d.tell(What.WORKER_CUT, why, worker=w.id, slot=w.slot, generation=w.generation)
            d.kill(w)
        else:
            timeout = d.cluster.generations[w.generation].policy.ready_timeout
            late = "did not begin to accept" if w.phase is Phase.SERVING else "not ready"
            w = d.put(w, reason=w.reason or f"{late} within {timeout:g} s")
            d.tell(What.WORKER_TIMEOUT, w.reason, worker=w.id, slot=w.slot, generation=w.generation)
            d.kill(w)


def zygotes(d: Draft) -> None:
    """Generations nobody will fork from again leave; lost ones that are wanted boot again; each has a twin."""
    if d.cluster.stopping:
        return
    c = d.cluster
    r = c.rollout
    keep = {c.current, c.previous} | ({r.target, r.base} if r else set())
    for g in c.generations.values():
        if g.number not in keep:
            _leave(d, g)
        elif g.boot is Boot.BOOTING and d.now >= g.since + g.policy.ready_timeout:
            d.act(EndGeneration(g.number))
            late = f"the application was not imported within {g.policy.ready_timeout:g} s"
            boot_failed(d, g, f"{late}: its import waits, or serves by itself")
        elif g.boot is Boot.LOST and g.number == c.previous:
            d.cluster = replace(d.cluster, previous=None)
        elif g.boot is Boot.LOST and _may_boot(d, g):
            d.cluster = d.cluster.with_generation(replace(g, boot=Boot.BOOTING, since=d.now, twin=Twin.NONE))
            d.act(BootZygote(g.number))
        elif g.boot is Boot.UP and g.twinned and g.twin is Twin.NONE and g.twin_losses < MAX_TWIN_LOSSES:
            d.cluster = d.cluster.with_generation(replace(g, twin=Twin.ASKED))
            d.act(MakeTwin(g.number))


def _may_boot(d: Draft, g: Generation) -> bool:
    r = d.cluster.rollout
    if r is not None and r.target == g.number:
        return not r.failure
    return BOOT not in d.cluster.failures or d.now >= d.cluster.failures[BOOT].until


def _leave(d: Draft, g: Generation) -> None:
    if not g.ended:
        d.cluster = d.cluster.with_generation(replace(g, ended=True))
        d.act(EndGeneration(g.number))
    if not any(w.generation == g.number for w in d.cluster.workers.values()):
        d.cluster = d.cluster.without_generation(g.number)
        d.tell(What.GENERATION_GONE, generation=g.number)


def boot_failed(d: Draft, g: Generation, reason: str) -> None:
    """The import failed: a rollout's own failure, or one more of the current generation's."""
    d.cluster = d.cluster.with_generation(replace(g, boot=Boot.LOST, twin=Twin.NONE))
    r = d.cluster.rollout
    # Committed, it may well lose its zygote: a failure is only that it cannot be imported again.
    stages = (Stage.PREPARING, Stage.SOAKING) + ((Stage.COMMITTED,) if g.boot is Boot.BOOTING else ())
    if r is not None and r.target == g.number and r.stage in stages:
        d.roll(r, failure=r.failure or reason)
        return
    lived = g.boot is Boot.UP and d.now >= g.since + MIN_LIFE
    before = None if lived else d.cluster.failures.get(BOOT)
    failures = after_failure(before, g.policy, d.now, g.number + len(d.cluster.failures))
    d.cluster = replace(d.cluster.with_failures(BOOT, failures), problem=reason)
    d.tell(What.BOOT_FAILED, reason, generation=g.number)


def recycle(d: Draft) -> None:
    """Whoever serves and is old enough is spent."""
    for w in d.cluster.workers.values():
        if (end := end_of_life(d.cluster, w)) is not None and d.now >= end:
            spend(d, w, f"has served for {d.cluster.generations[w.generation].policy.max_age:g} s")


def end_of_life(c: Cluster, w: Worker) -> float | None:
    """When `w` will be old enough; up to a tenth later than it could be, so that they do not all go together."""
    max_age = c.generations[w.generation].policy.max_age
    if max_age is None or w.phase is not Phase.SERVING or not w.fills or w.ready_at is None:
        return None
    return w.ready_at + max_age * (1.0 + 0.1 * spread(w.id))


def spend(d: Draft, w: Worker, reason: str) -> None:
    """Another is to take the place of `w`, who serves on until then."""
    if w.phase is Phase.SERVING and w.fills and not d.cluster.stopping:
        d.put(w, spent=reason)
        d.tell(What.WORKER_SPENT, reason, worker=w.id, slot=w.slot, generation=w.generation)


def forks(d: Draft) -> None:
    """A worker in every seat that wants or prepares one: a spare if one is ready."""
    if d.cluster.stopping:
        return
    for seat in d.cluster.seats:
        wanted = d.cluster.wanted(seat)
        if wanted is not None and not _occupied(d, seat, wanted) and _may_fork(d, seat, wanted):
            if (spare := _spare(d, wanted)) is not None:
                slot = slots.assign(d.cluster, seat, d.cluster.generations[wanted].policy)
                d.put(spare, seat=seat, slot=slot, handed=True, ready_at=d.now)
            else:
                _fork(d, seat, wanted)
        prepared = d.cluster.prepared(seat)
        r = d.cluster.rollout
        if prepared is None or r is None or r.failure or d.cluster.filled(seat, prepared):
            continue
        _fork(d, seat, prepared)  # its zygote is up: a rollout that loses it has failed


def spares(d: Draft) -> None:
    """As many spares as the current generation wants, once it serves everywhere: they must not delay who serves."""
    c = d.cluster
    if c.stopping or c.changing or c.unsettled:
        return
    for seat in c.spare_seats:
        tenant = c.tenant(seat)
        if tenant is not None and not c.filled(seat, tenant) and _may_fork(d, seat, tenant):
            _fork(d, seat, tenant)


def _spare(d: Draft, generation: int) -> Worker | None:
    workers = d.cluster.workers.values()
    ready = (w for w in workers if w.seat <= SPARE and w.phase is Phase.READY and not (w.killed or w.dead))
    return next((w for w in ready if w.generation == generation), None)


def _occupied(d: Draft, seat: int, wanted: int) -> bool:
    if d.cluster.filled(seat, wanted):
        return True
    workers = d.cluster.workers.values()
    prepared = d.cluster.prepared(seat)
    if d.cluster.untouched(seat) and any(w.seat == seat and w.alive and w.generation != prepared for w in workers):
        return True
    # One succession at a time: they need memory and time, and nobody waits for them.
    spent = [w for w in workers if w.alive and w.spent]
    return any(w.seat == seat for w in spent) and any((heir := d.cluster.heir(w)) and not heir.accepting for w in spent)


def _may_fork(d: Draft, seat: int, generation: int) -> bool:
    if d.cluster.generations[generation].boot is not Boot.UP:
        return False
    failures = d.cluster.failures.get(seat)
    if failures is not None and d.now < failures.until:
        return False
    r = d.cluster.rollout
    surge = d.cluster.generations[r.target].policy.surge if r is not None and r.stage is Stage.RETURNING else None
    coming = (w for w in d.cluster.workers.values() if w.alive and w.seat > SPARE)
    starting = sum(w.phase in (Phase.STARTING, Phase.READY) for w in coming)
    return surge is None or starting < surge


def _fork(d: Draft, seat: int, generation: int) -> None:
    policy = d.cluster.generations[generation].policy
    slot = slots.assign(d.cluster, seat, policy) if seat > SPARE else NO_SLOT
    worker = Worker(d.cluster.next_worker, seat, slot, generation, since=d.now, until=d.now + policy.ready_timeout)
    d.cluster = replace(d.cluster.with_worker(worker), next_worker=worker.id + 1)
    d.act(Fork(worker.id, generation, slot))


def serve(d: Draft) -> None:
    """Whoever is ready and wanted serves."""
    for w in d.cluster.workers.values():
        if w.phase is Phase.READY and not (w.killed or w.dead) and d.cluster.wanted(w.seat) == w.generation:
            d.move(w, "serve", until=d.now + d.cluster.generations[w.generation].policy.ready_timeout)
            d.act(Serve(w.id, w.slot if w.handed else None))


def drain(d: Draft) -> None:
    """Whoever is no longer wanted drains, once the one who is wanted in its seat accepts."""
    if d.cluster.stopping:
        return
    leaving: list[Worker] = []
    for w in d.cluster.workers.values():
        wanted = d.cluster.wanted(w.seat)
        if not w.alive:
            continue
        if w.generation in (wanted, d.cluster.tenant(w.seat)):
            if w.spent and (heir := d.cluster.heir(w)) is not None and heir.accepting:
                leaving.append(w)
            continue
        if w.phase in (Phase.STARTING, Phase.READY):
            if d.cluster.prepared(w.seat) != w.generation:
                d.kill(w)
        elif d.cluster.untouched(w.seat):
            continue
        elif wanted is not None:
            if next(d.cluster.accepting(w.seat, wanted), None):
                leaving.append(w)
        # Seats that a change has not come to may never be served: it can be their generation that fails.
        elif all(map(d.cluster.untouched, d.cluster.unsettled)):
            leaving.append(w)
    for w in leaving:
        policy = d.cluster.generations[w.generation].policy
        d.move(w, "drain", until=d.now + policy.drain_timeout + KILL_GRACE)
    d.steer()
    for w in leaving:
        policy = d.cluster.generations[w.generation].policy
        d.act(Drain(w.id, policy.linger, policy.drain_timeout))


def crowd(d: Draft) -> None:
    """Drains that take long pile up, reload by reload: the oldest are cut where there are too many generations."""
    generations = sorted({w.generation for w in d.cluster.workers.values()})
    for oldest in generations[: -d.cluster.policy.max_generations]:
        for w in d.cluster.workers.values():
            if w.generation == oldest and w.phase is Phase.DRAINING and not w.killed:
                why = f"has to make room: {d.cluster.policy.max_generations} later generations have workers"
                d.tell(What.WORKER_CUT, why, worker=w.id, slot=w.slot, generation=w.generation)
                d.kill(w)


def forgiven_at(c: Cluster, seat: int) -> float | None:
    """When the worker in `seat`, or the zygote (BOOT), will have lived. None while none is ready."""
    if seat == BOOT:
        g = c.generations[c.current] if c.current is not None else None
        return g.since + MIN_LIFE if g is not None and g.boot is Boot.UP else None
    w = c.occupant(seat)
    return w.ready_at + MIN_LIFE if w is not None and w.ready_at is not None else None


def forgive(d: Draft) -> None:
    """Who has lived clears the failures of its seat, or of the boot; with none left all is well."""
    c = d.cluster
    if c.stopped:
        return
    for seat in c.failures:
        end = forgiven_at(c, seat)
        gone = seat != BOOT and seat not in (*c.seats, *c.spare_seats)
        if gone or (end is not None and d.now >= end):
            d.cluster = d.cluster.with_failures(seat, None)
    c = d.cluster
    if c.problem and not c.stopping and c.rollout is None and not c.failures and not c.unsettled:
        d.cluster = replace(c, problem="")
        d.tell(What.RECOVERED, generation=c.current)

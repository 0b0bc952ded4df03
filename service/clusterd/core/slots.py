"""Which slot a worker gets, where new connections go, and which slots need the usher."""

from __future__ import annotations

from clusterd.core.model import BOOT, Boot, Cluster, Mode, Phase, Policy


def assign(cluster: Cluster, seat: int, policy: Policy) -> int:
    """The slot for a new worker in `seat`: the seat's own, or the first that no process has.

    That with fresh slots; and where somebody accepts in the seat's own who is to leave it, and hangs.
    """
    own = seat % policy.slots
    workers = cluster.workers.values()
    if not policy.fresh_slots and not any(w.slot == own and w.accepting and not w.alive and w.reason for w in workers):
        return own
    used = {w.slot for w in workers}
    return next((s for s in range(policy.slots) if s not in used), own)


def live(cluster: Cluster) -> tuple[int, ...]:
    """Where new connections go: slots that are accepted from. With none, those that will be first."""
    accepting = sorted({w.slot for w in cluster.accepting()})
    if accepting:
        return tuple(accepting)
    coming = sorted({w.slot for w in cluster.workers.values() if w.alive and cluster.wanted(w.seat) == w.generation})
    return tuple(coming or range(max(1, min(cluster.policy.workers, cluster.policy.slots))))


def usher(cluster: Cluster) -> tuple[Mode, tuple[int, ...]]:
    """What is to be done with connections in slots nobody serves.

    While something serves, they are relayed to it, unless a worker of the slot is on its way: then they wait those few
    milliseconds. While nothing serves they wait for the first boot, and are refused once that has failed, if they
    are not to wait on.
    """
    if cluster.stopping:
        return Mode.OFF, ()
    slots = range(cluster.policy.slots)
    served = {w.slot for w in cluster.workers.values() if w.accepting}
    if any(True for _ in cluster.accepting()):
        rest = set(slots) - served - _soon(cluster)
        return (Mode.RELAY, tuple(sorted(rest))) if rest else (Mode.OFF, ())
    if cluster.problem and not cluster.policy.waits:
        return Mode.REFUSE, tuple(s for s in slots if s not in served)
    return Mode.OFF, ()


def _soon(cluster: Cluster) -> set[int]:
    """Slots whose worker is about to serve: started or committed, or about to be forked without a delay."""
    soon = {
        w.slot
        for w in cluster.workers.values()
        if w.alive and (w.phase is Phase.SERVING or cluster.wanted(w.seat) == w.generation)
    }
    for seat in cluster.seats:
        number = cluster.wanted(seat)
        if number is None or cluster.filled(seat, number) or seat in cluster.failures or BOOT in cluster.failures:
            continue
        generation = cluster.generations[number]
        if generation.boot is Boot.UP and not generation.policy.fresh_slots:
            soon.add(seat % generation.policy.slots)
    return soon

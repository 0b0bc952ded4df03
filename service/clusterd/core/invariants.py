"""What must hold in every state and for every step. Checked after each step, in the product and in tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from clusterd.core.actions import Action, Drain, Fork, Serve
from clusterd.core.model import NO_SLOT, SPARE, Boot, Cluster, Kind, Phase, Stage


class Broken(AssertionError):
    """The core contradicts itself: a bug of ours, never of the user's."""


def check(c: Cluster) -> None:
    """Raise Broken if `c` is not a state the laws allow."""
    for w in c.workers.values():
        _hold(w.generation in c.generations, f"worker {w.id} has no generation {w.generation}")
        spare = w.seat <= SPARE
        _hold(
            w.slot == NO_SLOT if spare else 0 <= w.slot < c.generations[w.generation].policy.slots,
            f"worker {w.id} in slot {w.slot}",
        )
        _hold(not spare or w.phase is not Phase.SERVING, f"spare {w.id} serves")
        _hold(not w.accepting or w.phase in (Phase.SERVING, Phase.DRAINING), f"worker {w.id} accepts while {w.phase}")
        _hold(not (w.dead and w.accepting), f"worker {w.id} is dead and accepts")
        _hold(
            w.phase is Phase.STARTING or w.ready_at is not None or w.phase is Phase.DRAINING,
            f"worker {w.id} never ready",
        )
    filled = Counter((w.seat, w.generation) for w in c.workers.values() if w.fills)
    for (seat, generation), count in filled.items():
        _hold(count == 1, f"{count} workers of generation {generation} in seat {seat}")
    _hold(c.stopping or c.current is None or c.current in c.generations, f"no current generation {c.current}")
    _hold(c.stopped <= (not c.workers), "stopped with workers")
    r = c.rollout
    if r is None:
        return
    _hold(r.target in c.generations, f"rollout to unknown generation {r.target}")
    _hold(r.base is None or r.base in c.generations, f"rollout from unknown generation {r.base}")
    _hold(0 <= r.moved <= r.upto, "rollout moved beyond its batch")
    if r.stage in (Stage.PREPARING, Stage.SOAKING) and (r.moved == 0 or r.kind is Kind.TRY):
        # Those who served before it began were moved by an earlier rollback to the same generation.
        serving = [
            w.id
            for w in c.workers.values()
            if w.generation == r.target and w.phase is Phase.SERVING and w.since > r.begun
        ]
        _hold(not serving, f"workers {serving} serve before the commit")


def check_step(after: Cluster, actions: Sequence[Action]) -> None:
    """Raise Broken if `actions`, which led to `after`, take service away that need not be, or cannot be done."""
    served = [a.worker for a in actions if isinstance(a, Serve)]
    _hold(len(served) == len(set(served)), "told to serve twice")
    drained = {a.worker for a in actions if isinstance(a, Drain)}
    _hold(not drained & set(served), "told to serve and to drain at once")
    unborn = {
        a.generation for a in actions if isinstance(a, Fork) and after.generations[a.generation].boot is not Boot.UP
    }
    _hold(not unborn, f"workers forked by generations {unborn}, whose zygotes are not up")


def _hold(truth: bool, text: str) -> None:
    if not truth:
        raise Broken(text)

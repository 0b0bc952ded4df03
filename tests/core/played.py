"""What the tests of the core share: policies, a cluster that was started, what it is like at rest."""

from __future__ import annotations

from world import World

from clusterd.core.events import Asked
from clusterd.core.model import Kind, Phase, Policy

POLICIES = {
    "all": Policy(workers=3, slots=8),
    "one": Policy(workers=3, slots=8, surge=1),
    "two": Policy(workers=5, slots=8, surge=2),
    "fresh": Policy(workers=3, slots=8, fresh_slots=True),
    "shared": Policy(workers=5, slots=2),
    "spares": Policy(workers=3, slots=8, spares=2),
    "spares one": Policy(workers=3, slots=8, surge=1, spares=1),
}


def started(policy: Policy) -> World:
    world = World()
    world.event(Asked(Kind.START, policy))
    world.quiesce()
    return world


def at_rest(world: World, workers: int, generation: int | None = None) -> None:
    """Every seat served by one generation, nothing else alive, nothing under way."""
    c = world.cluster
    current = generation if generation is not None else c.current
    assert world.serving() == {seat: [current] for seat in range(workers)}
    assert sum(w.seat >= 0 for w in c.workers.values()) == workers
    spares = [w for w in c.workers.values() if w.seat < 0]
    assert sorted(w.seat for w in spares) == sorted(c.spare_seats)
    assert all(w.phase is Phase.READY and w.generation == current for w in spares)
    assert c.rollout is None and not c.problem and not c.failures
    assert set(c.generations) == {c.current, c.previous} - {None}

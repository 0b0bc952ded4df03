"""States of the core made by hand, for its rules to be tried on one at a time."""

from __future__ import annotations

from dataclasses import replace

from clusterd.core.draft import Draft
from clusterd.core.model import Boot, Cluster, Generation, Kind, Phase, Policy, Rollout, Stage, Twin, Worker

NOW = 1000.0
THREE = Policy(workers=3, slots=8)


def worker(number: int, seat: int, phase: Phase = Phase.SERVING, generation: int = 1, **changes: object) -> Worker:
    serves = phase is Phase.SERVING
    there = Worker(number, seat, seat, generation, NOW - 50.0, phase=phase, accepting=serves, ready_at=NOW - 50.0)
    return replace(there, **changes)  # type: ignore[arg-type]


def generation(number: int, policy: Policy = THREE, **changes: object) -> Generation:
    there = Generation(number, policy, NOW - 60.0, Boot.UP, Twin.UP, twinned=True)
    return replace(there, **changes)  # type: ignore[arg-type]


def draft(*members: Worker | Generation, **changes: object) -> Draft:
    """Generation 1 is current; these are the workers, and the generations besides or instead."""
    generations = {1: generation(1)} | {m.number: m for m in members if isinstance(m, Generation)}
    workers = {m.id: m for m in members if isinstance(m, Worker)}
    cluster = replace(Cluster(generations, workers, current=1, next_worker=100), **changes)  # type: ignore[arg-type]
    return Draft(cluster, NOW)


ALL = tuple(worker(10 + seat, seat) for seat in range(3))


def rollout(stage: Stage, moved: int = 0, upto: int = 3, **changes: object) -> Rollout:
    there = Rollout(2, Kind.RELOAD, 2, 1, NOW, stage, moved, upto, NOW)
    return replace(there, **changes)  # type: ignore[arg-type]

"""What can happen to a played cluster at any moment."""

from __future__ import annotations

from collections.abc import Callable

from world import World

from clusterd.core.events import (
    Asked,
    TwinGone,
    WorkerDraining,
    WorkerFailed,
    ZygoteGone,
)
from clusterd.core.machine import deadline
from clusterd.core.model import Boot, Kind, Phase, Twin


def _kill_worker(world: World) -> None:
    if world.cluster.workers:
        world.die(max(world.cluster.workers))


def _kill_oldest(world: World) -> None:
    if world.cluster.workers:
        world.die(min(world.cluster.workers))


def _kill_zygotes(world: World) -> None:
    for g in list(world.cluster.generations.values()):
        if g.boot is not Boot.LOST and g.number in world.cluster.generations:
            world.pending = [e for e in world.pending if getattr(e, "generation", None) != g.number]
            if g.twin is Twin.ASKED:
                world.event(TwinGone(g.number))
            world.event(ZygoteGone(g.number, "killed by SIGKILL"))


def _mute(world: World) -> None:
    """READY never comes: whoever has not spoken never will, until it is killed."""
    world.pending = [e for e in world.pending if "Ready" not in type(e).__name__]


def _reload(world: World) -> None:
    world.event(Asked(Kind.RELOAD, world.cluster.policy))


def _say_failed(world: World) -> None:
    if world.cluster.workers:
        worker = max(world.cluster.workers)
        world.event(WorkerFailed(worker, "lifespan startup failed"))
        world.die(worker)


def _replace_master_late(world: World) -> None:
    """What was due while there was none is found by the next."""
    world.now = deadline(world.cluster, world.now) or world.now
    world.replace_master()


def _leave(world: World) -> None:
    serving = [w.id for w in world.cluster.workers.values() if w.phase is Phase.SERVING]
    if serving:
        world.event(WorkerDraining(serving[0]))
        world.die(serving[0])


FAULTS: dict[str, Callable[[World], None]] = {
    "worker dies": _kill_worker,
    "oldest worker dies": _kill_oldest,
    "zygotes die": _kill_zygotes,
    "ready never comes": _mute,
    "second reload": _reload,
    "worker says it failed": _say_failed,
    "worker leaves by itself": _leave,
    "master replaced": World.replace_master,
    "master replaced late": _replace_master_late,
    "rollback": lambda w: w.event(Asked(Kind.ROLLBACK, w.cluster.policy)),
    "try": lambda w: w.event(Asked(Kind.TRY, w.cluster.policy)),
}

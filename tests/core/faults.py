"""What can happen to a played cluster at any moment."""

from __future__ import annotations

from collections.abc import Callable

from world import World

from clusterd.core.events import (
    Asked,
    ScaleAsked,
    TwinGone,
    WorkerDraining,
    WorkerFailed,
    WorkerHung,
    WorkerSpent,
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


def _kill_unreaped(world: World) -> None:
    """It is dead, and whoever reaps it is late."""
    alive = [w.id for w in world.cluster.workers.values() if not w.dead]
    if alive:
        world.die(max(alive), reaped=False)


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


def _spend(world: World) -> None:
    for w in list(world.cluster.workers.values())[:2]:
        world.event(WorkerSpent(w.id, "has served 1000 requests"))


def _hung(world: World, which: int, *phases: Phase, accepts: bool = False) -> int | None:
    """Who hangs: it hears nothing any more, and so says nothing, until it is killed. None when it is being killed."""
    alive = [w.id for w in world.cluster.workers.values() if w.phase in phases and not w.killed]
    if not alive:
        return None
    world.event(WorkerHung(alive[which], "has given no sign of life for 15 s", 5.0, accepts=accepts))
    w = world.cluster.workers.get(alive[which])
    return w.id if w is not None and not w.killed else None


def _silence(world: World, worker: int | None) -> None:
    world.pending = [e for e in world.pending if worker is None or getattr(e, "worker", None) != worker]


def _hang(world: World) -> None:
    _silence(world, _hung(world, 0, Phase.READY, Phase.SERVING))


def _pause(world: World) -> None:
    """It is slow to answer: by the time it does, it has been told to leave."""
    _hung(world, -1, Phase.READY, Phase.SERVING)


def _scale(world: World, workers: int | None) -> None:
    scaled = world.cluster.scaled
    world.event(ScaleAsked(workers, scaled.file if scaled is not None else world.cluster.policy.workers))


def _hang_accepting(world: World) -> None:
    _silence(world, _hung(world, -1, Phase.SERVING, accepts=True))


FAULTS: dict[str, Callable[[World], None]] = {
    "worker dies": _kill_worker,
    "oldest worker dies": _kill_oldest,
    "worker dies unreaped": _kill_unreaped,
    "zygotes die": _kill_zygotes,
    "ready never comes": _mute,
    "second reload": _reload,
    "worker says it failed": _say_failed,
    "worker leaves by itself": _leave,
    "master replaced": World.replace_master,
    "master replaced late": _replace_master_late,
    "two are spent": _spend,
    "one hangs": _hang,
    "one pauses": _pause,
    "one hangs and accepts": _hang_accepting,
    "scaled up": lambda w: _scale(w, w.cluster.policy.workers % 7 + 1),
    "scaled down": lambda w: _scale(w, max(1, w.cluster.policy.workers - 1)),
    "scaled back": lambda w: _scale(w, None),
    "rollback": lambda w: w.event(Asked(Kind.ROLLBACK, w.cluster.policy)),
    "try": lambda w: w.event(Asked(Kind.TRY, w.cluster.policy)),
}

"""The state while a step works on it, with the actions it has decided so far."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from clusterd.core import lifecycle, slots
from clusterd.core.actions import Action, Kill, Steer, Tell, Usher, What
from clusterd.core.model import Cluster, Rollout, Worker


class Draft:
    """Lives for one `step`. `cluster` is replaced, never changed."""

    def __init__(self, cluster: Cluster, now: float) -> None:
        self.cluster = cluster
        self.now = now
        self.actions: list[Action] = []

    def act(self, *actions: Action) -> None:
        self.actions.extend(actions)

    def tell(self, what: What, text: str = "", **fields: Any) -> None:
        self.actions.append(Tell(what, text, **fields))

    def put(self, worker: Worker, **changes: Any) -> Worker:
        worker = replace(worker, **changes)
        self.cluster = self.cluster.with_worker(worker)
        return worker

    def move(self, worker: Worker, what: str, **changes: Any) -> Worker:
        """Move `worker` by the table; its clock starts anew when the phase changes."""
        phase = lifecycle.move_worker(worker.phase, what)
        if phase is not worker.phase:
            changes = {"since": self.now, "until": None, **changes}
        return self.put(worker, phase=phase, **changes)

    def roll(self, rollout: Rollout, what: str = "", **changes: Any) -> Rollout:
        """Change the rollout under way; by the table, its clock starting anew, when `what` is given."""
        if what:
            changes = {"stage": lifecycle.move_rollout(rollout.stage, what), "since": self.now, **changes}
        rollout = replace(rollout, **changes)
        self.cluster = replace(self.cluster, rollout=rollout)
        return rollout

    def kill(self, worker: Worker) -> None:
        if not worker.killed:
            self.put(worker, killed=True, until=None)
            self.act(Kill(worker.id))

    def steer(self) -> None:
        """Let the kernel and the usher follow what is true now; before a drain, so that nothing new arrives there."""
        live = slots.live(self.cluster)
        if live != self.cluster.steered:
            self.cluster = replace(self.cluster, steered=live)
            self.act(Steer(live))
        ushered = slots.usher(self.cluster)
        if ushered != self.cluster.ushered:
            self.cluster = replace(self.cluster, ushered=ushered)
            self.act(Usher(*ushered))

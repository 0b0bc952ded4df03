"""Workers that take too much memory: found, and told to the core."""

from __future__ import annotations

from clusterd.core.events import WorkerSpent
from clusterd.core.model import Phase
from clusterd.master.context import Context
from clusterd.master.ledger import Ledger
from clusterd.master.workers import Body, Workers
from clusterd.shell import usage


class Recycling:
    def __init__(self, context: Context, ledger: Ledger, workers: Workers) -> None:
        self.context = context
        self.ledger = ledger
        self.workers = workers

    def look(self) -> None:
        """Call it now and then: no event tells of memory."""
        for number, w in self.ledger.cluster.workers.items():
            body, release = self.workers.bodies.get(number), self.ledger.releases.get(w.generation)
            settings = release.settings if release is not None else None
            limit = settings.recycle.max_memory if settings is not None else None
            if limit is None or body is None or w.phase is not Phase.SERVING or not w.fills:
                continue
            takes = self._takes(body, limit)
            if takes > limit:
                reason = f"takes {takes / (1 << 20):.1f} MiB of memory, at most {limit / (1 << 20):.1f} ([recycle])"
                self.context.events.append(WorkerSpent(number, reason))

    def _takes(self, body: Body, limit: int) -> int:
        """Bytes; exact only above `limit`, for a look at the parts of what is shared costs time."""
        working_set = self.context.cgroups.memory(f"worker-{body.id}")
        if working_set is not None:
            return working_set
        pids = {*self.context.cgroups.pids(f"worker-{body.id}"), *([body.pid] if body.pid else [])}
        resident = sum(map(usage.resident, pids))
        return resident if resident <= limit else sum(map(usage.proportional, pids))

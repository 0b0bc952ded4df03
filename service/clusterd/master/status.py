"""What `clusterd status` shows: docs/architecture.md, "Status"."""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from typing import Any

from clusterd import __version__
from clusterd.core.model import NO_SLOT, Boot, Cluster, Kind, Phase, Worker
from clusterd.master import sockets
from clusterd.master.bridging import Bridging
from clusterd.master.context import Context
from clusterd.master.ledger import Ledger
from clusterd.master.tasks import Tasks
from clusterd.master.telling import summary
from clusterd.master.workers import Workers
from clusterd.shell import usage
from clusterd.worker import board


class Status:
    """Called for the status as it is: plain JSON values, no variable of the environment in them."""

    def __init__(self, context: Context, ledger: Ledger, workers: Workers, tasks: Tasks, bridging: Bridging) -> None:
        self.context = context
        self.ledger = ledger
        self.workers = workers
        self.tasks = tasks
        self.bridging = bridging
        self.born = time.monotonic()

    def __call__(self) -> dict[str, Any]:
        c = self.ledger.cluster
        now, wall = time.monotonic(), time.time()
        r, receipt = c.rollout, self.ledger.last_receipt
        return {
            "name": self.context.name,
            "version": __version__,
            "state": state_of(c),
            "summary": summary(c),
            "problem": c.problem or sockets.shortage(self.context, self.ledger) or None,
            "profile": (running.profile if (running := self.ledger.running) else "") or None,
            "master": {"pid": os.getpid(), "starts": self.context.keeping.starts, "since": wall - (now - self.born)},
            "generation": c.current,
            "previous": c.previous,
            "wanted": c.policy.workers,
            "workers": [self._worker(n, now) for n in sorted(c.workers)],
            "generations": [self._generation(n) for n in sorted(c.generations)],
            "slots": {"total": self.context.slots.total, "live": list(c.steered) if next(c.accepting(), None) else []},
            "listen": [group.text for group in self.context.slots.groups],
            "rollout": {"number": r.number, "kind": r.kind, "phase": r.stage, "generation": r.target} if r else None,
            "receipt": asdict(receipt) if receipt else None,
            "receipts": [asdict(each) for each in self.ledger.receipts.values()],
            "tasks": self.tasks.status(),
            "bus": self.bridging.status(),
        }

    def _worker(self, number: int, now: float) -> dict[str, Any]:
        w, body = self.ledger.cluster.workers[number], self.workers.bodies.get(number)
        ends = self.ledger.ends.get(w.slot)
        pid = body.pid if body else None
        page = board.read(body.board) if body and body.board is not None else None
        figures = page.figures if page else board.Figures()
        return {
            "worker": number,
            "slot": None if w.slot == NO_SLOT else w.slot,
            "generation": w.generation,
            "state": state_of_worker(w),
            "pid": pid,
            "age": round(now - (w.ready_at if w.ready_at is not None else w.since), 3),
            "requests": figures.requests,
            "in_flight": figures.in_flight,
            "connections": figures.connections,
            "beat": round(max(0.0, now - page.beat), 3) if page else None,
            "memory": usage.resident(pid) if pid else 0,
            "cpu": round(usage.processor(pid), 2) if pid else 0.0,
            "restarts": ends.count if ends else 0,
            "last_end": ends.last if ends else None,
            "last_end_at": time.time() - (now - ends.when) if ends else None,
            "status_text": body.stated or None if body else None,
        }

    def _generation(self, number: int) -> dict[str, Any]:
        c, release = self.ledger.cluster, self.ledger.releases.get(number)
        g, zygotes = c.generations[number], self.workers.zygotes
        zygote, twin = zygotes.zygotes.get(number), zygotes.twins.get(number)
        return {
            "generation": number,
            "state": "parked" if g.boot is Boot.UP and number == c.previous else g.boot,
            "mode": release.mode if release else None,
            "why": release.why if release else [],
            "zygote": zygote.pid if zygote else None,
            "twin": twin.pid if twin else None,
            "interface": release.interface if release else None,
            "engine": release.engine if release else None,
            "python": release.python if release else None,
            "directory": release.directory if release else None,
        }


def state_of_worker(w: Worker) -> str:
    """One word: starting, ready, spare, serving, draining, or dead while it is not known how it died."""
    if w.dead:
        return "dead"
    return "spare" if w.slot == NO_SLOT and w.phase is Phase.READY else w.phase


def state_of(c: Cluster) -> str:
    """One word: starting, serving, reloading, degraded or stopping."""
    if c.stopping:
        return "stopping"
    if c.rollout is not None and c.changing:
        return "starting" if c.rollout.kind is Kind.START else "reloading"
    if c.problem or c.unsettled:
        return "degraded"
    return "serving"

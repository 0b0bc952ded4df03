"""Workers that give no sign of life: found, asked where they stand, told to the core."""

from __future__ import annotations

import math
import time

from clusterd.core.events import WorkerHung
from clusterd.core.model import Phase
from clusterd.master.context import Context
from clusterd.master.ledger import Ledger
from clusterd.master.workers import Body, Workers
from clusterd.shell import pidfd, usage
from clusterd.worker import board

CONFIRM = 2.0
"""Seconds until a second look, twice as long as between two signs of life: after a frozen machine or service thaws, its
master may be the first that runs."""

PUNCTUAL = 1.0
"""Seconds a look may be late; before a later one nobody's silence counts, for the master has not run either."""


class Hanging:
    """Looks when the one that was seen longest ago would be late: hardly more often than [health] watchdog."""

    def __init__(self, context: Context, ledger: Ledger, workers: Workers) -> None:
        self.context = context
        self.ledger = ledger
        self.workers = workers
        self._due = math.inf
        self._since = -math.inf
        """Silence counts from here on."""
        self._suspects: dict[int, float] = {}
        """Silent for too long, and since when that is known."""

    def deadline(self) -> float | None:
        return self._due if self._due < math.inf else None

    def tick(self) -> None:
        now = time.monotonic()
        watched = self._watched()
        if now < self._due:
            self._due = min([self._due, *(now + limit for _, limit in watched)])
            return
        if now - self._due > PUNCTUAL:
            # What thaws runs again in any order, and with much on one machine not at once: each has its time anew.
            self._since = now
        self._due = math.inf
        self._suspects = {n: since for n, since in self._suspects.items() if n in self.workers.bodies}
        for body, limit in watched:
            if (beat := self._beat(body)) is not None:
                self._due = min(self._due, self._look(body, now, beat, limit))

    def _look(self, body: Body, now: float, beat: float, limit: float) -> float:
        """When to look again."""
        counted = max(beat, self._since)
        if now - counted < limit:
            self._suspects.pop(body.id, None)
            return counted + limit
        since = self._suspects.setdefault(body.id, now)
        if now - since < CONFIRM:
            return since + CONFIRM
        del self._suspects[body.id]
        if body.pidfd is not None and body.board is not None:
            pidfd.send(body.pidfd, board.STACKS)
        stopped = body.pid is not None and usage.is_stopped(body.pid)
        words = self._words(body, now - beat) + ("; it is stopped (SIGSTOP), not hanging by itself" if stopped else "")
        # Who accepts in a thread of its own (granian's, of Rust) does so while it hangs; of a command nothing is known.
        accepts = not stopped and (body.command or self.ledger.releases[body.generation].engine.startswith("granian"))
        self.context.events.append(WorkerHung(body.id, words, limit, accepts))
        return now + limit

    def _watched(self) -> list[tuple[Body, float]]:
        """Those that are to give signs of life, and how long they may be without one."""
        found = []
        for number, body in self.workers.bodies.items():
            w, release = self.ledger.cluster.workers.get(number), self.ledger.releases.get(body.generation)
            settings = release.settings if release is not None else None
            limit = settings.health.watchdog if settings is not None else None
            if limit is not None and w is not None and w.alive and w.phase in (Phase.READY, Phase.SERVING):
                found.append((body, limit))
        return found

    @staticmethod
    def _beat(body: Body) -> float | None:
        """None before the first sign: a start has a time of its own."""
        if body.command:
            return body.beat
        page = board.read(body.board) if body.board is not None else None
        return page.beat if page is not None else None

    def _words(self, body: Body, silent: float) -> str:
        release = self.ledger.releases[body.generation]
        if release.interface == "wsgi":
            return f"has ended no request for {silent:.0f} s, and all its threads are busy"
        return f"has given no sign of life for {silent:.0f} s"

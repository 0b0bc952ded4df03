"""More or fewer workers at run time: who asked, and what they are told when it is so."""

from __future__ import annotations

import re
from collections.abc import Callable

from clusterd.core.events import ScaleAsked
from clusterd.master.context import Context
from clusterd.master.ledger import Ledger
from clusterd.shell.control import Call

MAX_WORKERS = 1024
"""As for `workers` in the file."""


class Scaling:
    def __init__(self, context: Context, ledger: Ledger, advance: Callable[[], None]) -> None:
        """`advance` lets the core take in what is in the queue, now."""
        self.context = context
        self.ledger = ledger
        self._advance = advance
        self._callers: list[Call] = []

    def ask(self, call: Call) -> None:
        """Of `workers`: "4", "+1", "-2", or "file" for as many as the file says."""
        text = str(call.parameters.get("workers") or "")
        if text != "file" and re.fullmatch(r"[+-]?[0-9]{1,4}", text) is None:
            self._refuse(call, f"expected a number of workers, +K, -K or 'file', found '{text[:20]}'")
        elif self.ledger.cluster.stopping:
            call.error("Stopping")
        elif (number := self._number()) is None:
            self._refuse(call, "it has not started yet")
        else:
            wanted = None if text == "file" else int(text) + (number if text[0] in "+-" else 0)
            if wanted is not None and not 1 <= wanted <= MAX_WORKERS:
                self._refuse(call, f"expected 1 to {MAX_WORKERS} workers, found {wanted}; there are to be {number} now")
                return
            self._callers.append(call)
            self._scale(wanted)

    def step(self, more: int) -> None:
        """By a signal: so many more, or fewer, as far as that goes."""
        if (number := self._number()) is not None:
            self._scale(max(1, min(MAX_WORKERS, number + more)))

    def advance(self) -> None:
        """Answer those who asked, once it is so, or cannot be for now."""
        c = self.ledger.cluster
        if not self._callers:
            return
        if c.stopping:
            for call in self._callers:
                call.error("Stopping")
        else:
            wanted = c.policy.workers
            settled = not c.changing and not c.unsettled and all(w.seat < wanted for w in c.accepting())
            if not settled and not c.problem:
                return
            for call in self._callers:
                call.reply(workers=wanted, serving=sum(1 for _ in c.accepting()), problem=c.problem or None)
        self._callers.clear()

    def close(self) -> None:
        for call in self._callers:
            call.error("Stopping")
        self._callers.clear()

    def _number(self) -> int | None:
        """How many there are to be now; None before the first generation is known."""
        return self.ledger.cluster.policy.workers if self.ledger.running is not None else None

    def _scale(self, workers: int | None) -> None:
        c, releases = self.ledger.cluster, self.ledger.releases
        newest = releases[c.rollout.target].settings if c.rollout is not None and c.changing else None
        settings = newest or self.ledger.running
        assert settings is not None
        self.context.events.append(ScaleAsked(workers, settings.workers))
        self._advance()  # another who asks for one more in this round means one more than this

    @staticmethod
    def _refuse(call: Call, reason: str) -> None:
        call.error("Refused", reason=reason, detail="")

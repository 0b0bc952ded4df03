"""Who asks for a run of a task over the control socket, and waits: whether it can begin here, and how it ends."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

from clusterd.config.values import duration_text
from clusterd.master.bridging import Bridging
from clusterd.master.ledger import Ledger
from clusterd.shell.control import Call
from clusterd.tasks.events import Asked, Ended, Event
from clusterd.tasks.model import Outcome, Run

MAX_REPLY = 1 << 20
"""Bytes of a result that is given to who asked for the run; longer ones are published only."""
UNCERTAIN = 60.0
"""Seconds that a call waits until it is certain where its task runs. A lease whose host is gone is ours within 35."""


@dataclass(frozen=True)
class Held:
    """A call of which it is not certain yet whether its task runs here."""

    call: Call
    since: float


class Callers:
    def __init__(self, ledger: Ledger, bridging: Bridging, events: deque[Event]) -> None:
        """`events` is where a run is asked for."""
        self.ledger = ledger
        self.bridging = bridging
        self.events = events
        self.waiting: dict[int, list[Call]] = {}
        """For a run, by its number."""
        self.asking: dict[str, list[Call]] = {}
        """For the next run of a task, which has no number yet."""
        self.held: list[Held] = []

    def ask(self, call: Call) -> None:
        """Run(task, join): docs/architecture.md."""
        held = Held(call, time.monotonic())
        if not self._decided(held):
            call.progress(run=0, joined=False, reason=self._hindrance())
            self.held.append(held)

    def advance(self) -> None:
        """What was uncertain may be certain by now. Whoever has hung up does not want it any more."""
        self.held = [held for held in self.held if not held.call.client.closed and not self._decided(held)]

    def deadline(self) -> float | None:
        return min((held.since + UNCERTAIN for held in self.held), default=None)

    # what becomes of runs

    def begun(self, name: str, number: int) -> None:
        for call in self.asking.pop(name, []):
            self._await(call, number)

    def unborn(self, name: str | None, number: int) -> None:
        """It never was: they wait for the next."""
        if name is not None and (calls := self.waiting.pop(number, [])):
            self.asking.setdefault(name, []).extend(calls)

    def removed(self) -> None:
        """Tasks may have gone: nobody waits for a run of theirs."""
        known = self._names()
        for name in [name for name in self.asking if name not in known]:
            for call in self.asking.pop(name):
                call.error("NoTask", known=known)

    def ended(self, ended: Ended, result: str | None) -> None:
        """`result` is JSON."""
        done = ended.outcome is Outcome.DONE
        if not done or (result is not None and len(result.encode()) > MAX_REPLY):
            result = None
        for call in self.waiting.pop(ended.number, []):
            call.reply(run=ended.number, outcome=ended.outcome, result=result, reason=None if done else ended.text)

    def close(self) -> None:
        for calls in [*self.waiting.values(), *self.asking.values(), [held.call for held in self.held]]:
            for call in calls:
                call.error("Stopping")

    # deciding

    def _decided(self, held: Held) -> bool:
        """Whether the call has its answer, or its run; False: that is for later."""
        call, name = held.call, held.call.parameters.get("task")
        known = self.ledger.tasks.tasks.get(name) if isinstance(name, str) else None
        if self.ledger.cluster.stopping:
            call.error("Stopping")
        elif not isinstance(name, str) or known is None or known.removed:
            call.error("NoTask", known=self._names())
        elif known.run is not None and not known.run.settled:
            self._meet(call, name, known.run)
        elif not self._hindrance():
            self.asking.setdefault(name, []).append(call)
            self.events.append(Asked(name))
        elif call.parameters.get("join") and self._uncertain(held):
            return False
        else:
            self._refuse(call)
        return True

    def _hindrance(self) -> str:
        """Why no run can begin here now; "" where one can."""
        if (where := self.bridging.elsewhere()) is not None:
            return f"it does not run here: {where}"
        if self.ledger.tasks.generation is None:
            return "there is no process to fork it from: the application is being imported"
        return ""

    def _uncertain(self, held: Held) -> bool:
        """Whether it may still come to be run here: the other host may have died before the call, its lease has not."""
        return time.monotonic() < held.since + UNCERTAIN and not self.bridging.renewed(held.since)

    def _meet(self, call: Call, name: str, run: Run) -> None:
        """It runs already."""
        if call.parameters.get("join"):
            self._await(call, run.number, joined=True)
        else:
            since = duration_text(round(time.monotonic() - run.since))
            call.error("Busy", text=f"task {name} runs already, for {since}")

    def _refuse(self, call: Call) -> None:
        if self.bridging.elsewhere() is None:
            call.error("Busy", text=self._hindrance())
        else:
            outcome = "elsewhere" if self.bridging.another() else "failed"
            call.reply(run=0, outcome=outcome, result=None, reason=self._hindrance())

    def _await(self, call: Call, number: int, *, joined: bool = False) -> None:
        call.progress(run=number, joined=joined)
        self.waiting.setdefault(number, []).append(call)

    def _names(self) -> list[str]:
        return sorted(name for name, task in self.ledger.tasks.tasks.items() if not task.removed)

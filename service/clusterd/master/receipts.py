"""Receipts: how a start, reload or rollback ended, for its caller, the journal and `clusterd status`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Receipt:
    """The counts are of the old workers, and complete when `drained`."""

    number: int
    kind: str
    outcome: str
    generation: int
    workers: int
    seconds: float
    reason: str | None = None
    gap: float = 0.0  # the longest time a slot had nobody who accepted
    closed: int = 0  # idle connections the old workers closed
    websockets: int = 0  # closed with 1012
    cut: int = 0  # connections cut unanswered at the end of the drain
    untold: int = 0  # old workers that did not say what they cut: those of a `command`, and any that are killed
    drained: bool = False  # the old workers are gone: the counts are complete
    text: str = ""

    def write(self) -> Receipt:
        """Compose `text` from the rest."""
        did = {"done": "", "refused": "refused: ", "returned": "returned: ", "superseded": "", "stopped": ""}[
            self.outcome
        ]
        if self.outcome == "done" and self.kind == "try":
            self.text = f"#{self.number}: the code on disk boots and is ready ({self.seconds:.1f} s)"
        elif self.outcome == "done":
            self.text = (
                f"#{self.number}: {self.workers}/{self.workers} in {self.seconds:.1f} s, "
                + (self._cost() if self.drained else "")
                + f"longest queue wait {self.gap * 1000:.0f} ms"
            )
        else:
            self.text = f"#{self.number}: {did}{self.reason}"
        return self

    def _cost(self) -> str:
        known = f"{self.cut} reset, {self.websockets} WebSockets closed 1012, "
        if not self.untold:
            return known
        return f"at least {known}" if self.cut or self.websockets else "resets not known, "

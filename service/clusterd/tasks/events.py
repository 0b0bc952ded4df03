"""What happens to tasks, and what is to be done. Each may be told or done again, by another master."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from clusterd.tasks.model import Outcome, Plan


@dataclass(frozen=True)
class Situated:
    """What holds now: who can fork, what the generation that serves has for tasks, whether the service stops."""

    generation: int | None
    plans: Mapping[str, Plan]
    stopping: bool
    grace: float
    lost: str = ""
    """Why no run may go on here; a new one cannot begin then: `generation` is None."""


@dataclass(frozen=True)
class Asked:
    """Somebody wants it to run now, due or not. While it runs already, nothing; at its very end, once more."""

    task: str


@dataclass(frozen=True)
class Begun:
    """The process is there."""

    number: int


@dataclass(frozen=True)
class Said:
    """Its result, or that it failed: the process is about to leave."""

    number: int
    done: bool
    text: str


@dataclass(frozen=True)
class Gone:
    """The process is dead, or could not be made."""

    number: int
    reason: str


@dataclass(frozen=True)
class Unborn:
    """Its fork was ordered and never carried out, because the master or the zygote died in between."""

    number: int


@dataclass(frozen=True)
class Passed:
    """Nothing but time."""


Event = Situated | Asked | Begun | Said | Gone | Unborn | Passed


@dataclass(frozen=True)
class Start:
    task: str
    number: int
    generation: int


@dataclass(frozen=True)
class Dismiss:
    """What it said is written down: it may leave."""

    number: int


@dataclass(frozen=True)
class Terminate:
    number: int


@dataclass(frozen=True)
class Kill:
    number: int


@dataclass(frozen=True)
class Ended:
    """The outcome of a run, for whoever waits for it. `news`: it failed as the first, or is the first that did not."""

    task: str
    number: int
    outcome: Outcome
    text: str
    news: bool


Action = Start | Dismiss | Terminate | Kill | Ended

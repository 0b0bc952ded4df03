"""What is known of the tasks: frozen values. All times are monotonic seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum


class Phase(StrEnum):
    """Of a run's process."""

    STARTING = "starting"  # its fork is ordered
    RUNNING = "running"
    ENDING = "ending"  # it has said its result, or was told to end


class Outcome(StrEnum):
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"  # the service ended it: nobody's fault


@dataclass(frozen=True)
class Plan:
    """What the file says of a task. `every` None: somebody else says when."""

    call: str
    publish: str | None = None
    every: float | None = None
    timeout: float = 3600.0
    jitter: float = 0.0


@dataclass(frozen=True)
class Run:
    """One process, from the order to fork it until its death is known."""

    number: int  # as a worker's: never used again
    generation: int
    since: float
    timeout: float  # as the file had it when it began, like what follows
    publish: str | None = None
    phase: Phase = Phase.STARTING
    until: float | None = None  # when it is ended, or killed, if it is still in its phase
    why: str = ""  # it is ended for
    settled: bool = False  # its outcome is known, and told
    killed: bool = False


@dataclass(frozen=True)
class Last:
    """How the last run came out. `text`: its result as JSON, cut, or why it failed."""

    number: int
    outcome: Outcome
    text: str
    seconds: float
    ended: float


@dataclass(frozen=True)
class Task:
    plan: Plan
    slot: float | None = None  # when it is due by the plan; None: nobody knows
    due: float | None = None  # the same, and its jitter
    asked: bool = False  # somebody wants it now
    run: Run | None = None
    last: Last | None = None
    failures: int = 0  # in a row
    removed: bool = False  # not in the file any more: it is forgotten when its run has ended


@dataclass(frozen=True)
class Tasks:
    """Everything. `generation` is whose zygote can fork a run, None: nobody's can now."""

    tasks: Mapping[str, Task] = field(default_factory=dict)
    generation: int | None = None
    stopping: bool = False
    lost: str = ""  # why what runs must not go on: another host may run it
    grace: float = 5.0  # what a run has for its end when the service stops
    next: int = 1  # a number nobody has had
    salt: int = 0  # by chance: two hosts with the same file do not begin in the same instant

    def with_task(self, name: str, task: Task | None) -> Tasks:
        rest = {key: each for key, each in self.tasks.items() if key != name}
        return replace(self, tasks={**rest, name: task} if task else rest)

    def of_run(self, number: int) -> str | None:
        """The name of the task whose run that is."""
        return next((name for name, t in self.tasks.items() if t.run is not None and t.run.number == number), None)

    @property
    def busy(self) -> bool:
        """Whether any run is not over."""
        return any(t.run is not None for t in self.tasks.values())

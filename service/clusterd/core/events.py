"""What can happen. Each event moves one worker, one zygote or one request; `rules` draws the consequences."""

from __future__ import annotations

from dataclasses import dataclass

from clusterd.core.model import Kind, Policy


@dataclass(frozen=True)
class Asked:
    """A change of generation is asked for. A start, reload or try makes a new one, a rollback takes the last."""

    kind: Kind
    policy: Policy


@dataclass(frozen=True)
class ScaleAsked:
    """So many workers, 1 or more, whatever the file says; None: as the file, which says `file`."""

    workers: int | None
    file: int


@dataclass(frozen=True)
class StopAsked:
    """Drain everything and leave."""


@dataclass(frozen=True)
class Adopted:
    """A new master has taken over: what was ordered and not seen done is ordered again."""


@dataclass(frozen=True)
class ZygoteUp:
    """The application is imported. `twinned`: its code is in the zygote's memory. `policy`: read anew for this boot."""

    generation: int
    twinned: bool = True
    policy: Policy | None = None


@dataclass(frozen=True)
class ZygoteGone:
    """The zygote is gone, with its reason: during the boot that is the failure of the import."""

    generation: int
    reason: str


@dataclass(frozen=True)
class ZygoteUnborn:
    """Its boot was ordered and never begun, because the master died in between: nobody's fault."""

    generation: int


@dataclass(frozen=True)
class TwinUp:
    generation: int


@dataclass(frozen=True)
class TwinGone:
    generation: int


@dataclass(frozen=True)
class WorkerReady:
    worker: int


@dataclass(frozen=True)
class WorkerServing:
    """It accepts now."""

    worker: int


@dataclass(frozen=True)
class WorkerDraining:
    """It no longer accepts: because it was told to, or because it decided to leave."""

    worker: int


@dataclass(frozen=True)
class WorkerFailed:
    """It says why it cannot become ready; its death follows."""

    worker: int
    reason: str


@dataclass(frozen=True)
class WorkerSpent:
    """It has served long enough, or takes too much: another is to take its place before it goes."""

    worker: int
    reason: str


@dataclass(frozen=True)
class WorkerHung:
    """It gives no sign of life any more, and is killed if it does not come back within `grace` seconds.

    `accepts`: it takes connections from its slot all the same, as engines do that accept in threads of their own.
    """

    worker: int
    reason: str
    grace: float
    accepts: bool = False


@dataclass(frozen=True)
class WorkerDead:
    """The process is dead; `WorkerGone`, which says how, follows as soon as whoever reaps it has."""

    worker: int


@dataclass(frozen=True)
class WorkerGone:
    """The process is dead, or could not be forked. `advice`: what the person may have done wrong, when it looks so."""

    worker: int
    reason: str
    advice: str = ""


@dataclass(frozen=True)
class WorkerUnborn:
    """Its fork was ordered and never carried out, because the master died in between: nobody's fault."""

    worker: int


@dataclass(frozen=True)
class Passed:
    """Nothing happened but time."""


Event = (
    Asked
    | ScaleAsked
    | StopAsked
    | Adopted
    | ZygoteUp
    | ZygoteGone
    | ZygoteUnborn
    | TwinUp
    | TwinGone
    | WorkerReady
    | WorkerServing
    | WorkerDraining
    | WorkerFailed
    | WorkerSpent
    | WorkerHung
    | WorkerDead
    | WorkerGone
    | WorkerUnborn
    | Passed
)

"""What the shell is asked to do, in the order given. All are idempotent: a new master may be told them again."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from clusterd.core.model import Kind, Mode


class Outcome(StrEnum):
    """How a request for a rollout ended."""

    DONE = "done"
    REFUSED = "refused"
    RETURNED = "returned"
    SUPERSEDED = "superseded"
    STOPPED = "stopped"


class What(StrEnum):
    """The things worth telling people. The shell gives each its MESSAGE_ID."""

    STARTED = "started"
    START_FAILED = "start-failed"
    DEGRADED = "degraded"
    RECOVERED = "recovered"
    WORKER_READY = "worker-ready"
    WORKER_DIED = "worker-died"
    WORKER_REPLACED = "worker-replaced"
    WORKER_LEFT = "worker-left"
    WORKER_TIMEOUT = "worker-timeout"
    WORKER_CUT = "worker-cut"
    WORKER_SPENT = "worker-spent"
    WORKER_HUNG = "worker-hung"
    ZYGOTE_LOST = "zygote-lost"
    BOOT_FAILED = "boot-failed"
    BEGUN = "begun"
    COMMITTED = "committed"
    DONE = "done"
    REFUSED = "refused"
    UNDONE = "undone"
    RETURNING = "returning"
    RETURNED = "returned"
    SUPERSEDED = "superseded"
    SETTLED = "settled"
    SCALED = "scaled"
    GENERATION_GONE = "generation-gone"
    STOPPING = "stopping"
    STOPPED = "stopped"


@dataclass(frozen=True)
class BootZygote:
    generation: int


@dataclass(frozen=True)
class EndGeneration:
    """Let the zygote and its twin leave. Workers are not touched."""

    generation: int


@dataclass(frozen=True)
class MakeTwin:
    generation: int


@dataclass(frozen=True)
class PromoteTwin:
    """The zygote is dead: its twin is the zygote now."""

    generation: int


@dataclass(frozen=True)
class Fork:
    """With NO_SLOT it is a spare: it gets its sockets when it is told to serve."""

    worker: int
    generation: int
    slot: int


@dataclass(frozen=True)
class Serve:
    """Accept; on the sockets of `slot` if it is given: the worker was forked without any."""

    worker: int
    slot: int | None = None


@dataclass(frozen=True)
class Drain:
    """Stop accepting, finish what there is; close idle connections after `linger` seconds, be gone after `timeout`."""

    worker: int
    linger: float
    timeout: float


@dataclass(frozen=True)
class Kill:
    """End the process and its descendants at once."""

    worker: int


@dataclass(frozen=True)
class Steer:
    """New connections go to these slots only. Never empty."""

    slots: tuple[int, ...]


@dataclass(frozen=True)
class Usher:
    """The slots to be looked after while nobody serves them; the usher itself starts when a connection waits."""

    mode: Mode
    slots: tuple[int, ...]


@dataclass(frozen=True)
class Finish:
    """Answer whoever asked for rollout `number`."""

    number: int
    kind: Kind
    outcome: Outcome
    generation: int
    reason: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Tell:
    """Tell people (journal, status). Fields that do not apply are None or empty."""

    what: What
    text: str = ""
    worker: int | None = None
    slot: int | None = None
    generation: int | None = None
    number: int | None = None


@dataclass(frozen=True)
class Exit:
    """Everything is over: leave with this status."""

    status: int


Action = (
    BootZygote
    | EndGeneration
    | MakeTwin
    | PromoteTwin
    | Fork
    | Serve
    | Drain
    | Kill
    | Steer
    | Usher
    | Finish
    | Tell
    | Exit
)

"""What the core knows: frozen values, and the questions that can be asked of them.

All times are monotonic seconds. Maps are plain dicts that nobody changes: a change makes a new one (`with_worker`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

BOOT = -1
"""The seat under which the zygote's own failures are counted."""

SPARE = -2
"""The first spare's seat; the next ones are below it. Whoever sits there is ready and has no slot to serve."""

NO_SLOT = -1


class Phase(StrEnum):
    """What a worker has been told to be. Whether it accepts is an observation of its own (`Worker.accepting`)."""

    STARTING = "starting"
    READY = "ready"
    SERVING = "serving"
    DRAINING = "draining"


class Boot(StrEnum):
    """Whether a generation can fork workers."""

    BOOTING = "booting"
    UP = "up"
    LOST = "lost"


class Twin(StrEnum):
    """The zygote's forked understudy."""

    NONE = "none"
    ASKED = "asked"
    UP = "up"


class Kind(StrEnum):
    START = "start"
    RELOAD = "reload"
    ROLLBACK = "rollback"
    TRY = "try"


class Stage(StrEnum):
    """Where a rollout is. Its ends (refused, done, returned, ...) are not stages: an ended rollout is gone."""

    PREPARING = "preparing"
    SOAKING = "soaking"
    COMMITTED = "committed"
    RETURNING = "returning"


class Mode(StrEnum):
    """What the usher does with a connection nobody serves."""

    OFF = "off"
    RELAY = "relay"
    REFUSE = "refuse"


@dataclass(frozen=True)
class Policy:
    """The settings a generation was born with, as far as the core needs them."""

    workers: int = 1
    slots: int = 16
    surge: int | None = None  # None: all at once
    soak: float = 2.0
    watch: float = 30.0
    ready_timeout: float = 60.0
    drain_timeout: float = 30.0
    linger: float = 5.0
    stop_timeout: float = 5.0
    delay: float = 0.1
    max_delay: float = 30.0
    spares: int = 0
    max_generations: int = 10  # that have workers, those that drain included
    waits: bool = False  # clients wait while nobody can serve, instead of being refused
    max_age: float | None = None  # None: a worker serves for as long as it likes
    fresh_slots: bool = False
    """A successor takes a slot of its own where one is free: for programs that accept as soon as they run."""


@dataclass(frozen=True)
class Worker:
    """One process, from the moment its fork is asked for until its death is known."""

    id: int
    seat: int  # which of the application's N places it fills
    slot: int  # whose sockets it inherits; equals the seat unless slots are shared or fresh; a spare has NO_SLOT
    generation: int
    since: float  # when it entered its phase
    until: float | None = None  # when it is killed if it is still in its phase
    phase: Phase = Phase.STARTING
    accepting: bool = False
    ready_at: float | None = None
    killed: bool = False
    reason: str = ""  # its own last words
    handed: bool = False  # it was a spare: its slot's sockets come with the order to serve
    spent: str = ""  # why another is to take its place; until that one accepts, it serves on
    dead: bool = False  # how it died has still to be told: who reaps it is late

    @property
    def place(self) -> str:
        """Where it is, in words."""
        return "spare" if self.slot == NO_SLOT else f"slot {self.slot}"

    @property
    def alive(self) -> bool:
        """Whether it is not on its way out."""
        return self.phase is not Phase.DRAINING and not self.killed

    @property
    def fills(self) -> bool:
        """Whether its seat needs nobody else."""
        return self.alive and not self.spent


@dataclass(frozen=True)
class Generation:
    """One import of the application's code, and the zygote that holds it."""

    number: int
    policy: Policy
    since: float
    boot: Boot = Boot.BOOTING
    twin: Twin = Twin.NONE
    twin_since: float = 0.0
    twin_losses: int = 0  # in a row, of twins that hardly lived
    twinned: bool = False  # its code is in the zygote's memory, so an understudy is worth having
    ended: bool = False  # told to leave


@dataclass(frozen=True)
class Rollout:
    """A change of generation under way.

    Seats [0, moved) are to be served by `target`, the others still by `base`; [moved, upto) are being prepared. With
    surge "all" there is one batch and so one commit.
    """

    number: int
    kind: Kind
    target: int
    base: int | None
    since: float
    stage: Stage = Stage.PREPARING
    moved: int = 0
    upto: int = 0
    begun: float = 0.0
    deaths: int = 0  # of serving target workers
    failure: str = ""  # why it is to be given up
    returned: bool = False  # RETURNING after the last commit, not before it


@dataclass(frozen=True)
class Watch:
    """The time after a rollout in which a generation that keeps dying is returned to the previous one by itself."""

    number: int
    kind: Kind
    until: float
    deaths: int = 0
    death: str = ""  # who died last, and of what


@dataclass(frozen=True)
class Failures:
    """Consecutive failures of one seat, and when it may be tried again."""

    count: int = 0
    until: float = 0.0


@dataclass(frozen=True)
class Scaled:
    """How many workers an operator wants in place of as many as the file says; the file wins once it says another."""

    workers: int
    file: int


@dataclass(frozen=True)
class Cluster:
    """Everything the core knows."""

    generations: Mapping[int, Generation] = field(default_factory=dict)
    workers: Mapping[int, Worker] = field(default_factory=dict)
    failures: Mapping[int, Failures] = field(default_factory=dict)
    rollout: Rollout | None = None
    watch: Watch | None = None
    current: int | None = None
    previous: int | None = None
    strict: bool = True  # a start that fails ends the service (the first one); otherwise it stays and heals
    stopping: bool = False
    stopped: bool = False
    status: int = 0  # what the service exits with when it has stopped
    problem: str = ""  # why fewer workers than wanted serve; empty when all do
    scaled: Scaled | None = None
    next_worker: int = 1
    next_generation: int = 1
    next_rollout: int = 1
    steered: tuple[int, ...] = ()
    ushered: tuple[Mode, tuple[int, ...]] = (Mode.OFF, ())

    # -- questions --

    @property
    def policy(self) -> Policy:
        """The policy in force: the current generation's, or while there is none the one being started."""
        number = self.current if self.current is not None else self.rollout.target if self.rollout else None
        generation = self.generations.get(number) if number is not None else None
        return generation.policy if generation else Policy()

    @property
    def changing(self) -> bool:
        """Whether a rollout is under way that is to change what serves: a try is not."""
        return self.rollout is not None and self.rollout.kind is not Kind.TRY

    def wanted(self, seat: int) -> int | None:
        """The generation that should serve `seat`, or None when nobody should."""
        number = self.current
        r = self.rollout
        if r is not None and r.kind is not Kind.TRY:
            number = r.target if r.stage is not Stage.RETURNING and seat < r.moved else r.base
        if number is None or number not in self.generations:
            return None
        return number if 0 <= seat < self.generations[number].policy.workers else None

    def tenant(self, seat: int) -> int | None:
        """The generation that belongs in `seat`: `wanted`, or in a spare's seat the current one."""
        return self.wanted(seat) if seat > SPARE else self.current if seat in self.spare_seats else None

    @property
    def spare_seats(self) -> range:
        """Where the current generation keeps its spares."""
        if self.current is None or self.current not in self.generations:
            return range(0)
        return range(SPARE, SPARE - self.generations[self.current].policy.spares, -1)

    def prepared(self, seat: int) -> int | None:
        """The generation whose worker is prepared in `seat` without serving yet."""
        r = self.rollout
        if r is None or r.stage not in (Stage.PREPARING, Stage.SOAKING) or not r.moved <= seat < r.upto:
            return None
        return r.target if seat < self.seats_of(r) else None

    def seats_of(self, r: Rollout) -> int:
        """How many seats of the target a rollout fills: a try fills one, which never serves."""
        return 1 if r.kind is Kind.TRY else self.generations[r.target].policy.workers

    def span(self, r: Rollout) -> int:
        """The seats a rollout goes through: those of both generations."""
        if r.kind is Kind.TRY:
            return 1
        return max(self.seats_of(r), self.generations[r.base].policy.workers if r.base is not None else 0)

    @property
    def seats(self) -> range:
        """Every seat anything is wanted or prepared in."""
        ends = [0]
        if self.current is not None and self.current in self.generations:
            ends.append(self.generations[self.current].policy.workers)
        if self.rollout is not None:
            ends.append(self.span(self.rollout))
        return range(max(ends))

    def filled(self, seat: int, generation: int) -> Worker | None:
        """The worker of `generation` in `seat` that is neither on its way out nor to be replaced."""
        return next(
            (w for w in self.workers.values() if w.seat == seat and w.generation == generation and w.fills), None
        )

    def occupant(self, seat: int) -> Worker | None:
        """Who is, or will be, what belongs in `seat`."""
        return self.filled(seat, tenant) if (tenant := self.tenant(seat)) is not None else None

    def heir(self, spent: Worker) -> Worker | None:
        """Who is to take the place of `spent`, from the moment its fork is asked for."""
        return self.filled(spent.seat, spent.generation)

    def accepting(self, seat: int | None = None, generation: int | None = None) -> Iterator[Worker]:
        """Workers that are to serve and do accept, of one seat and one generation if given."""
        for w in self.workers.values():
            if (
                w.phase is Phase.SERVING
                and w.accepting
                and seat in (None, w.seat)
                and generation in (None, w.generation)
            ):
                yield w

    @property
    def unsettled(self) -> list[int]:
        """Wanted seats that nobody of the wanted generation serves."""
        return [s for s in self.seats if (g := self.wanted(s)) is not None and next(self.accepting(s, g), None) is None]

    # -- changes --

    def with_worker(self, worker: Worker) -> Cluster:
        return replace(self, workers={**self.workers, worker.id: worker})

    def without_worker(self, number: int) -> Cluster:
        return replace(self, workers={k: w for k, w in self.workers.items() if k != number})

    def with_generation(self, generation: Generation) -> Cluster:
        return replace(self, generations={**self.generations, generation.number: generation})

    def without_generation(self, number: int) -> Cluster:
        return replace(self, generations={k: g for k, g in self.generations.items() if k != number})

    def untouched(self, seat: int) -> bool:
        """Whether a rollout under way has not come to `seat` yet: whoever serves there is left alone."""
        r = self.rollout
        return r is not None and r.kind is not Kind.TRY and r.stage is not Stage.RETURNING and seat >= r.moved

    def with_failures(self, seat: int, failures: Failures | None) -> Cluster:
        rest = {k: f for k, f in self.failures.items() if k != seat}
        return replace(self, failures={**rest, seat: failures} if failures else rest)

"""The world outside the core, played: it does what the actions say, late, in any order, or not at all."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from clusterd.core import codec, slots
from clusterd.core.actions import (
    Action,
    BootZygote,
    Drain,
    EndGeneration,
    Exit,
    Finish,
    Fork,
    Kill,
    MakeTwin,
    Outcome,
    PromoteTwin,
    Serve,
    Steer,
    Tell,
    Usher,
    What,
)
from clusterd.core.events import (
    Adopted,
    Event,
    Passed,
    TwinGone,
    TwinUp,
    WorkerDead,
    WorkerDraining,
    WorkerGone,
    WorkerReady,
    WorkerServing,
    WorkerUnborn,
    ZygoteGone,
    ZygoteUnborn,
    ZygoteUp,
)
from clusterd.core.machine import deadline, step
from clusterd.core.model import NO_SLOT, Cluster, Mode, Phase


@dataclass
class World:
    """A cluster, the time, and what the processes have still to say. Copyable: `copy`."""

    cluster: Cluster = field(default_factory=Cluster)
    now: float = 100.0
    pending: list[Event] = field(default_factory=list)
    finished: list[Finish] = field(default_factory=list)
    actions: list[Action] = field(default_factory=list)  # everything that was ever asked for, in order
    commits: list[int] = field(default_factory=list)  # how many seats each commit had moved in all
    exited: int | None = None
    broken: frozenset[int] = frozenset()  # generations whose workers never become ready, but die
    unbootable: frozenset[int] = frozenset()
    spares: frozenset[int] = frozenset()  # those that were forked without a slot
    deaf: frozenset[int] = frozenset()  # generations whose workers never begin to accept
    steered: tuple[int, ...] = ()  # where the kernel was told to send new connections
    ushered: tuple[Mode, tuple[int, ...]] = (Mode.OFF, ())  # and what the usher was told

    def copy(self) -> World:
        return replace(
            self,
            pending=list(self.pending),
            finished=list(self.finished),
            commits=list(self.commits),
            actions=list(self.actions),
        )

    def event(self, event: Event) -> None:
        """Let one thing happen, and hold what every step must hold."""
        self._perform(self._step(event))
        assert (self.steered, self.ushered) == (self.cluster.steered, self.cluster.ushered)

    def _step(self, event: Event) -> list[Action]:
        before = self.cluster
        self.cluster, actions = step(before, event, self.now)
        assert codec.from_json(codec.to_json(self.cluster)) == self.cluster
        steering = slots.live(self.cluster), slots.usher(self.cluster)
        assert (self.cluster.steered, self.cluster.ushered) == steering, "kernel and usher do not follow what is true"
        self.actions += actions
        due = deadline(self.cluster, self.now)
        assert due is None or due > self.now, "a deadline that has passed and was left: the master would spin"
        self._never_fewer(before)
        return actions

    def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case BootZygote(g):
                    self.pending.append(ZygoteGone(g, "SyntaxError") if g in self.unbootable else ZygoteUp(g))
                case MakeTwin(g):
                    self.pending.append(TwinUp(g))
                case PromoteTwin(g) | EndGeneration(g):
                    pass
                case Fork(w, g, slot):
                    if slot == NO_SLOT:
                        self.spares |= {w}
                    self.pending.append(WorkerGone(w, "exited with status 1") if g in self.broken else WorkerReady(w))
                case Serve(w, slot):
                    worker = self.cluster.workers.get(w)
                    assert w not in self.spares or slot is not None, "told to serve without a socket"
                    if worker is None or worker.generation not in self.deaf:
                        self.pending.append(WorkerServing(w))
                case Drain(w):
                    self.pending += [WorkerDraining(w), WorkerGone(w, "exited with status 0")]
                case Kill(w):
                    self.pending = [e for e in self.pending if getattr(e, "worker", None) != w]
                    self.pending.append(WorkerGone(w, "killed by SIGKILL"))
                case Finish():
                    self.finished.append(action)
                case Steer(slots):
                    assert slots, "nowhere to go"
                    self.steered = slots
                case Usher(mode, slots):
                    self.ushered = (mode, slots)
                case Tell(What.COMMITTED):
                    if self.cluster.rollout is not None:
                        self.commits.append(self.cluster.rollout.moved)
                case Exit(status):
                    self.exited = status

    def die(self, worker: int, *, reaped: bool = True) -> None:
        """The process ends now: it says nothing more. Not `reaped`: how it ended will be told."""
        self.pending = [e for e in self.pending if getattr(e, "worker", None) != worker]
        gone = WorkerGone(worker, "killed by SIGKILL")
        if reaped:
            self.event(gone)
        else:
            self.pending.append(gone)
            self.event(WorkerDead(worker))

    def replace_master(self) -> None:
        """All but the state is forgotten; the processes go on, and are asked what they have to say."""
        self.cluster = codec.from_json(codec.to_json(self.cluster))
        self.event(Adopted())

    def die_acting(self, index: int, performed: int) -> bool:
        """The next event is decided upon, and the master dies when it has `performed` so many of its deeds.

        The next one finds out what of the rest was never done. False when there are not so many deeds.
        """
        actions = self._step(self.pending.pop(index) if self.pending else Passed())
        if performed > len(actions):
            return False
        self._perform(actions[:performed])
        lost = actions[performed:]
        self.replace_master()
        for action in lost:
            match action:
                case BootZygote(g):
                    self.event(ZygoteUnborn(g))
                case Fork(w):
                    self.event(WorkerUnborn(w))
                case MakeTwin(g):
                    self.event(TwinGone(g))
        return True

    def deliver(self, index: int) -> None:
        self.event(self.pending.pop(index % len(self.pending)))

    def pass_time(self) -> bool:
        """Go to the next deadline, if there is one."""
        due = deadline(self.cluster, self.now)
        if due is None:
            return False
        self.now = max(self.now, due)
        self.event(Passed())
        return True

    def go_on(self, seconds: float) -> None:
        """Let everything be said and every deadline pass that falls into the next `seconds`."""
        end = self.now + seconds
        while self.exited is None and (self.pending or (deadline(self.cluster, self.now) or end) < end):
            if self.pending:
                self.deliver(0)
            else:
                self.pass_time()
        self.now = max(self.now, end)

    def quiesce(self) -> None:
        """Let everything be said and every deadline pass, in order. Raises if that never ends."""
        for _ in range(2000):
            if self.exited is not None:
                return
            if self.pending:
                self.deliver(0)
            elif not self.pass_time():
                return
        raise AssertionError(f"does not come to rest: {self.cluster}")

    def outcome(self, number: int) -> Outcome:
        """How rollout `number` was answered. Exactly once."""
        (finish,) = [f for f in self.finished if f.number == number]
        return finish.outcome

    def serving(self) -> dict[int, list[int]]:
        """seat -> generations accepting there."""
        found: dict[int, list[int]] = {}
        for w in self.cluster.workers.values():
            if w.accepting and w.phase is Phase.SERVING:
                found.setdefault(w.seat, []).append(w.generation)
        return found

    def _never_fewer(self, before: Cluster) -> None:
        """A seat that was served and is still wanted is served after a step that no death took a worker from."""
        if self.cluster.stopping:
            return
        for w in before.workers.values():
            after = self.cluster.workers.get(w.id)
            if w.phase is Phase.SERVING and w.accepting and after is not None and after.phase is Phase.DRAINING:
                if not after.accepting or after.reason:
                    continue  # it left by itself, or hangs
                wanted = self.cluster.wanted(w.seat)
                assert wanted is None or next(self.cluster.accepting(w.seat), None), (
                    f"seat {w.seat} loses its only worker"
                )

"""The master: what happens in, actions out, one place that waits.

Order is everything in `advance`: the core decides, the decision is written down, then it is carried out. A master killed
anywhere in between leaves a successor that reads the decision and carries it out again; every action may be repeated.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Generator, Sequence

from clusterd.config.load import Invalid
from clusterd.config.settings import Settings
from clusterd.core import codec, machine
from clusterd.core.actions import Action, Tell
from clusterd.core.events import Adopted, Asked, Event, Passed, StopAsked, WorkerGone, ZygoteGone
from clusterd.core.lifecycle import IllegalMove
from clusterd.core.model import Cluster, Kind, Phase
from clusterd.master.context import Context, Key
from clusterd.master.performing import START_FAILED, Performer
from clusterd.master.releases import Release, application_environment, policy
from clusterd.master.requests import Requests
from clusterd.master.telling import Telling
from clusterd.master.ushering import Ushering
from clusterd.master.workers import Workers
from clusterd.shell import messages, poll
from clusterd.shell.control import Client, Control
from clusterd.shell.signals import Signals
from clusterd.worker.wire import WireError

HEARTBEAT = 5.0
"""Seconds between two signs of life to keeper and systemd: the only timer of a master at rest."""

WANTED_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

Loop = Generator[float | None, list[tuple[Key, int]], int]


def drive(loop: Loop, wait: poll.Poll[Key]) -> int:
    """Run the master: wait as long as it says, tell it what is ready, until it returns its exit status."""
    ready: list[tuple[Key, int]] = []
    deadline = next(loop)
    while True:
        try:
            ready = wait.wait(None if deadline is None else deadline - time.monotonic())
            deadline = loop.send(ready)
        except StopIteration as end:
            return int(end.value)


class Master:
    def __init__(
        self, context: Context, file: str | None, signals: Signals, launch: Sequence[str], first: Release | None = None
    ) -> None:
        """`file`: the TOML file, or None for `clusterd run APP`, whose `first` release is given. `launch` started us."""
        self.context = context
        self.file = file
        self.launch = launch
        self.cluster = Cluster()
        self.signals = signals
        self.releases: dict[int, Release] = {}
        self.environment = application_environment(os.environ)
        self.first = first
        self.telling = Telling(context)
        self.workers = Workers(context, self.releases)
        self.ushering = Ushering(context)
        self.requests = Requests(self)
        self.performer = Performer(
            context, self.releases, file, self.workers, self.ushering, self.telling, self.requests
        )
        self.born = time.monotonic()
        self._beat_due = 0.0
        self._core_due: float | None = None
        self._stepped = 0.0

    def loop(self) -> Loop:
        """Yields the time until which it may be left alone; is sent what is ready."""
        self.context.poll.register(self.signals.fileno(), poll.READ, ("signals", 0))
        self.context.poll.register(self.context.keeping.wire.fileno(), poll.READ, ("keeper", 0))
        self.requests.listen()
        self._begin()
        self.advance()
        while self.performer.exit_status is None:
            for key, events in (yield self._deadline()):
                if isinstance(key, Control):
                    self.requests.on_connection()
                elif isinstance(key, Client):
                    self.requests.on_client(key, events)
                else:
                    self._dispatch(*key)
            self.workers.tick(time.monotonic())
            self.requests.expire()
            self._beat()
            self.advance()
        return self._end(self.performer.exit_status)

    # beginning and end

    def _begin(self) -> None:
        saved = self.context.keeping.load()
        if saved is None:
            self._start()
        else:
            self._take_over(saved)
        strangers = self.context.slots.strangers()
        for line in strangers:
            self.context.journal.record(messages.PORT_SHARED, line)

    def _start(self) -> None:
        failed = self.context.keeping.fds.get(START_FAILED)
        self.cluster = Cluster(strict=failed is None)
        if failed is not None:
            reason = os.pread(failed, 4096, 0).decode(errors="replace")
            # systemd has been told the truth once (the failed start); from here on the service stays and heals.
            self.context.notifier.ready(f"the start failed: {reason}; trying again")
            self.context.keeping.ready()
        release = self.first or Release(self._settings(), dict(self.environment))
        self.releases[self.cluster.next_generation] = release
        self.context.events.append(Asked(Kind.START, policy(release.settings, self.context.slots.total)))

    def _settings(self) -> Settings | None:
        """Those of the file; None when they are invalid, which is told when the boot reads them again."""
        try:
            return self.performer.load()
        except Invalid:
            return None

    def _take_over(self, saved: dict[str, object]) -> None:
        self.cluster = codec.from_json(saved["cluster"])  # type: ignore[arg-type]  # our own JSON
        self.releases.update({int(k): Release.from_json(v) for k, v in saved["releases"].items()})  # type: ignore[attr-defined]
        self.telling.from_json(saved["receipts"])  # type: ignore[arg-type]
        self.environment = saved["environment"]  # type: ignore[assignment]
        self.workers.adopt(self.cluster)
        self.ushering.adopt()
        self.context.journal.record(
            messages.MASTER_TOOK_OVER,
            f"master {os.getpid()} took over {len(self.cluster.workers)} workers (start {self.context.keeping.starts})",
        )
        self.context.events.append(Adopted())
        for generation, g in self.cluster.generations.items():
            if g.boot == "booting" and generation not in self.workers.zygotes.zygotes:
                self.context.events.append(ZygoteGone(generation, "it was never started: the master died"))

    def _end(self, status: int) -> int:
        self.context.notifier.stopping(self.telling.line(self.cluster))
        self.requests.close()
        self.context.keeping.bye(status)
        return status

    # the middle

    def advance(self) -> None:
        """Let the core take in everything that has happened, and do what it decides."""
        events = self.context.events
        if not events and self._core_due is not None and time.monotonic() >= self._core_due:
            events.append(Passed())
        while events:
            event = events.popleft()
            if isinstance(event, ZygoteGone):
                self.workers.orphaned(event.generation)
            if isinstance(event, WorkerGone):
                self._report(event.worker)
            self._step(event)
        # Asked once a round and remembered: what is past is no deadline to the core, which has dealt with it.
        self._core_due = machine.deadline(self.cluster, self._stepped)
        self.telling.observe(self.cluster, time.monotonic())
        if not any(w.phase is Phase.DRAINING for w in self.cluster.workers.values()):
            self.telling.all_drained()
        self.telling.status(self.cluster)
        self.requests.progress(self.cluster)

    def _step(self, event: Event) -> None:
        before = self.cluster
        self._stepped = time.monotonic()
        try:
            self.cluster, actions = machine.step(before, event, self._stepped)
        except IllegalMove as e:
            self.context.journal.record(messages.WORKER_DIED, f"{event}: {e}, ignoring", messages.Priority.WARNING)
            return
        self.workers.cluster = self.cluster
        if self.cluster is not before:
            self.save()
        for action in self._in_order(actions):
            self.performer.perform(action, self.cluster)
        if any(isinstance(action, Tell) for action in actions):
            self.save()  # receipts, and releases that are gone

    @staticmethod
    def _in_order(actions: list[Action]) -> list[Action]:
        """Deeds before words: what is told has been done."""
        return sorted(actions, key=lambda a: isinstance(a, Tell))

    def save(self) -> None:
        self.context.keeping.save(
            {
                "cluster": codec.to_json(self.cluster),
                "releases": {str(k): r.to_json() for k, r in self.releases.items()},
                "receipts": self.telling.to_json(),
                "environment": self.environment,
            }
        )

    def _report(self, worker: int) -> None:
        drained = self.workers.reports.pop(worker, None)
        if drained:
            self.telling.drained(drained)

    def _deadline(self) -> float | None:
        times = [self._beat_due, self._core_due, self.workers.deadline(), self.requests.deadline()]
        return min(t for t in times if t is not None)

    def _beat(self) -> None:
        now = time.monotonic()
        if now >= self._beat_due:
            self._beat_due = now + HEARTBEAT
            self.context.keeping.state.beat(now)
            self.context.notifier.watchdog()

    def _dispatch(self, kind: str, number: int) -> None:
        match kind:
            case "worker.channel":
                self.workers.on_channel(number)
            case "worker.pidfd":
                self.workers.on_pidfd(number)
            case "worker.notify":
                self.workers.on_notify(number)
            case "zygote.channel" | "twin.channel":
                self.workers.zygotes.on_channel(kind.partition(".")[0], number)
            case "zygote.pidfd" | "twin.pidfd":
                self.workers.zygotes.on_gone(kind.partition(".")[0], number)
            case "usher.channel":
                self.ushering.on_channel()
            case "usher.pidfd":
                self.ushering.on_gone()
            case "slot":
                self.ushering.on_waiting()
            case "keeper":
                self._on_keeper()
            case "signals":
                self._on_signals()

    def _on_signals(self) -> None:
        for number in self.signals.read():
            if number in (signal.SIGTERM, signal.SIGINT):
                self.context.events.append(StopAsked())
            elif number in (signal.SIGHUP, signal.SIGUSR2):
                self.requests.reload(None, None, {})
            elif number == signal.SIGUSR1:
                # An upgrade: this master leaves, the keeper starts the next from the files now on disk.
                self.context.journal.record(messages.MASTER_DIED, "asked to make room for a new master (SIGUSR1)", messages.Priority.NOTICE)
                os._exit(0)

    def _on_keeper(self) -> None:
        try:
            self.context.keeping.receive()
        except WireError:
            self.context.poll.unregister(self.context.keeping.wire.fileno())
            if self.context.foreground:
                self.context.events.append(StopAsked())  # whoever waited for `clusterd run` is gone
            else:
                self._new_keeper()

    def _new_keeper(self) -> None:
        try:
            pid = self.context.keeping.succeed(self.launch, self.context.name)
        except (OSError, WireError) as e:
            self.context.journal.record(
                messages.KEEPER_REPLACED, f"the keeper died and another cannot be started: {e}", messages.Priority.CRITICAL
            )
            return
        self.context.poll.register(self.context.keeping.wire.fileno(), poll.READ, ("keeper", 0))
        self.context.journal.record(messages.KEEPER_REPLACED, f"the keeper died; keeper {pid} took its place")

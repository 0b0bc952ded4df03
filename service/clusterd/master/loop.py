"""The master: what happens in, actions out, one place that waits.

Order is everything in `advance`: the core decides, the decision is written down, then it is carried out. A master that
is killed in between leaves a successor that reads the decision and carries it out again: every action may be repeated.
"""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Generator, Sequence

from clusterd.config.load import Invalid
from clusterd.config.settings import Settings
from clusterd.core import machine
from clusterd.core.actions import Action, Finish, Tell
from clusterd.core.events import Adopted, Asked, Event, Passed, StopAsked, WorkerGone, ZygoteGone
from clusterd.core.lifecycle import IllegalMove
from clusterd.core.model import Cluster, Kind, Phase
from clusterd.master import sockets
from clusterd.master.bridging import Bridging
from clusterd.master.context import Context, Key
from clusterd.master.hanging import Hanging
from clusterd.master.ledger import Ledger
from clusterd.master.performing import START_FAILED, Performer
from clusterd.master.recycling import Recycling
from clusterd.master.releases import Release, Source, policy
from clusterd.master.requests import Requests
from clusterd.master.scaling import Scaling
from clusterd.master.status import Status
from clusterd.master.tasks import Tasks
from clusterd.master.telling import Telling
from clusterd.master.upgrading import Upgrading
from clusterd.master.ushering import Ushering
from clusterd.master.workers import Workers
from clusterd.shell import messages, poll
from clusterd.shell.control import Client, Control
from clusterd.shell.signals import Signals
from clusterd.worker.wire import WireError

HEARTBEAT = 5.0
"""Seconds between two signs of life to keeper and systemd: the only timer of a master at rest."""

LONGER = 3 * HEARTBEAT
"""Seconds that systemd is asked for when a start, a reload or a stop begins, and with each sign of life while it lasts:
how long these may take is for ready-timeout and drain-timeout to say, whatever Timeout{Start,Stop}Sec= are."""

AGAIN = 0.5
"""Seconds after the first SIGTERM or SIGINT until another one counts as another: timeout(1) and others send it to the
process and to its group, which is one wish."""

Loop = Generator[float | None, list[tuple[Key, int]], int]


def drive(loop: Loop, wait: poll.Poll[Key]) -> int:
    """Run the master: wait as long as it says, tell it what is ready, until it returns its exit status."""
    ready: list[tuple[Key, int]] = []
    try:
        deadline = next(loop)  # may be all of it: a start that is refused at once
        while True:
            ready = wait.wait(None if deadline is None else deadline - time.monotonic())
            deadline = loop.send(ready)
    except StopIteration as end:
        return int(end.value)


class Master:
    def __init__(
        self, context: Context, source: Source, environment: dict[str, str], signals: Signals, launch: Sequence[str]
    ) -> None:
        """`environment` is what the application is given; `launch` is the command that started us."""
        self.context = context
        self.source = source
        self.signals = signals
        self.launch = launch
        saved = context.keeping.load()
        self.first = saved is None
        self.ledger = Ledger(environment) if saved is None else Ledger.from_json(saved)
        self.ledger.keeper = context.keeping.protocol
        self.telling = Telling(context, self.ledger)
        self.workers = Workers(context, self.ledger)
        self.hanging = Hanging(context, self.ledger, self.workers)
        self.recycling = Recycling(context, self.ledger, self.workers)
        self.ushering = Ushering(context, self.ledger)
        self.bridging = Bridging(context, self.ledger, self.workers.bus)
        self.tasks = Tasks(context, self.ledger, self.workers.zygotes, self.workers.bus, self.bridging, self.save)
        self.workers.others = self.tasks.on_zygote
        status = Status(context, self.ledger, self.workers, self.tasks, self.bridging)
        self.upgrading = Upgrading(context, self.ledger)
        self.scaling = Scaling(context, self.ledger, self.advance)
        self.requests = Requests(
            context,
            self.ledger,
            source,
            self.telling,
            status,
            self.advance,
            self.workers.bus,
            self.tasks,
            self.scaling,
            self.upgrading,
        )
        self.performer = Performer(
            context, self.ledger, source, self.workers, self.ushering, self.telling, self.requests
        )
        self._beat_due = 0.0
        self._core_due: float | None = None
        self._stop_asked: float | None = None
        self._stepped = 0.0
        self._lasting = False
        """Whether systemd waits for a start, a reload or a stop."""
        self._no_keeper = ""
        """Why there is none, as it was told."""
        self._followed = -HEARTBEAT
        """When another was last started."""
        self._stirred = False
        """Whether anything has happened since the last sign of life."""

    def loop(self) -> Loop:
        """Yields the time until which it may be left alone; is sent what is ready."""
        self.context.poll.register(self.signals.fileno(), poll.READ, ("signals", 0))
        self.context.poll.register(self.context.keeping.wire.fileno(), poll.READ, ("keeper", 0))
        self.context.journal.watch(self.context.poll, ("journal", 0))
        self.requests.listen()
        self._begin()
        gc.freeze()  # what has been imported stays, and need not be looked at again
        self.advance()
        while self.performer.exit_status is None or self.tasks.busy or self.bridging.ending:
            for key, events in (yield self._deadline()):
                if isinstance(key, Control):
                    self.requests.on_connection()
                elif isinstance(key, Client):
                    self.requests.on_client(key, events)
                else:
                    self._dispatch(*key)
            self.workers.tick(time.monotonic())
            self.hanging.tick()
            self.upgrading.tick()
            self.tasks.tick()
            self.bridging.tick()
            self.ushering.tick()
            self.requests.expire()
            self.context.leaving.reap()
            self._beat()
            self.advance()
            self.upgrading.advance()  # here alone, where nothing that was read waits to be dealt with
        return self._end(self.performer.exit_status)

    # beginning and end

    def _begin(self) -> None:
        self.context.slots.lock()
        if self.first:
            self._start()
        else:
            self._take_over()
            sockets.tell_strangers(self.context, self.context.slots.strangers())

    def _start(self) -> None:
        failed = self.context.keeping.fds.get(START_FAILED)
        self.ledger.cluster = Cluster(strict=failed is None)
        if failed is not None:
            reason = os.pread(failed, 4096, 0).decode(errors="replace")
            # systemd has been told the truth once (the failed start); from here on the service stays and heals.
            self.context.notifier.ready(f"the start failed: {reason}; trying again")
            self.context.keeping.ready()
        release = Release(self._settings(), dict(self.ledger.environment))
        self.ledger.releases[self.ledger.cluster.next_generation] = release
        self.context.events.append(Asked(Kind.START, policy(release.settings, self.context.slots.total)))

    def _settings(self) -> Settings | None:
        """Those of the file; None when they are invalid, which is told when the boot reads them again."""
        try:
            return self.source.load()
        except Invalid:
            return None

    def _take_over(self) -> None:
        self.context.events.append(Adopted())
        self.workers.adopt()
        self.tasks.adopt()
        known = self.workers.bodies.keys() | self.tasks.bodies.keys()
        self.ledger.pids = {number: pid for number, pid in self.ledger.pids.items() if number in known}
        self.bridging.adopt()
        self.ushering.adopt()
        self.context.journal.record(
            messages.MASTER_TOOK_OVER,
            f"master {os.getpid()} took over {len(self.workers.bodies)} workers (start {self.context.keeping.starts})",
        )
        cluster, releases = self.ledger.cluster, self.ledger.releases
        for generation in releases.keys() - cluster.generations.keys():
            del releases[generation]
        wanted = {f"{kind}-{g}" for g in cluster.generations for kind in ("zygote", "twin")}
        wanted |= {f"task-{n}" for n in self.tasks.bodies}
        wanted |= {"keeper", "master", "usher", *(f"worker-{n}" for n in cluster.workers)}
        for name in set(self.context.cgroups.names()) - wanted:
            self.context.cgroups.remove(name)  # or it is swept, when whoever is in it has left
        if cluster.current is not None and not cluster.changing and not cluster.stopping:
            self.performer.settled()  # the dead master may have been about to say so

    def _end(self, status: int) -> int:
        self.context.notifier.stopping(self.telling.line())
        self.requests.close()
        self.context.journal.close()
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
                self.tasks.orphaned(event.generation)
            if isinstance(event, WorkerGone):
                self._report(event.worker)
            self._step(event)
            if isinstance(event, WorkerGone):
                self.workers.last_words.pop(event.worker, None)  # told by now, if it was worth telling
        # Asked once a round and remembered: what is past is no deadline to the core, which has dealt with it.
        self._core_due = machine.deadline(self.ledger.cluster, self._stepped)
        if not any(w.phase is Phase.DRAINING for w in self.ledger.cluster.workers.values()):
            self._all_drained()
        if self.performer.exit_status is None or self.tasks.busy:
            self.bridging.advance()
        else:
            self.bridging.end()
        self.tasks.advance()
        self.telling.status()
        self.requests.progress()
        self.scaling.advance()
        lasts = self.ledger.cluster.stopping or self.ledger.cluster.changing
        if lasts and not self._lasting:
            # At once: what systemd grants may be over before the next sign of life.
            self.context.notifier.extend(LONGER)
        self._lasting = lasts

    def _step(self, event: Event) -> None:
        before = self.ledger.cluster
        self._stepped = time.monotonic()
        self._stirred = True
        try:
            self.ledger.cluster, actions = machine.step(before, event, self._stepped)
        except IllegalMove as e:
            self.context.journal.record(messages.UNEXPECTED, f"{event}: {e}, ignoring")
            return
        self.telling.observe(self._stepped)  # before a receipt takes what was seen, or the next one would get it
        for action in actions:
            if isinstance(action, Finish):
                self.telling.finish(action)  # a rollout that is over and has no receipt would have no outcome
        if self.ledger.cluster is not before:
            self.save()
        for action in self._in_order(actions):
            self.performer.perform(action)
        if any(isinstance(action, Tell) for action in actions):
            self.save()  # receipts, and releases that are gone
        self.performer.answer()

    @staticmethod
    def _in_order(actions: list[Action]) -> list[Action]:
        """Deeds before words: what is told has been done."""
        return sorted(actions, key=lambda a: isinstance(a, Tell))

    def save(self) -> None:
        self.context.keeping.save(self.ledger.to_json())

    def _all_drained(self) -> None:
        if self.telling.all_drained():
            self.save()

    def _report(self, worker: int) -> None:
        drained = self.workers.reports.pop(worker, None)
        if drained:
            self.telling.drained(drained)

    def _deadline(self) -> float | None:
        times = [self._beat_due, self._core_due, self.workers.deadline(), self.requests.deadline()]
        times += [self.hanging.deadline(), self.upgrading.deadline(), self.tasks.deadline(), self.bridging.deadline()]
        times.append(self.ushering.deadline())
        return min(t for t in times if t is not None)

    def _beat(self) -> None:
        now = time.monotonic()
        if now >= self._beat_due:
            self._beat_due = now + HEARTBEAT
            self.context.keeping.state.beat(now)
            self.context.notifier.watchdog()
            if self._lasting:
                self.context.notifier.extend(LONGER)
            self.context.cgroups.sweep()
            self.context.streams.sweep()
            self.recycling.look()
            if self.context.keeping.lost and not self.context.foreground:
                self._new_keeper()
            if self._stirred:
                # Python keeps freed tuples of every length for the next, by the thousand, until a full collection.
                gc.collect()
                self._stirred = False

    def _dispatch(self, kind: str, number: int) -> None:
        match kind:
            case "worker.channel":
                self.workers.on_channel(number)
            case "worker.bus":
                self.workers.bus.on_ready(number)
            case "worker.pidfd":
                self.workers.on_pidfd(number)
            case "worker.notify":
                self.workers.on_notify(number)
            case "zygote.channel" | "twin.channel":
                self.workers.zygotes.on_channel(kind.partition(".")[0], number)
            case "zygote.pidfd" | "twin.pidfd":
                self.workers.zygotes.on_gone(kind.partition(".")[0], number)
            case "task.channel":
                self.tasks.on_channel(number)
            case "task.pidfd":
                self.tasks.on_pidfd(number)
            case "journal":
                self.context.journal.flush()
            case "bridge.pidfd":
                self.bridging.on_gone()
            case "rehearsal.pidfd":
                self.upgrading.on_gone()
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
                self._asked_to_stop()
            elif number in (signal.SIGHUP, signal.SIGUSR2):
                self.requests.reload(None, None, {})
            elif number in (signal.SIGTTIN, signal.SIGTTOU):
                self.scaling.step(1 if number == signal.SIGTTIN else -1)
            elif number == signal.SIGUSR1:
                self.upgrading.ask(None)

    def _asked_to_stop(self) -> None:
        """Drain; asked once more by somebody at a terminal or a container's engine: whoever still drains is cut off."""
        now = time.monotonic()
        if self._stop_asked is None:
            self._stop_asked = now
            self.context.events.append(StopAsked())
        elif self.context.foreground and now - self._stop_asked >= AGAIN:
            self.context.journal.record(messages.STOPPING, "asked to stop once more: what is in flight is cut off")
            for worker in list(self.workers.bodies):
                self.workers.kill(worker)
            self.tasks.cut()

    def _on_keeper(self) -> None:
        try:
            self.context.keeping.receive()
        except WireError:
            self.context.poll.unregister(self.context.keeping.wire.fileno())
            self.context.keeping.lost = True
            if self.context.foreground:
                self.context.events.append(StopAsked())  # whoever waited for `clusterd run` is gone
            elif time.monotonic() - self._followed >= HEARTBEAT:
                self._new_keeper()

    def _new_keeper(self) -> None:
        """Tried again with each sign of life until there is one that stays: nobody else would follow this master."""
        self._followed = time.monotonic()
        try:
            pid = self.context.keeping.succeed(self.launch, self.context.name)
        except (OSError, WireError) as e:
            if str(e) != self._no_keeper:
                self._no_keeper = str(e)
                text = f"the keeper died and another cannot be started: {e}; trying again every {HEARTBEAT:g} s"
                self.context.journal.record(messages.KEEPER_LOST, text)
            return
        self._no_keeper = ""
        self.ledger.keeper = self.context.keeping.protocol
        child = os.pidfd_open(pid)
        self.context.leaving.add(child)
        os.close(child)
        self.context.poll.register(self.context.keeping.wire.fileno(), poll.READ, ("keeper", 0))
        self.context.journal.record(messages.KEEPER_REPLACED, f"the keeper died; keeper {pid} took its place")

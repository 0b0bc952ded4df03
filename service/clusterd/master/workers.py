"""The workers: orders to them, their words, their deaths."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clusterd.core.events import (
    WorkerDead,
    WorkerDraining,
    WorkerFailed,
    WorkerGone,
    WorkerReady,
    WorkerServing,
    WorkerSpent,
    WorkerUnborn,
)
from clusterd.core.model import NO_SLOT, Phase
from clusterd.master import advising, bus, hints
from clusterd.master.context import Context
from clusterd.master.ledger import Ledger
from clusterd.master.zygotes import Zygotes
from clusterd.shell import bypass, fields, kin, messages, pidfd, poll, usage
from clusterd.shell.notified import Notified
from clusterd.shell.procnet import Listener
from clusterd.shell.watched import Watched
from clusterd.worker import board
from clusterd.worker.wire import Closed, Message, Wire, WireError

COUNTS = ("closed", "websockets", "cut")
"""Of connections, in what an old worker says at the end of its drain."""

KEPT = ("channel", "pidfd", "notify", "bus", "board")
"""What the keeper has of a worker."""


@dataclass
class Body:
    """The process behind a worker of the core."""

    id: int
    generation: int
    slot: int
    command: bool
    wire: Wire | None = None
    notified: Notified | None = None
    pidfd: int | None = None
    pid: int | None = None
    adopted: bool = False
    ordered: bool = True
    """Its zygote was told to fork it, as far as is known."""
    status: int | None = None
    dead_since: float | None = None
    ready_at: float | None = None
    """When a `command` worker with ready = "after ..." counts as ready."""
    traceback: str = ""
    drained: dict[str, int] = field(default_factory=dict)
    stated: str = ""
    """What it says of itself (STATUS=)."""
    forged: bool = False
    """Somebody else has spoken in its place, and that has been told."""
    awaits: str = ""
    """What its start waits for, in its own words."""
    unfit: bool = False
    """It has said, or its zygote has, why it did not start."""
    board: int | None = None
    """Its page on the scoreboard."""
    beat: float | None = None
    """When a `command` worker said WATCHDOG=1 last, or was seen ready."""
    told_to_drain: bool = False
    """By SIGTERM: programs take a second one for the order to drop everything."""
    advice: str = ""
    """What a person may have to change, when it is gone."""


class Workers:
    def __init__(self, context: Context, ledger: Ledger) -> None:
        self.context = context
        self.ledger = ledger
        self.bodies: dict[int, Body] = {}
        self.zygotes = Zygotes(context, ledger, self._on_zygote)
        self.bus = bus.Bus(context)
        self.others: Callable[[int, Message, list[int]], bool] | None = None
        """Who else a zygote forks for: asked first whether what it says is about theirs."""
        self.reports: dict[int, dict[str, int]] = {}
        """What the drains of workers that are gone have cost, until it is taken."""
        self._oom_kills = usage.oom_kills()
        self.last_words: dict[int, str] = {}
        """Tracebacks of workers that are gone, until they are told."""

    # orders

    def fork(self, worker: int, generation: int, slot: int) -> None:
        c = self.context
        release = self.ledger.releases[generation]
        settings = release.settings
        assert settings is not None
        body = Body(worker, generation, slot, command=bool(settings.command))
        self.bodies[worker] = body
        path = ""
        ours, theirs = socket.socketpair()
        if body.command:
            try:
                (c.runtime / "notify").mkdir(mode=0o700, exist_ok=True)
                path = str(c.runtime / "notify" / str(worker))
                self._take_notified(body, Notified.bind(path))
            except OSError as e:
                ours.close()
                theirs.close()
                self._unborn(worker, f"cannot make the notify socket '{path}': {e.strerror}")
                return
        self._take_channel(body, ours.detach())
        kinds, listeners = self._sockets(slot)
        output = c.streams.open(f"worker-{worker}", f"{c.name}/{'spare' if slot == NO_SLOT else slot}")
        order: Message = {
            "op": "fork",
            "worker": worker,
            "slot": None if slot == NO_SLOT else slot,
            "slots": self.ledger.cluster.generations[generation].policy.workers,
            "cgroup": c.cgroups.path(f"worker-{worker}"),
            "oom-score-adj": c.worker_oom_score,
            "listeners": kinds,
            "notify": path or None,
        }
        given = [theirs.fileno(), output, *listeners]
        heard: socket.socket | None = None
        if release.bus:
            mouth, heard = bus.pair()
            c.keeping.keep(f"worker-{worker}.bus", mouth)
            self.bus.join(worker, mouth, f"worker-{worker}.bus")
            order["bus"] = True
            given.append(heard.fileno())
        if release.board:
            body.board = board.create()
            c.keeping.keep(f"worker-{worker}.board", body.board)
            order["board"] = True
            given.append(body.board)
        asked = self.zygotes.fork(generation, order, given)
        theirs.close()
        if heard is not None:
            heard.close()
        body.ordered = asked
        if not asked and not self.zygotes.dead(generation):
            self._unborn(worker, "there is no zygote to fork it")

    def serve(self, worker: int, slot: int | None) -> None:
        """With `slot` it is a spare, which gets the sockets and the output of that slot now."""
        body = self.bodies.get(worker)
        if body is None:
            return
        if body.command:
            self.context.events.append(WorkerServing(worker))
        elif slot is None:
            self._say(body, {"op": "serve"})
        else:
            body.slot = slot
            kinds, listeners = self._sockets(slot)
            output = self.context.streams.open(f"worker-{worker}", f"{self.context.name}/{slot}")
            self._say(body, {"op": "serve", "slot": slot, "listeners": kinds}, [output, *listeners])
            if body.adopted:  # it may have its place already, and print into the stream of a dead master's
                self.context.streams.end(f"worker-{worker}")

    def _sockets(self, slot: int) -> tuple[list[str], list[int]]:
        """Kinds and descriptors of the listeners of `slot`."""
        of = self.context.slots.of(slot) if slot != NO_SLOT else []
        return [kind for kind, _ in of], [fd for _, fd in of]

    def drain(self, worker: int, linger: float, timeout: float) -> None:
        body = self.bodies.get(worker)
        if body is None:
            return
        if body.command:
            if body.pidfd is not None and not body.told_to_drain:
                pidfd.send(body.pidfd, signal.SIGTERM)
            body.told_to_drain = True
            self.context.events.append(WorkerDraining(worker))
        else:
            self._say(body, {"op": "drain", "linger": linger, "timeout": timeout})

    def kill(self, worker: int) -> None:
        body = self.bodies.get(worker)
        if body is None:
            self.context.events.append(WorkerGone(worker, "gone (status unknown)"))
            return
        if body.pidfd is not None:
            if self._phase(worker) is Phase.STARTING:
                if body.command:
                    body.advice = body.advice or advising.silent(self._bypass(body)[0], notify=body.ready_at is None)
                elif body.awaits:
                    body.advice = body.advice or f"it waits for {body.awaits}"
            pidfd.send(body.pidfd, signal.SIGKILL)
        else:
            known = self.ledger.cluster.workers.get(worker)
            # It is late, and not even born. What a dead master ordered may have been, and not be read yet.
            if known is not None and known.reason and not body.adopted:
                self.zygotes.kill(body.generation)
                body.advice = "its zygote did not fork it in that time, and is replaced"
            self._unborn(worker, "killed before it was forked")
        self.context.cgroups.kill(f"worker-{worker}")

    def adopt(self) -> None:
        """Take over the workers in the store, and ask everybody for what may have been said to a dead master."""
        cluster, keeping = self.ledger.cluster, self.context.keeping
        self.zygotes.adopt()
        channels, pidfds = keeping.numbered("worker", "channel"), keeping.numbered("worker", "pidfd")
        notify, buses = keeping.numbered("worker", "notify"), keeping.numbered("worker", "bus")
        boards = keeping.numbered("worker", "board")
        for number in set(channels) | set(pidfds) | set(notify) | set(buses) | set(boards):
            w = cluster.workers.get(number)
            if w is None:
                keeping.drop(*(f"worker-{number}.{kind}" for kind in KEPT))
                continue
            settings = self.ledger.releases[w.generation].settings
            body = Body(number, w.generation, w.slot, command=bool(settings and settings.command), adopted=True)
            self.bodies[number] = body
            body.board, body.beat = boards.get(number), time.monotonic()
            body.told_to_drain = w.phase is Phase.DRAINING and not w.accepting  # as is noted when it has been
            if number in channels:
                self._take_channel(body, channels[number], kept=True)
            if number in notify:
                self._take_notified(body, Notified.adopt(notify[number]), kept=True)
            if number in buses:
                self.bus.join(number, buses[number], f"worker-{number}.bus", adopted=True)
            if number in pidfds:
                self._take_pidfd(body, pidfds[number], kept=True)
                self._set_ready_timer(body)
                self._say(body, {"op": "go"})
                self._say(body, {"op": "state"})
        for generation in cluster.generations:
            self.zygotes.ask_again(generation)
        for number, w in cluster.workers.items():
            if number in self.bodies:
                if self.bodies[number].pidfd is None and w.generation not in self.zygotes.zygotes:
                    self._unborn(number)
            elif w.phase is Phase.STARTING:
                self._unborn(number)
            else:
                self.context.events.append(WorkerGone(number, "gone (nobody saw how: the master died too)"))

    def orphaned(self, generation: int) -> None:
        """The zygote is dead: what it had been asked to fork and had not answered will never be, nor what came late."""
        for body in list(self.bodies.values()):
            if body.generation == generation and body.pidfd is None:
                self._unborn(body.id, "its zygote died" if body.ordered else "")

    # what happens to them

    def on_channel(self, worker: int) -> None:
        body = self.bodies.get(worker)
        if body is None or body.wire is None:
            return
        try:
            for message, fds in body.wire.exchange():
                for fd in fds:
                    os.close(fd)
                self._heard(body, message)
        except Closed:
            self.context.poll.unregister(body.wire.fileno())  # its death is told by the pidfd
        except WireError as e:
            # It is broken, or half a message went to a master that died. Who cannot be told to drain is replaced.
            self.context.poll.unregister(body.wire.fileno())
            self.context.events.append(WorkerFailed(worker, f"its channel: {e}"))
            if body.pidfd is not None:
                pidfd.send(body.pidfd, signal.SIGKILL)

    def on_notify(self, worker: int) -> None:
        """sd_notify messages of a `command` worker: looked at, acted upon, and only then taken away."""
        body = self.bodies.get(worker)
        if body is None or body.notified is None:
            return
        for _ in range(64):  # a worker that floods its socket must not keep the master from the others
            notice = body.notified.receive(peek=True)
            if notice is None:
                return
            if self._is_of(body, notice.pid):
                self._noticed(body, notice.fields)
            elif not body.forged:
                body.forged = True
                text = f"process {notice.pid} is not of worker {worker}: what it says in its place is ignored"
                self.context.journal.record(
                    messages.NOTICE_IGNORED, text, worker=worker, slot=body.slot, generation=body.generation
                )
            body.notified.consume()

    def _is_of(self, body: Body, pid: int | None) -> bool:
        """Whether the sender of a notice may speak for `body`: whoever is in its sub-cgroup, and without one its
        descendants and orphans of unknown descent. The socket's path is open to all of its user, its siblings too."""
        if pid is None or pid == body.pid:
            return pid is not None
        if self.context.cgroups.delegated:
            return self.context.cgroups.has(f"worker-{body.id}", pid)
        ancestors = set(kin.line(pid))
        return body.pid in ancestors or not any(b.pid in ancestors for b in self.bodies.values())

    def _noticed(self, body: Body, said: Mapping[str, str]) -> None:
        if "READY" in said or said.get("WATCHDOG") == "1":
            body.beat = time.monotonic()
        if said.get("READY") == "1":
            self.context.events.append(WorkerReady(body.id))
        if said.get("STOPPING") == "1" and body.id in self.ledger.cluster.workers:
            self.context.events.append(WorkerDraining(body.id))
        body.stated = fields.printable(said.get("STATUS", body.stated)[:200])

    def on_pidfd(self, worker: int) -> None:
        """It is dead. Its status may be known in a moment: to the zygote or the keeper, whoever is its parent."""
        body = self.bodies.get(worker)
        if body is None or body.pidfd is None:
            return
        self.context.poll.unregister(body.pidfd)
        body.dead_since = time.monotonic()
        while body.wire is not None and body.wire.fileno() in self.context.poll and poll.readable(body.wire.fileno()):
            self.on_channel(worker)  # to the end, or the reason of a failure with a long traceback would be lost
        self.bus.last_words(worker)
        self._bury(body)
        if worker in self.bodies:
            self.context.events.append(WorkerDead(worker))

    def tick(self, now: float) -> None:
        """Deadlines of this module and of the zygotes: see `deadline`."""
        self.zygotes.tick()
        for body in list(self.bodies.values()):
            if body.dead_since is not None:
                self._bury(body)
            elif body.ready_at is not None and now >= body.ready_at:
                body.ready_at = None
                self._timed_ready(body)

    def deadline(self) -> float | None:
        times = [b.dead_since + pidfd.STATUS_GRACE for b in self.bodies.values() if b.dead_since is not None]
        times += [b.ready_at for b in self.bodies.values() if b.ready_at is not None]
        times += self.zygotes.deadlines()
        return min(times, default=None)

    def _bury(self, body: Body) -> None:
        assert body.pidfd is not None and body.dead_since is not None
        status, never_ran = body.status, body.command and self._phase(body.id) is Phase.STARTING
        if status is None:
            soon = time.monotonic() < body.dead_since + pidfd.STATUS_GRACE
            if never_ran and soon:
                return  # the zygote's word of an exit comes after its word of a program that could not be run
            status = self.context.keeping.status_of(body.pidfd, body.pid)
            if status is None and soon:
                return
        reason = pidfd.describe(status) + self._for_memory(body, status)
        if never_ran and not body.unfit:
            body.advice = body.advice or advising.early_end(status)
        self._forget(body)
        self.context.events.append(WorkerGone(body.id, reason, body.advice))

    def _for_memory(self, body: Body, status: int | None) -> str:
        """Whether the kernel ended it for want of memory: its cgroup knows, or the machine's count makes it likely."""
        if self.context.cgroups.oom_kills(f"worker-{body.id}"):
            return " (out of memory)"
        before, self._oom_kills = self._oom_kills, usage.oom_kills()
        known = self.ledger.cluster.workers.get(body.id)
        if status != signal.SIGKILL or known is None or known.killed or self._oom_kills == before:
            return ""
        return " (out of memory, it seems: the kernel has just ended a process for that)"

    def _timed_ready(self, body: Body) -> None:
        """Nobody said that it is ready: where it is certain that it waits elsewhere, it would leave clients waiting."""
        own, certain = self._bypass(body)
        if certain and body.pidfd is not None:
            body.unfit = True
            self.context.events.append(WorkerFailed(body.id, advising.bypassed(own)))
            pidfd.send(body.pidfd, signal.SIGKILL)
        else:
            body.beat = time.monotonic()
            self.context.events.append(WorkerReady(body.id))

    def _phase(self, worker: int) -> Phase | None:
        known = self.ledger.cluster.workers.get(worker)
        return known.phase if known is not None else None

    def _bypass(self, body: Body) -> tuple[list[Listener], bool]:
        pids = {*self.context.cgroups.pids(f"worker-{body.id}"), *([body.pid] if body.pid else [])}
        given = {os.fstat(fd).st_ino for group in self.context.slots.groups for fd in group.fds}
        return bypass.listens(pids, given)

    def _unborn(self, worker: int, reason: str = "") -> None:
        """There will be no process. Without a reason it is nobody's fault: the master died before it gave the order."""
        body = self.bodies.get(worker)
        if body is not None:
            self._forget(body)
        advice = body.advice if body is not None else ""
        self.context.events.append(WorkerGone(worker, reason, advice) if reason else WorkerUnborn(worker))

    def _on_zygote(self, generation: int, message: Message, fds: list[int]) -> None:
        if self.others is not None and self.others(generation, message, fds):
            return
        event, worker = message.get("event"), message.get("worker")
        body = self.bodies.get(worker) if isinstance(worker, int) else None
        if event == "forked" and len(fds) == 1:
            if body is None or body.pidfd is not None:
                os.close(fds[0])
                return
            body.pid = fields.process(message, fds[0])
            self._take_pidfd(body, fds[0])
            self._set_ready_timer(body)
            self._say(body, {"op": "go"})
            return
        for fd in fds:
            os.close(fd)
        if event == "exited" and body is not None:
            body.status = fields.number(message, "status")
            if body.dead_since is not None:
                self._bury(body)
        elif event == "fork-failed" and body is not None:
            body.unfit = True
            reason = fields.words(message, "reason")
            self.context.events.append(WorkerFailed(body.id, reason))
            if body.pidfd is None:
                self._unborn(body.id, reason)
        elif event == "listed":
            for other in list(self.bodies.values()):
                # What we ordered ourselves is answered in turn, after the list; what a dead master ordered is in it.
                if other.generation == generation and other.pidfd is None and other.adopted:
                    self._unborn(other.id)

    def _heard(self, body: Body, message: Message) -> None:
        events = self.context.events
        match message.get("event"):
            case "awaits":
                body.awaits = fields.words(message, "what", "", most=200)
            case "ready":
                events.append(WorkerReady(body.id))
            case "serving":
                events.append(WorkerServing(body.id))
            case "draining":
                events.append(WorkerDraining(body.id))
            case "failed":
                body.traceback = fields.traceback(message)
                told = fields.words(message, "reason", "failed without a reason")
                release = self.ledger.releases.get(body.generation)
                settings = release.settings if release else None
                events.append(WorkerFailed(body.id, hints.explained(told, body.traceback, settings, self.context)))
            case "spent":
                events.append(WorkerSpent(body.id, fields.words(message, "reason", "", most=200)))
            case "drained":
                body.drained = {key: fields.number(message, key, 0) for key in COUNTS}

    # descriptors

    def _take_channel(self, body: Body, fd: int, *, kept: bool = False) -> None:
        if not kept:
            self.context.keeping.keep(f"worker-{body.id}.channel", fd)
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)
        body.wire = Watched(sock, self.context.poll)
        if not body.command:
            self.context.poll.register(fd, poll.READ, ("worker.channel", body.id))

    def _take_notified(self, body: Body, notified: Notified, *, kept: bool = False) -> None:
        if not kept:
            self.context.keeping.keep(f"worker-{body.id}.notify", notified.fileno())
        body.notified = notified
        self.context.poll.register(notified.fileno(), poll.READ, ("worker.notify", body.id))

    def _take_pidfd(self, body: Body, fd: int, *, kept: bool = False) -> None:
        if not kept:
            self.context.keeping.keep(f"worker-{body.id}.pidfd", fd)
        body.pidfd = fd
        body.pid = self.ledger.note_pid(body.id, body.pid or pidfd.pid_of(fd))
        self.context.poll.register(fd, poll.READ, ("worker.pidfd", body.id))

    def _set_ready_timer(self, body: Body) -> None:
        settings = self.ledger.releases[body.generation].settings
        if not body.command or settings is None or self._phase(body.id) is not Phase.STARTING:
            return
        if not isinstance(settings.ready, str):
            body.ready_at = time.monotonic() + settings.ready

    def _forget(self, body: Body) -> None:
        c = self.context
        del self.bodies[body.id]
        self.ledger.pids.pop(body.id, None)
        if body.drained:
            self.reports[body.id] = body.drained
        elif self._phase(body.id) is Phase.DRAINING:
            self.reports[body.id] = {"untold": 1}
        if body.traceback:
            self.last_words[body.id] = body.traceback
        if body.wire is not None:
            c.poll.unregister(body.wire.fileno())
            body.wire.detach()  # the store owns the descriptor
        if body.notified is not None:
            c.poll.unregister(body.notified.fileno())
            with contextlib.suppress(OSError):
                Path(c.runtime / "notify" / str(body.id)).unlink()
            body.notified.sock.detach()
        if body.pidfd is not None:
            c.poll.unregister(body.pidfd)
        self.bus.leave(body.id)
        c.streams.end(f"worker-{body.id}")
        c.keeping.drop(*(f"worker-{body.id}.{kind}" for kind in KEPT if kind != "bus"))
        c.cgroups.kill(f"worker-{body.id}")  # what it left behind goes with it
        c.cgroups.remove(f"worker-{body.id}")

    def _say(self, body: Body, message: Message, fds: Sequence[int] = ()) -> None:
        """To a `command` only "go" means something: what waits for it is still the zygote's fork."""
        if body.wire is None or (body.command and message["op"] != "go"):
            return
        with contextlib.suppress(WireError):  # its death is on its way through the pidfd
            body.wire.send(message, fds)

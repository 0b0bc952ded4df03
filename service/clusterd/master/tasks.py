"""The runs of tasks: their processes, and what they say. When they run is decided in clusterd.tasks.

A run is forked by the zygote as a worker is, and its number is one that no worker has; in the keeper's store it is
`task-N`. What it returns is published first, then written down, and then it is told so: until then it says it again.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from clusterd.config.settings import Task as Setting
from clusterd.config.values import duration_text
from clusterd.core.model import Boot
from clusterd.master import bus, hints
from clusterd.master.bridging import Bridging
from clusterd.master.callers import Callers
from clusterd.master.context import Context
from clusterd.master.ledger import Ledger
from clusterd.master.zygotes import Zygotes
from clusterd.shell import fields, messages, pidfd, poll
from clusterd.shell.control import Call
from clusterd.tasks import machine
from clusterd.tasks.events import (
    Action,
    Begun,
    Dismiss,
    Ended,
    Event,
    Gone,
    Kill,
    Passed,
    Said,
    Situated,
    Start,
    Terminate,
    Unborn,
)
from clusterd.tasks.model import Outcome, Phase, Plan, Task
from clusterd.worker.frames import Frames, decode, encode, text
from clusterd.worker.wire import Message, WireError

PIECE = 1 << 16
SHOWN = 2000
"""Characters of a result, or of a reason, that are remembered for the status."""


@dataclass
class Body:
    """The process behind a run."""

    number: int
    generation: int
    sock: socket.socket
    frames: Frames = field(default_factory=Frames)
    adopted: bool = False
    torn: bool = False
    """The next message may be the rest of one whose beginning a master that died has read."""
    pidfd: int | None = None
    pid: int | None = None
    status: int | None = None
    dead_since: float | None = None
    traceback: str = ""
    result: str | None = None
    """JSON, whole."""


class Tasks:
    def __init__(
        self,
        context: Context,
        ledger: Ledger,
        zygotes: Zygotes,
        messages_bus: bus.Bus,
        bridging: Bridging,
        save: Callable[[], None],
    ) -> None:
        """`save` writes the ledger down."""
        self.context = context
        self.ledger = ledger
        self.zygotes = zygotes
        self.bus = messages_bus
        self.bridging = bridging
        self.save = save
        self.bodies: dict[int, Body] = {}
        self.events: deque[Event] = deque()
        self.callers = Callers(ledger, bridging, self.events)
        self._situation: Situated | None = None
        if not ledger.tasks.salt:
            ledger.tasks = replace(ledger.tasks, salt=random.getrandbits(32) | 1)

    @property
    def busy(self) -> bool:
        return self.ledger.tasks.busy

    # deciding

    def advance(self) -> None:
        """Let what has happened be taken in, and do what is decided."""
        found = self._found()
        if found is not None and found != self._situation:
            self._situation = found
            # First: what a dead master left unborn must not be ordered of a zygote that died with it.
            self.events.appendleft(found)
        due = machine.deadline(self.ledger.tasks)
        if not self.events and due is not None and time.monotonic() >= due:
            self.events.append(Passed())
        self._take_in()
        self.callers.advance()
        self._take_in()

    def _take_in(self) -> None:
        while self.events:
            self._step(self.events.popleft())

    def deadline(self) -> float | None:
        times = [b.dead_since + pidfd.STATUS_GRACE for b in self.bodies.values() if b.dead_since is not None]
        times += [due for due in (self.callers.deadline(), machine.deadline(self.ledger.tasks)) if due is not None]
        return min(times, default=None)

    def tick(self) -> None:
        for body in list(self.bodies.values()):
            if body.dead_since is not None:
                self._bury(body)

    def _found(self) -> Situated | None:
        """What holds now; None: nothing has served yet."""
        cluster = self.ledger.cluster
        if cluster.stopping:
            known = self._situation
            grace = known.grace if known is not None and known.stopping else cluster.policy.stop_timeout
            return Situated(None, {}, True, grace)
        serving = self.ledger.serving
        if cluster.current is None or serving is None or serving.settings is None:
            return None
        generation = cluster.generations.get(cluster.current)
        able = generation is not None and generation.boot is Boot.UP and cluster.current in self.zygotes.zygotes
        able = able and self.bridging.elsewhere() is None
        plans = {name: _plan(setting) for name, setting in serving.settings.task.items()}
        grace, lost = cluster.policy.stop_timeout, self.bridging.lost()
        return Situated(cluster.current if able else None, plans, False, grace, lost)

    def _step(self, event: Event) -> None:
        cluster, before = self.ledger.cluster, self.ledger.tasks
        free = replace(before, next=max(before.next, cluster.next_worker))
        after, actions = machine.step(free, event, time.monotonic())
        if after == free and not actions:
            return
        self.ledger.tasks = after
        if after.next > cluster.next_worker:
            self.ledger.cluster = replace(cluster, next_worker=after.next)
        self.save()
        for action in actions:
            self._perform(action)
        self.callers.removed()

    def _perform(self, action: Action) -> None:
        match action:
            case Start(task, number, generation):
                self._start(task, number, generation)
            case Dismiss(number):
                if (body := self.bodies.get(number)) is not None:
                    self._say(body, {"op": "dismiss"})
            case Terminate(number):
                self._signal(number, signal.SIGTERM)
            case Kill(number):
                self._replace_zygote(number)
                self._signal(number, signal.SIGKILL)
                self.context.cgroups.kill(f"task-{number}")
            case Ended():
                self._tell(action)

    # orders

    def _start(self, name: str, number: int, generation: int) -> None:
        c = self.context
        self.callers.begun(name, number)
        plan = self.ledger.tasks.tasks[name].plan
        ours, theirs = socket.socketpair()
        mouth, heard = bus.pair()
        c.keeping.keep(f"task-{number}.channel", ours.fileno())
        c.keeping.keep(f"task-{number}.bus", mouth)
        self._take_channel(number, generation, ours.detach())
        self.bus.join(number, mouth, f"task-{number}.bus")
        output = c.streams.open(f"task-{number}", f"{c.name}/{name}")
        settings = self.ledger.releases[generation].settings
        order: Message = {
            "op": "fork",
            "worker": number,
            "slot": None,
            "slots": settings.workers if settings else 1,
            "cgroup": c.cgroups.path(f"task-{number}"),
            "oom-score-adj": c.worker_oom_score,
            "listeners": [],
            "notify": None,
            "bus": True,
            "task": {"name": name, "call": plan.call, "publish": plan.publish},
        }
        # Nobody takes it where the zygote is dead and not known to be: `orphaned` sees to it then. To order it again
        # would be to go round and never come to hear of the death.
        self.zygotes.fork(generation, order, [theirs.fileno(), output, heard.fileno()])
        theirs.close()
        heard.close()

    def _replace_zygote(self, number: int) -> None:
        """Where it was late with the fork: the next run would be ordered of it too."""
        body, name = self.bodies.get(number), self.ledger.tasks.of_run(number)
        run = self.ledger.tasks.tasks[name].run if name is not None else None
        # What a dead master ordered may have been forked, and not be read yet.
        if body is not None and body.pidfd is None and not body.adopted and run is not None and run.killed:
            self.zygotes.kill(body.generation)

    def _signal(self, number: int, what: int) -> None:
        body = self.bodies.get(number)
        if body is None:
            self.events.append(Gone(number, "gone (status unknown)"))
        elif body.pidfd is not None:
            pidfd.send(body.pidfd, what)
        else:
            self._forget(body)
            self.events.append(Gone(number, "it was never forked"))

    def cut(self) -> None:
        """Nobody waits any more for what still ends."""
        for number in list(self.bodies):
            self._perform(Kill(number))

    def adopt(self) -> None:
        """Take over the runs in the store, after the zygotes: they are asked for their children."""
        keeping = self.context.keeping
        channels, pidfds, buses = (keeping.numbered("task", kind) for kind in ("channel", "pidfd", "bus"))
        for number in channels.keys() | pidfds.keys() | buses.keys():
            name = self.ledger.tasks.of_run(number)
            run = self.ledger.tasks.tasks[name].run if name is not None else None
            if run is None or number not in channels:
                if number in pidfds:
                    pidfd.send(pidfds[number], signal.SIGKILL)
                self.context.cgroups.kill(f"task-{number}")
                keeping.drop(*(f"task-{number}.{kind}" for kind in ("channel", "pidfd", "bus")))
                continue
            body = self._take_channel(number, run.generation, channels[number])
            body.adopted = body.torn = True
            if number in buses:
                self.bus.join(number, buses[number], f"task-{number}.bus", adopted=True)
            if number in pidfds:
                self._take_pidfd(body, pidfds[number])
                self._say(body, {"op": "state"})
            elif run.generation not in self.zygotes.zygotes:
                self._unborn(body)
        for task in self.ledger.tasks.tasks.values():
            if task.run is not None and task.run.number not in self.bodies:
                number, born = task.run.number, task.run.phase is not Phase.STARTING
                unseen = "gone (nobody saw how: the master died too)"
                self.events.append(Gone(number, unseen) if born else Unborn(number))

    def orphaned(self, generation: int) -> None:
        """The zygote is dead: what it had been asked for and had not answered will never be."""
        for body in list(self.bodies.values()):
            if body.generation == generation and body.pidfd is None:
                self._unborn(body)

    # what happens to them

    def on_zygote(self, generation: int, message: Message, fds: list[int]) -> bool:
        """What a zygote says of its children; whether it was about a run. The descriptors are then taken."""
        event, number = message.get("event"), message.get("worker")
        if event == "listed":
            for other in list(self.bodies.values()):
                if other.generation == generation and other.pidfd is None and other.adopted:
                    self._unborn(other)
            return False
        body = self.bodies.get(number) if isinstance(number, int) else None
        if body is None:
            return False
        if event == "forked" and len(fds) == 1 and body.pidfd is None:
            body.pid = fields.process(message, fds[0])
            self.context.keeping.keep(f"task-{body.number}.pidfd", fds[0])
            self._take_pidfd(body, fds[0])
            return True
        for fd in fds:
            os.close(fd)
        if event == "exited":
            body.status = fields.number(message, "status")
            if body.dead_since is not None:
                self._bury(body)
        elif event == "fork-failed":
            self._forget(body)
            self.events.append(Gone(body.number, fields.words(message, "reason", "")))
        return True

    def on_channel(self, number: int) -> None:
        body = self.bodies.get(number)
        if body is None or body.sock.fileno() not in self.context.poll:
            return
        try:
            data = body.sock.recv(PIECE)
            if not data:
                self.context.poll.unregister(body.sock.fileno())  # its death is told by the pidfd
                return
            for frame in body.frames.feed(data):
                message = decode(frame)
                if message is not None:
                    self._heard(body, message)
                elif not body.torn:
                    raise WireError(f"not a JSON object: {frame[:80]!r}")
                body.torn = False
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.context.poll.unregister(body.sock.fileno())
        except WireError as e:
            self.context.poll.unregister(body.sock.fileno())
            self.events.append(Said(number, False, f"its channel: {e}"))
            self._signal(number, signal.SIGKILL)

    def _heard(self, body: Body, message: Message) -> None:
        name = self.ledger.tasks.of_run(body.number)
        if name is None:
            return
        task = self.ledger.tasks.tasks[name]
        if message.get("event") == "done":
            body.result = text(message.get("result"))
            publish = task.run.publish if task.run is not None else None
            why = self.bus.retain(publish, body.result) if publish is not None else ""
            said = Said(body.number, not why, _shown(why or body.result))
        elif message.get("event") == "failed":
            body.traceback = fields.traceback(message)
            reason = fields.words(message, "reason", "failed without a reason")
            release = self.ledger.releases.get(body.generation)
            settings = release.settings if release else None
            reason = hints.explained(reason, body.traceback, settings, self.context)
            if task.run is not None and task.run.why:
                reason = task.run.why
            said = Said(body.number, False, _shown(reason))
        else:
            return
        self.events.append(said)

    def on_pidfd(self, number: int) -> None:
        """It is dead."""
        body = self.bodies.get(number)
        if body is None or body.pidfd is None:
            return
        self.context.poll.unregister(body.pidfd)
        body.dead_since = time.monotonic()
        while body.sock.fileno() in self.context.poll and poll.readable(body.sock.fileno()):
            self.on_channel(number)
        self.bus.last_words(number)
        self._bury(body)

    def _bury(self, body: Body) -> None:
        assert body.pidfd is not None and body.dead_since is not None
        status = body.status
        if status is None:
            status = self.context.keeping.status_of(body.pidfd, body.pid)
        if status is None and time.monotonic() < body.dead_since + pidfd.STATUS_GRACE:
            return
        oom = self.context.cgroups.oom_kills(f"task-{body.number}")
        reason = pidfd.describe(status) + (" (out of memory)" if oom else "")
        self._forget(body)
        self.events.append(Gone(body.number, reason if status else f"{reason}, without a result"))

    def _unborn(self, body: Body) -> None:
        self.callers.unborn(self.ledger.tasks.of_run(body.number), body.number)
        self._forget(body)
        self.events.append(Unborn(body.number))

    # who waits for them: `callers`

    def run(self, call: Call) -> None:
        self.callers.ask(call)
        self.advance()

    def close(self) -> None:
        self.callers.close()

    def _tell(self, ended: Ended) -> None:
        body = self.bodies.get(ended.number)
        failed = ended.outcome is Outcome.FAILED
        if ended.news:
            traceback = f"\n{body.traceback.rstrip()}" if body is not None and failed and body.traceback else ""
            record = messages.TASK_FAILED if failed else messages.TASK_RECOVERED
            said = (
                f"task {ended.task} failed: {ended.text}{traceback}" if failed else f"task {ended.task} has recovered"
            )
            self.context.journal.record(record, said, task=ended.task)
        self.callers.ended(ended, body.result if body is not None else None)

    def status(self) -> list[dict[str, Any]]:
        """docs/architecture.md, "Status"."""
        running = self.ledger.running
        settings: Mapping[str, Setting] = running.task if running is not None else {}
        now = time.monotonic()
        return [self._of(name, task, settings.get(name), now) for name, task in sorted(self.ledger.tasks.tasks.items())]

    def _of(self, name: str, task: Task, setting: Setting | None, now: float) -> dict[str, Any]:
        run, last = task.run, task.last
        body = self.bodies.get(run.number) if run is not None else None
        due = task.due if task.run is None and not self.ledger.tasks.stopping else None
        return {
            "task": name,
            "schedule": schedule(task.plan.every, setting.calendar if setting is not None else None),
            "run": None
            if run is None
            else {"number": run.number, "pid": body.pid if body else None, "seconds": round(now - run.since, 3)},
            "next": None if due is None else round(max(0.0, due - now), 3),
            "elsewhere": self.bridging.elsewhere(),
            "failures": task.failures,
            "last": None
            if last is None
            else {
                "number": last.number,
                "outcome": last.outcome,
                "result": last.text if last.outcome is Outcome.DONE else None,
                "reason": None if last.outcome is Outcome.DONE else last.text,
                "seconds": round(last.seconds, 3),
                "age": round(now - last.ended, 3),
            },
        }

    # descriptors

    def _take_channel(self, number: int, generation: int, fd: int) -> Body:
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)
        body = self.bodies[number] = Body(number, generation, sock)
        self.context.poll.register(fd, poll.READ, ("task.channel", number))
        return body

    def _take_pidfd(self, body: Body, fd: int) -> None:
        """It is known, and may begin."""
        body.pidfd = fd
        body.pid = self.ledger.note_pid(body.number, body.pid or pidfd.pid_of(fd))
        self.context.poll.register(fd, poll.READ, ("task.pidfd", body.number))
        self.events.append(Begun(body.number))
        self._say(body, {"op": "go"})

    def _forget(self, body: Body) -> None:
        c, number = self.context, body.number
        del self.bodies[number]
        self.ledger.pids.pop(number, None)
        c.poll.unregister(body.sock.fileno())
        body.sock.detach()  # the store owns the descriptor
        if body.pidfd is not None:
            c.poll.unregister(body.pidfd)
        self.bus.leave(number)
        c.streams.end(f"task-{number}")
        c.keeping.drop(*(f"task-{number}.{kind}" for kind in ("channel", "pidfd", "bus")))
        c.cgroups.kill(f"task-{number}")  # what it left behind goes with it
        c.cgroups.remove(f"task-{number}")

    def _say(self, body: Body, message: Message) -> None:
        with contextlib.suppress(OSError):  # its death is on its way through the pidfd
            body.sock.send(encode(message), socket.MSG_NOSIGNAL)


def _plan(setting: Setting) -> Plan:
    return Plan(setting.call, setting.publish, setting.every, setting.timeout, setting.jitter)


def _shown(told: str) -> str:
    return told if len(told) <= SHOWN else f"{told[:SHOWN]}..."


def schedule(every: float | None, calendar: str | None) -> str:
    """When it runs, in words."""
    if every is not None:
        return f"every {duration_text(every)}"
    return calendar or "on demand"

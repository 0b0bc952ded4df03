"""Actions become deeds: the one table from what the core decided to who does it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from clusterd.balance.program import program as steering
from clusterd.config import certificates
from clusterd.config.environment import EnvironmentFileError
from clusterd.config.load import Invalid, surroundings
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
from clusterd.core.events import ZygoteGone
from clusterd.core.model import Kind
from clusterd.master import sockets
from clusterd.master.context import Context
from clusterd.master.ledger import Ledger
from clusterd.master.program import failure
from clusterd.master.releases import Source
from clusterd.master.requests import Requests
from clusterd.master.telling import Telling
from clusterd.master.ushering import Ushering
from clusterd.master.workers import Workers
from clusterd.shell import messages
from clusterd.shell.reuseport import attach, grouped

START_FAILED = "failed"
"""In systemd's fd store: a memfd with the reason of a start that failed; the next start stays up and heals.

There and not in a file, because systemd keeps the store exactly as long as wanted: over an automatic restart, not over
a stop. (A runtime directory that is kept as long is put where a dynamic user's clients cannot reach it.)
"""


ENDS = (What.WORKER_DIED, What.WORKER_HUNG, What.WORKER_LEFT)
"""What counts as an end of a worker that was not asked for; one that hangs is killed or leaves, and is told once."""

FAILURES = (What.REFUSED, What.UNDONE, What.START_FAILED, What.DEGRADED, What.BOOT_FAILED)
"""What is told with the traceback that goes with it."""


class Performer:
    def __init__(
        self,
        context: Context,
        ledger: Ledger,
        source: Source,
        workers: Workers,
        ushering: Ushering,
        telling: Telling,
        requests: Requests,
    ) -> None:
        self.context = context
        self.ledger = ledger
        self.source = source
        self.workers = workers
        self.ushering = ushering
        self.telling = telling
        self.requests = requests
        self.exit_status: int | None = None
        self._answers: list[Callable[[], None]] = []

    def answer(self) -> None:
        """Answer whoever waits for what has been done: it is told by now, so that who looks at once sees it."""
        while self._answers:
            self._answers.pop(0)()

    def perform(self, action: Action) -> None:
        """Do one thing. What cannot be done becomes an event; nothing here raises for the world's sake."""
        match action:
            case BootZygote(generation):
                self._boot(generation)
            case EndGeneration(generation):
                self.workers.zygotes.end(generation)
            case MakeTwin(generation):
                self.workers.zygotes.make_twin(generation)
            case PromoteTwin(generation):
                self.workers.zygotes.promote(generation)
            case Fork(worker, generation, slot):
                self.workers.fork(worker, generation, slot)
            case Serve(worker, slot):
                self.workers.serve(worker, slot)
            case Drain(worker, linger, timeout):
                self.workers.drain(worker, linger, timeout)
            case Kill(worker):
                self.workers.kill(worker)
            case Steer(slots):
                self._steer(slots)
            case Usher(mode, slots):
                self.ushering.order(mode, slots)
            case Finish():
                self._finish(action)
            case Tell():
                self._tell(action)
            case Exit(status):
                self.ushering.stop()
                if status == 0:
                    self._forgive()
                self.exit_status = status

    def _boot(self, generation: int) -> None:
        release = self.ledger.releases[generation]
        try:
            again = release.attempts > 0 and not release.mode
            known = (release.settings, release.tls) if release.settings and release.tls else self.ledger.certified
            if again or release.settings is None:
                # It has never been up: whoever repairs it may well do so in the file.
                release.settings = self.source.load()
            if again or not release.tls:
                release.tls = certificates.read(release.settings, known)
            release.attempts += 1
            problems = surroundings(release.settings, self.context.place, unit=not self.context.foreground)
            if problems:
                raise Invalid(problems)
            refusal = sockets.objection(self.context, release.settings, self.ledger.cluster)
            if refusal:
                self.context.events.append(ZygoteGone(generation, refusal))
                return
            # What has been up comes from where it was, wherever a link leads now, while that is there.
            if again or not os.path.isdir(release.directory):
                release.resolve()
            self.context.keeping.save(self.ledger.to_json())  # a successor must know which directory was meant
            self.workers.zygotes.boot(generation, release)
        except Invalid as e:
            self.context.events.append(ZygoteGone(generation, "; ".join(str(p) for p in e.problems)))
        except EnvironmentFileError as e:
            self.context.events.append(ZygoteGone(generation, str(e)))
        except OSError as e:
            self.context.events.append(ZygoteGone(generation, f"the zygote cannot be started: {failure(e)}"))

    def _steer(self, slots: tuple[int, ...]) -> None:
        settings = self.ledger.running
        mode = settings.balance if settings is not None else "random"
        for group in self.context.slots.groups:
            if group.kind != "tcp" or not grouped(group.fds[0]):
                continue
            live = sorted({slot % len(group.fds) for slot in slots})
            try:
                attach(group.fds[0], steering(mode, live))
            except OSError as e:
                self.context.journal.record(
                    messages.STEERING_FAILED,
                    f"{group.text}: the kernel took no steering program: {e.strerror}, ignoring",
                )

    def _finish(self, finish: Finish) -> None:
        cluster = self.ledger.cluster
        receipt = self.ledger.receipts[finish.number]
        detail = self._detail(finish.generation)
        self._answers.append(lambda: self.requests.finish(finish, receipt, detail))
        if finish.outcome is Outcome.DONE and finish.kind is not Kind.TRY:
            self._steer(cluster.steered)  # by the new generation's `balance`
            self.settled()
        elif finish.kind is Kind.START and finish.outcome is Outcome.REFUSED and cluster.stopping:
            fd = os.memfd_create(START_FAILED)
            os.write(fd, finish.reason.encode(errors="replace")[:4096])
            self.context.notifier.store(START_FAILED, fd)
            os.close(fd)
        elif finish.kind is Kind.TRY or cluster.rollout is not None:
            pass  # nothing that systemd knows of has ended
        elif finish.kind is not Kind.START or not cluster.stopping:
            # A start too: it may have been asked for as a reload. But one that is stopped has not started.
            self.context.notifier.ready(self.telling.line())

    def settled(self) -> None:
        """Tell systemd and the keeper that nothing is under way: the start or the reload is over."""
        if not self.ledger.cluster.problem:
            self._forgive()
        self.context.keeping.ready()
        self.telling.status()
        self.context.notifier.ready(self.telling.line())

    def _forgive(self) -> None:
        if START_FAILED in self.context.keeping.fds:
            self.context.notifier.unstore(START_FAILED)
            self.context.keeping.drop(START_FAILED)

    def _detail(self, generation: int) -> str:
        """The traceback that goes with a failure, if there is one."""
        release = self.ledger.releases.get(generation)
        return (release.reason if release else "") or next(iter(self.workers.last_words.values()), "")

    def _tell(self, tell: Tell) -> None:
        traceback = ""
        if tell.what in ENDS and tell.slot is not None:
            self.ledger.ended(tell.slot, tell.text or "it left by itself", time.monotonic())
        if tell.generation and tell.what in FAILURES:
            traceback = self._detail(tell.generation)
        elif tell.what is What.WORKER_DIED and tell.worker is not None:
            traceback = self.workers.last_words.pop(tell.worker, "")
        self.telling.tell(tell, traceback)
        if tell.what is What.RECOVERED:
            self._forgive()
        if tell.what is What.GENERATION_GONE and tell.generation is not None:
            self.ledger.releases.pop(tell.generation, None)

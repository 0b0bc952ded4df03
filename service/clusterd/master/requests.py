"""What people ask over the control socket, from the call to its answer."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from clusterd import __version__
from clusterd.config.difference import difference, how, needing
from clusterd.config.environment import EnvironmentFileError, read_environment
from clusterd.config.load import Invalid
from clusterd.config.settings import Settings
from clusterd.core.actions import Finish, Outcome
from clusterd.core.events import Asked, StopAsked
from clusterd.core.model import Boot, Cluster, Kind
from clusterd.master.releases import Release, application_environment, policy
from clusterd.master.telling import Receipt, progress, summary
from clusterd.shell import messages
from clusterd.shell.control import Call, Client, Control, listen

if TYPE_CHECKING:
    from clusterd.master.loop import Master

ERRORS = {Outcome.REFUSED: "Refused", Outcome.RETURNED: "Returned", Outcome.STOPPED: "Stopping"}


class Requests:
    """Callers wait by the number of their rollout: it goes on whether or not they do."""

    def __init__(self, master: Master) -> None:
        self.master = master
        self.callers: dict[int, Call] = {}
        self.stoppers: list[Call] = []
        self.control: Control | None = None
        self._told: dict[int, dict[str, object]] = {}

    # the socket

    def listen(self) -> None:
        """Take the control socket over, or make it."""
        import socket

        context = self.master.context
        if "control" not in context.keeping.fds:
            sock = listen(str(context.runtime / "control"))
            context.keeping.keep("control", os.dup(sock.fileno()))
            sock.close()
        sock = socket.socket(fileno=os.dup(context.keeping.fds["control"]))
        self.control = Control(sock, context.poll)

    def on_connection(self) -> None:
        assert self.control is not None
        self.control.accept(time.monotonic())

    def on_client(self, client: Client, events: int) -> None:
        for call in client.handle(events, time.monotonic()):
            self._answer(call)

    def deadline(self) -> float | None:
        return self.control.deadline() if self.control is not None else None

    def expire(self) -> None:
        if self.control is not None:
            self.control.expire(time.monotonic())

    def close(self) -> None:
        for call in self.callers.values():
            call.error("Stopping")
        for call in self.stoppers:
            call.reply(keeper=self.master.context.keeping.keeper)
        if self.control is not None:
            self.control.close()

    # calls

    def _answer(self, call: Call) -> None:
        match call.method:
            case "Status":
                call.reply(status=self.status())
            case "Changes":
                self._changes(call)
            case "Reload" | "Try":
                self.reload(
                    call, call.parameters.get("environment"), call.parameters.get("overlay") or {},
                    Kind.RELOAD if call.method == "Reload" else Kind.TRY,
                )  # fmt: skip
            case "Rollback":
                self._ask(call, Kind.ROLLBACK, None)
            case "Stop":
                call.progress(keeper=self.master.context.keeping.keeper)
                self.stoppers.append(call)
                self.master.context.events.append(StopAsked())

    def reload(
        self, call: Call | None, environment: Mapping[str, str] | None, overlay: Mapping[str, str], kind: Kind = Kind.RELOAD
    ) -> None:
        """A new generation of the code and the file as they are now; refused at once when the file cannot do it.

        `environment` is what systemd gives a fresh process of the unit and takes the place of the one before;
        `overlay` goes on top of it. `call` is None for a signal: then the journal alone is told.
        """
        master = self.master
        try:
            settings = master.performer.load()
        except Invalid as e:
            self._refuse(call, "Invalid", "; ".join(str(p) for p in e.problems), problems=[asdict(p) for p in e.problems])
            return
        running = self._running()
        fixed = needing(difference(running, settings)) if running is not None else []
        if fixed:
            text = ", ".join(c.text for c in fixed) + f": not changed by a reload; run '{how(settings.name, fixed)}'"
            keys = [{"key": c.key, "applies": c.applies, "text": c.text} for c in fixed]
            self._refuse(call, "RestartNeeded", text, keys=keys)
            return
        given = dict(master.environment)
        if environment:
            given = application_environment(environment)
        given |= application_environment(overlay)
        if master.context.foreground and settings.environment_file:
            try:
                given |= read_environment(settings.environment_file)
            except (OSError, EnvironmentFileError) as e:
                self._refuse(call, "Refused", f"environment-file '{settings.environment_file}': {e}", reason=str(e), detail="")
                return
        if kind is Kind.RELOAD:
            master.environment = given
        self._ask(call, kind, Release(settings, given))

    def _ask(self, call: Call | None, kind: Kind, release: Release | None) -> None:
        master = self.master
        if master.cluster.stopping:
            if call is not None:
                call.error("Stopping")
            return
        if master.context.events:
            master.advance()  # numbers below are the next the core gives out
        if release is not None:
            master.releases[master.cluster.next_generation] = release
        if call is not None:
            self.callers[master.cluster.next_rollout] = call
        if kind in (Kind.RELOAD, Kind.ROLLBACK):
            master.context.notifier.reloading(f"{kind} asked for")
        settings = release.settings if release is not None else None
        master.context.events.append(Asked(kind, policy(settings, master.context.slots.total)))
        master.advance()

    def _refuse(self, call: Call | None, error: str, text: str, **parameters: Any) -> None:
        self.master.context.journal.record(messages.RELOAD_REFUSED, f"refused, nothing changed: {text}")
        self.master.telling.note = f"reload refused: {text}"
        if call is not None:
            call.error(error, **parameters)

    def _changes(self, call: Call) -> None:
        """What a reload of the file as it is now would change. Values of variables are not in it."""
        try:
            settings, running = self.master.performer.load(), self._running()
        except Invalid as e:
            call.error("Invalid", problems=[asdict(p) for p in e.problems])
            return
        changes = difference(running, settings) if running is not None else []
        call.reply(changes=[{**asdict(c), "text": c.text} for c in changes], how=how(settings.name, changes))

    def _running(self) -> Settings | None:
        current = self.master.cluster.current
        release = self.master.releases.get(current) if current is not None else None
        return release.settings if release is not None else None

    # answers

    def finish(self, finish: Finish, receipt: Receipt, detail: str) -> None:
        """The rollout is over: its caller, if it still waits, is told how."""
        call = self.callers.pop(finish.number, None)
        self._told.pop(finish.number, None)
        if call is None:
            return
        if finish.outcome is Outcome.DONE:
            call.reply(**{"report" if finish.kind is Kind.TRY else "receipt": asdict(receipt)})
        elif finish.outcome is Outcome.SUPERSEDED:
            call.error("Superseded", number=self.master.cluster.next_rollout - 1)
        elif finish.outcome is Outcome.REFUSED:
            call.error("Refused", reason=finish.reason, detail=detail)
        else:
            call.error(ERRORS[finish.outcome], **({"reason": finish.reason} if finish.outcome is Outcome.RETURNED else {}))

    def progress(self, cluster: Cluster) -> None:
        """Tell whoever waits for the rollout under way how far it is, when that has changed."""
        r = cluster.rollout
        call = self.callers.get(r.number) if r is not None else None
        if r is None or call is None:
            return
        now = progress(cluster)
        if self._told.get(r.number) != now:
            self._told[r.number] = now
            call.progress(progress=now)

    # status

    def status(self) -> dict[str, Any]:
        """docs/architecture.md, "Status"."""
        master, c = self.master, self.master.cluster
        now, wall = time.monotonic(), time.time()
        r, receipt = c.rollout, master.telling.last()
        return {
            "name": master.context.name,
            "version": __version__,
            "state": state_of(c),
            "summary": summary(c),
            "problem": c.problem or None,
            "master": {"pid": os.getpid(), "starts": master.context.keeping.starts, "since": wall - (now - master.born)},
            "generation": c.current,
            "previous": c.previous,
            "wanted": c.policy.workers,
            "workers": [self._worker(n, now) for n in sorted(c.workers)],
            "generations": [self._generation(n) for n in sorted(c.generations)],
            "slots": {"total": master.context.slots.total, "live": list(c.steered)},
            "listen": [group.text for group in master.context.slots.groups],
            "rollout": {"number": r.number, "kind": r.kind, "phase": r.stage, "generation": r.target} if r else None,
            "receipt": asdict(receipt) if receipt else None,
        }

    def _worker(self, number: int, now: float) -> dict[str, Any]:
        w, body = self.master.cluster.workers[number], self.master.workers.bodies.get(number)
        return {
            "worker": number,
            "slot": w.slot,
            "generation": w.generation,
            "state": w.phase,
            "pid": body.pid if body else None,
            "age": round(now - (w.ready_at if w.ready_at is not None else w.since), 3),
        }

    def _generation(self, number: int) -> dict[str, Any]:
        c, release = self.master.cluster, self.master.releases.get(number)
        g, zygotes = c.generations[number], self.master.workers.zygotes
        zygote, twin = zygotes.zygotes.get(number), zygotes.twins.get(number)
        return {
            "generation": number,
            "state": "parked" if g.boot is Boot.UP and number == c.previous else g.boot,
            "mode": release.mode if release else None,
            "why": release.why if release else [],
            "zygote": zygote.pid if zygote else None,
            "twin": twin.pid if twin else None,
            "interface": release.interface if release else None,
            "engine": release.engine if release else None,
            "python": release.python if release else None,
            "directory": release.directory if release else None,
        }


def state_of(c: Cluster) -> str:
    """One word: starting, serving, reloading, degraded or stopping."""
    if c.stopping:
        return "stopping"
    if c.rollout is not None and c.rollout.kind is not Kind.TRY:
        return "starting" if c.rollout.kind is Kind.START else "reloading"
    if c.problem or c.unsettled:
        return "degraded"
    return "serving"

"""What people ask over the control socket, from the call to its answer."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from clusterd.config import certificates
from clusterd.config.difference import difference, how, needing
from clusterd.config.environment import EnvironmentFileError, read_environment
from clusterd.config.load import Invalid
from clusterd.core.actions import Finish, Outcome
from clusterd.core.events import Asked, StopAsked
from clusterd.core.model import Kind
from clusterd.master.bus import Bus
from clusterd.master.context import Context
from clusterd.master.ledger import Ledger
from clusterd.master.receipts import Receipt
from clusterd.master.releases import Release, Source, application_environment, policy
from clusterd.master.scaling import Scaling
from clusterd.master.tasks import Tasks
from clusterd.master.telling import Telling, progress
from clusterd.master.upgrading import Upgrading
from clusterd.shell import messages
from clusterd.shell.control import Call, Client, Control, listen

DIRECTORIES = ("STATE_DIRECTORY", "RUNTIME_DIRECTORY", "CREDENTIALS_DIRECTORY")
"""Variables by which systemd tells the service its directories; they stay as long as it runs."""

AT_ONCE = 16
"""Connections that are taken in one round, if there are as many: who comes and goes must not keep others waiting."""


class Requests:
    """Callers wait by the number of their rollout: it goes on whether or not they do."""

    def __init__(
        self,
        context: Context,
        ledger: Ledger,
        source: Source,
        telling: Telling,
        status: Callable[[], dict[str, Any]],
        advance: Callable[[], None],
        bus: Bus,
        tasks: Tasks,
        scaling: Scaling,
        upgrading: Upgrading,
    ) -> None:
        """`status` gives the reply to Status; `advance` lets the core take in what is in the queue, now."""
        self.context = context
        self.ledger = ledger
        self.source = source
        self.telling = telling
        self.status = status
        self.advance = advance
        self.bus = bus
        self.tasks = tasks
        self.scaling = scaling
        self.upgrading = upgrading
        self.callers: dict[int, Call] = {}
        self.stoppers: list[Call] = []
        self.control: Control | None = None
        self._told: dict[int, dict[str, object]] = {}

    # the socket

    def listen(self) -> None:
        """Take the control socket over, or make it."""
        context = self.context
        if "control" not in context.keeping.fds:
            sock = listen(str(context.runtime / "control"))
            context.keeping.keep("control", os.dup(sock.fileno()))
            sock.close()
        sock = socket.socket(fileno=os.dup(context.keeping.fds["control"]))
        self.control = Control(sock, context.poll)

    def on_connection(self) -> None:
        assert self.control is not None
        for _ in range(AT_ONCE):
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
        self.bus.close()
        self.tasks.close()
        self.scaling.close()
        self.upgrading.close()
        for call in self.stoppers:
            call.reply(keeper=self.context.keeping.keeper)
        if self.control is not None:
            self.control.close()

    # calls

    def _answer(self, call: Call) -> None:
        if self.context.events:
            self.advance()  # what has happened by now is part of every answer
        match call.method:
            case "Status":
                call.reply(status=self.status())
            case "Changes":
                self._changes(call)
            case "Reload" | "Try":
                self.reload(
                    call,
                    call.parameters.get("environment"),
                    call.parameters.get("overlay") or {},
                    call.parameters.get("tls"),
                    Kind.RELOAD if call.method == "Reload" else Kind.TRY,
                    call.parameters.get("profile"),
                )
            case "Rollback":
                self._ask(call, Kind.ROLLBACK, None)
            case "Scale":
                self.scaling.ask(call)
            case "Upgrade":
                self.upgrading.ask(call)
            case "Send":
                self.bus.send(call)
            case "Listen":
                self.bus.listen(call)
            case "Run":
                self.tasks.run(call)
            case "Stop":
                call.progress(keeper=self.context.keeping.keeper)
                self.stoppers.append(call)
                self.context.events.append(StopAsked())

    def reload(
        self,
        call: Call | None,
        environment: Mapping[str, str] | None,
        overlay: Mapping[str, str],
        tls: Mapping[str, str] | None = None,
        kind: Kind = Kind.RELOAD,
        profile: str | None = None,
    ) -> None:
        """A new generation of the code and the file as they are now; refused at once when the file cannot do it.

        `environment` is what systemd gives a fresh process of the unit and takes the place of the one before;
        `overlay` goes on top of it. `tls` is what the caller has read of [tls]'s files, which may be closed to us.
        `profile` None: the one that is chosen. `call` is None for a signal: then the journal alone is told.
        """
        try:
            settings = self.source.load(profile)
            handed = dict(tls) if tls and tls.keys() == set(certificates.PARTS) else None
            contents = handed or certificates.read(settings, self.ledger.certified)
        except Invalid as e:
            problems = [asdict(p) for p in e.problems]
            self._refuse(call, kind, "Invalid", "; ".join(str(p) for p in e.problems), problems=problems)
            return
        running = self.ledger.running
        fixed = needing(difference(running, settings, self.context.place)) if running is not None else []
        if fixed:
            command = how(settings.name, fixed, self.context.place)
            text = ", ".join(c.text for c in fixed) + f": not changed by a reload; run '{command}'"
            keys = [{"key": c.key, "applies": c.applies, "text": c.text} for c in fixed]
            self._refuse(call, kind, "RestartNeeded", text, keys=keys)
            return
        given = dict(self.ledger.in_force)
        if environment:
            # directories are of the service, not of the process that asks: that has none of its own
            kept = {name: given[name] for name in DIRECTORIES if name in given}
            given = application_environment(environment) | kept
        given |= application_environment(overlay)
        if self.context.foreground and settings.environment_file:
            try:
                given |= read_environment(settings.environment_file)
            except (OSError, EnvironmentFileError) as e:
                why = e.strerror if isinstance(e, OSError) else e
                reason = f"environment-file: '{settings.environment_file}': {why}, expected a readable file"
                self._refuse(call, kind, "Refused", reason, reason=reason, detail="")
                return
        if kind is Kind.RELOAD and self.ledger.running is None:
            self.ledger.environment = given
        self._ask(call, kind, Release(settings, given, tls=contents if settings.tls.certificate else {}))

    def _ask(self, call: Call | None, kind: Kind, release: Release | None) -> None:
        if self.ledger.cluster.stopping:
            if call is not None:
                call.error("Stopping")
            return
        if self.context.events:
            self.advance()  # numbers below are the next the core gives out
        if release is not None:
            self.ledger.releases[self.ledger.cluster.next_generation] = release
        if call is not None:
            self.callers[self.ledger.cluster.next_rollout] = call
        # No RELOADING=1. While it stands, systemd answers a stop with SIGTERM instead of ExecStop=, does not wait (the
        # master is not its child), and kills whoever drains; and a `systemctl reload` does not run at all.
        settings = release.settings if release is not None else None
        self.context.events.append(Asked(kind, policy(settings, self.context.slots.total)))
        self.advance()

    def _refuse(self, call: Call | None, kind: Kind, error: str, text: str, **parameters: Any) -> None:
        self.context.journal.record(messages.CONFIGURATION_REFUSED, f"refused, nothing changed: {text}")
        if kind is not Kind.TRY:
            self.telling.note = f"{kind} refused: {text}"
            self.telling.status()
        if call is not None:
            call.error(error, **parameters)

    def _changes(self, call: Call) -> None:
        """What a reload of the file as it is now would change. Values of variables are not in it."""
        try:
            settings, running = self.source.load(call.parameters.get("profile")), self.ledger.running
        except Invalid as e:
            call.error("Invalid", problems=[asdict(p) for p in e.problems])
            return
        changes = difference(running, settings, self.context.place) if running is not None else []
        command = how(settings.name, changes, self.context.place)
        call.reply(changes=[{**asdict(c), "text": c.text} for c in changes], how=command)

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
            other = self.ledger.cluster.rollout
            if other is not None and other.number > finish.number:
                call.error("Superseded", number=other.number)
            else:  # a try, by the return of what serves, whose number is the one of its reload
                call.error("Refused", reason=finish.reason, detail="")
        elif finish.outcome is Outcome.REFUSED:
            call.error("Refused", reason=finish.reason, detail=detail)
        elif finish.outcome is Outcome.RETURNED:
            call.error("Returned", reason=finish.reason)
        else:
            call.error("Stopping")

    def progress(self) -> None:
        """Tell whoever waits for the rollout under way how far it is, when that has changed."""
        cluster = self.ledger.cluster
        r = cluster.rollout
        call = self.callers.get(r.number) if r is not None else None
        if r is None or call is None:
            return
        now = progress(cluster)
        if self._told.get(r.number) != now:
            self._told[r.number] = now
            call.progress(progress=now)

"""The bridge seen from the master: a process beside it where the file has a bus, started again when it dies."""

from __future__ import annotations

import contextlib
import math
import random
import signal
import socket
import time
from dataclasses import dataclass
from typing import Any

from clusterd.bus.router import BRIDGE
from clusterd.core.model import Boot, Kind
from clusterd.master.bus import Bus
from clusterd.master.context import Context
from clusterd.master.ledger import Ledger
from clusterd.master.program import failure, start_helper
from clusterd.master.releases import Release
from clusterd.shell import messages, pidfd, poll
from clusterd.worker.frames import encode

LINK, PID = "bridge.bus", "bridge.pidfd"
"""In the keeper's store."""
FIRST, GROWTH, LONGEST = 0.5, 2.0, 30.0
"""Seconds until it is started again: with the next death in a row after a longer time."""
PATIENCE = 10.0
"""Seconds in which a bridge says what it holds, to a new master, or where there was none before."""
LEASE, SAFE = 30.0, 20.0
"""Seconds of a lease since it was renewed, and until it is of no use here since it was asked for: the bridge's."""
FAREWELL = 2.0
"""Seconds it has at the service's end to pass on what was said last."""


@dataclass(frozen=True)
class Lease:
    """Of the application's tasks: they run on one host. Of no use after `until`, monotonic seconds."""

    held: bool
    host: str
    until: float


class Bridging:
    def __init__(self, context: Context, ledger: Ledger, bus: Bus) -> None:
        self.context = context
        self.ledger = ledger
        self.bus = bus
        bus.heard_state = self.on_state
        self.state: dict[str, Any] | None = None
        """What it last said of itself."""
        self.lease: Lease | None = None
        """None: nothing is known of it."""
        self._wants_lease: bool | None = None
        """As the bridge was told."""
        self._since = -math.inf
        """When it was told again, after it had been told to give up what it held: what it found before is void."""
        self._patient = 0.0
        self._was_wanted = False
        self._looked = 0.0
        self._runs: tuple[str, str | None] | None = None
        """The place, and the URL where that is a variable's, of the one that runs; of an adopted one as it says."""
        self._due: float | None = None
        self._delay = FIRST
        self._closed = False
        """It was told to leave."""
        self._ending: float | None = None
        self._pid: int | None = None
        """Of an adopted one: it is the keeper's child, who knows how it ended."""
        self._dead_since: float | None = None
        """Its cause is waited for."""

    @property
    def ending(self) -> bool:
        return self._ending is not None

    def advance(self) -> None:
        """Let there be one where one is wanted, and no other."""
        self._looked = time.monotonic()
        if self._ending is not None:
            return
        wanted = self._wanted()
        if wanted is not None and not self._was_wanted:
            self._patient = self._looked + PATIENCE
        self._was_wanted = wanted is not None
        if PID in self.context.keeping.fds:
            if (wants := self._may_run_tasks()) != self._wants_lease:
                if not wants:
                    self.lease = None
                elif self._wants_lease is False:
                    self.lease, self._since = None, self._looked
                self._wants_lease = wants
                self.bus.tell_bridge({"event": "lease", "wanted": wants})
            if self._runs is not None and self._runs != wanted and not self._closed:
                self._close()  # it ends by itself, and then the next begins
        if PID not in self.context.keeping.fds:
            if wanted is None:
                self._due = self.state = self.lease = None
            elif self._due is None or time.monotonic() >= self._due:
                self._start(wanted)

    def deadline(self) -> float | None:
        if self._ending is not None:
            return self._ending
        times = [self._due] if PID not in self.context.keeping.fds else []
        times += [self._dead_since + pidfd.STATUS_GRACE] if self._dead_since is not None else []
        if self._may_run_tasks() and self._wanted() is not None:
            times.append(self.lease.until if self.lease is not None else self._patient)
        return min((time for time in times if time is not None and time > self._looked), default=None)

    def tick(self) -> None:
        if self._dead_since is not None:
            self.on_gone()
        if self._ending is not None and time.monotonic() >= self._ending:
            pidfd.send(self.context.keeping.fds[PID], signal.SIGKILL)
            self._ending = time.monotonic() + FAREWELL

    def adopt(self) -> None:
        """One that outlived the master goes on: it knows what the other hosts have."""
        fds = self.context.keeping.fds
        if PID not in fds:
            self.context.keeping.drop(LINK)
            return
        self.context.poll.register(fds[PID], poll.READ, ("bridge.pidfd", 0))
        self._pid = pidfd.pid_of(fds[PID])
        if LINK in fds:
            self.bus.join(BRIDGE, fds[LINK], LINK, adopted=True)
        else:
            pidfd.send(fds[PID], signal.SIGKILL)

    def on_gone(self) -> None:
        """It is dead."""
        keeping = self.context.keeping
        fd = keeping.fds.get(PID)
        if fd is None or pidfd.alive(fd):
            return
        self._wants_lease = None
        self.bus.last_words(BRIDGE)
        self.bus.leave(BRIDGE)
        self.context.poll.unregister(fd)
        status = keeping.status_of(fd, self._pid)
        self._dead_since = self._dead_since or time.monotonic()
        if status is None and not self._closed and keeping.may_tell(self._pid, self._dead_since):
            return
        reason = pidfd.describe(status)
        self.context.leaving.add(fd)
        keeping.drop(PID, LINK)
        self._runs = self._ending = self._pid = self._dead_since = None
        closed, self._closed = self._closed, False
        if not closed:
            self.state = None
            self._failed(f"the bridge {reason}: another one is started")

    def on_state(self, state: dict[str, Any]) -> None:
        """{"place", "name", "problem"}: it has joined the others, or cannot. {"held", "host", "until"}: a lease."""
        if state.get("op") == "lease":
            lease = Lease(bool(state.get("held")), str(state.get("host")), float(state.get("until", 0.0)))
            if lease.until - SAFE >= self._since:
                self.lease = lease
            return
        before, self.state = self.state, state
        if self._runs is None:
            self._runs = (str(state.get("place")), self._value(str(state.get("place"))))
        name, problem = state.get("name"), state.get("problem")
        if problem:
            text = f"the bus '{name}' cannot be used: {problem}; workers talk on this machine only, until it is back"
            self.context.journal.record(messages.BUS_AWAY, text)
        else:
            self._delay = FIRST
            if before is not None and before.get("problem"):
                self.context.journal.record(messages.BUS_BACK, f"the bus '{name}' is back")

    def status(self) -> dict[str, Any] | None:
        """docs/architecture.md, "Status"."""
        wanted = self._wanted()
        if wanted is None:
            return None
        state = self.state or {"problem": "it is being started"}
        return {
            "bus": wanted[0] if wanted[0].startswith("$") else state.get("name"),
            "problem": state["problem"] or None,
        }

    def elsewhere(self) -> str | None:
        """Why tasks do not run on this host, but may on another; None: they do here."""
        if self._wanted() is None:
            return None
        if self.lease is None or time.monotonic() >= self.lease.until:
            problem = (self.state or {}).get("problem") or "it has not answered yet"
            return f"the bus does not tell whether another host runs it: {problem}"
        return None if self.lease.held else f"host {self.lease.host} runs it"

    def another(self) -> bool:
        """Whether it is known which other host they run on."""
        return self.lease is not None and not self.lease.held and time.monotonic() < self.lease.until

    def renewed(self, since: float) -> bool:
        """Whether another host has renewed its lease since then: it was found held when one from before was over."""
        lease = self.lease
        return lease is not None and self.another() and lease.until - SAFE >= since + LEASE

    def lost(self) -> str:
        """Why a run must not go on: another host may run it by now. "" while that cannot be."""
        if self._wanted() is None or self.elsewhere() is None:
            return ""
        if self.lease is None and time.monotonic() < self._patient:
            return ""  # another master's bridge, or a new one, has not said yet what it holds
        return "another host may run it by now: this one has lost the lease of the bus"

    def end(self) -> None:
        """The service is over, and no task runs."""
        if PID in self.context.keeping.fds and self._ending is None:
            self.bus.tell_bridge({"event": "lease", "wanted": False})
            self._ending = time.monotonic() + FAREWELL
            self._close()

    def _wanted(self) -> tuple[str, str | None] | None:
        release = self._release()
        if release is None or release.settings is None or release.settings.bus is None:
            return None
        return release.settings.bus, self._value(release.settings.bus)

    def _release(self) -> Release | None:
        """Of what serves, or is to: its workers have the other hosts' values as early as can be."""
        r = self.ledger.cluster.rollout
        starting = self.ledger.releases.get(r.target) if r is not None and r.kind is Kind.START else None
        return self.ledger.serving or starting

    def _may_run_tasks(self) -> bool:
        """Whether to ask for the lease: another host may have it while nothing can be forked here."""
        if any(task.run is not None for task in self.ledger.tasks.tasks.values()):
            return True  # of one that is no longer in the file too: other hosts may have it still
        cluster, serving = self.ledger.cluster, self.ledger.serving
        current = cluster.generations.get(cluster.current) if cluster.current is not None else None
        able = current is not None and current.boot is Boot.UP and not cluster.stopping
        return able and serving is not None and serving.settings is not None and bool(serving.settings.task)

    def _value(self, place: str) -> str | None:
        release = self._release()
        if release is None or not place.startswith("$"):
            return None
        return release.environment.get(place[1:])

    def _start(self, wanted: tuple[str, str | None]) -> None:
        self._due = None
        try:
            link, fd = start_helper("bridge")
        except OSError as e:
            self._failed(f"the bridge cannot be started: {failure(e)}")
            return
        keeping = self.context.keeping
        keeping.keep(LINK, link)
        keeping.keep(PID, fd)
        self._runs = wanted
        self._wants_lease = None
        hello = {
            "event": "bridge",
            "place": wanted[0],
            "url": wanted[1],
            "application": self.context.name,
            "id": f"{self.ledger.tasks.salt:x}",
        }
        self.bus.join(BRIDGE, keeping.fds[LINK], LINK, first=encode(hello))
        self.context.poll.register(fd, poll.READ, ("bridge.pidfd", 0))

    def _close(self) -> None:
        """It passes on what it has heard, and leaves."""
        self._closed = True
        if (link := self.bus.links.get(BRIDGE)) is not None:
            with contextlib.suppress(OSError):
                link.sock.shutdown(socket.SHUT_RDWR)  # the keeper has a copy too: closing would tell nobody
            self.bus.leave(BRIDGE)
        if self._dead_since is not None:
            self.on_gone()  # nobody need be told how it died

    def _failed(self, why: str) -> None:
        self._due = time.monotonic() + self._delay * random.uniform(0.9, 1.1)
        self._delay = min(LONGEST, self._delay * GROWTH)
        self.context.journal.record(messages.BRIDGE_FAILED, why)

"""The usher seen from the master: watch the slots nobody serves, start it when a connection waits there, end it."""

from __future__ import annotations

import contextlib
import signal
import socket
import time

from clusterd.core.model import Mode
from clusterd.master.context import Context
from clusterd.master.ledger import Ledger
from clusterd.master.program import failure, start_helper
from clusterd.shell import messages, pidfd, poll
from clusterd.shell.store import CHUNK
from clusterd.shell.watched import Watched
from clusterd.worker.wire import Wire, WireError

RETRY_AFTER = 5
"""Seconds in Retry-After: about what a boot takes, and not so short that clients hammer."""
FIRST, GROWTH, LONGEST = 0.1, 2.0, 5.0
"""Seconds until a connection that waits may start one again: with the next failure in a row after a longer time. One
that has lived for LONGEST is no failure in a row."""


class Ushering:
    """A slot's listener is readable when a connection waits on it: so an idle usher need not run at all."""

    def __init__(self, context: Context, ledger: Ledger) -> None:
        self.context = context
        self.ledger = ledger
        self.mode = Mode.OFF
        self.slots: tuple[int, ...] = ()
        self.wire: Wire | None = None
        self._watched: list[int] = []
        self._started = 0.0
        self._delay = FIRST
        self._due: float | None = None
        """Nobody is watched before."""

    def order(self, mode: Mode, slots: tuple[int, ...]) -> None:
        """What the core wants now."""
        self.mode, self.slots = mode, slots
        if self.wire is not None:
            self._tell()
        else:
            self._watch()

    def encrypted(self) -> bool:
        """Whether clients speak TLS: to what serves, or else to what is to."""
        cluster, releases = self.ledger.cluster, self.ledger.releases
        release = releases.get(cluster.current or 0) or releases.get(max(releases, default=0))
        return release is not None and release.settings is not None and release.settings.tls.certificate is not None

    def adopt(self) -> None:
        """An usher that outlived the master is told to finish: the next waiting connection starts another."""
        fds = self.context.keeping.fds
        for name in self._dismissed():
            self.context.poll.register(fds[f"{name}.pidfd"], poll.READ, ("usher.pidfd", 0))
        if "usher.channel" in fds and "usher.pidfd" in fds:
            self._watch_it()
            self._dismiss()
        else:
            self._drop("usher")

    def deadline(self) -> float | None:
        return self._due if self.mode is not Mode.OFF else None

    def tick(self) -> None:
        if self._due is not None and time.monotonic() >= self._due:
            self._due = None
            if self.wire is None:
                self._watch()

    def on_waiting(self) -> None:
        """A connection waits where nobody serves."""
        self._unwatch()
        if self.mode is Mode.OFF or self.wire is not None:
            return
        try:
            link, fd = start_helper("usher")
        except OSError as e:
            self._failed(f"the usher cannot be started: {failure(e)}", messages.Priority.ERROR)
            return
        self._started = time.monotonic()
        keeping = self.context.keeping
        keeping.keep("usher.channel", link)
        keeping.keep("usher.pidfd", fd)
        self._watch_it()
        self.context.journal.record(
            messages.USHER_STARTED, f"usher started ({self.mode}): connections wait in a slot nobody serves"
        )
        self._tell()

    def on_channel(self) -> None:
        if self.wire is None:
            return
        try:
            heard = self.wire.exchange()
        except WireError:
            self.context.poll.unregister(self.wire.fileno())
            return
        if any(message.get("event") == "idle" for message, _ in heard):
            self._end()

    def on_gone(self) -> None:
        """One is dead; if it was wanted, the next waiting connection starts another."""
        keeping = self.context.keeping
        for name in self._dismissed():
            if not keeping.alive(f"{name}.pidfd"):
                self._drop(name)
        if self.wire is None or keeping.alive("usher.pidfd"):
            return
        reason = pidfd.describe(pidfd.status(keeping.fds["usher.pidfd"]))
        if time.monotonic() - self._started >= LONGEST:
            self._delay = FIRST
        self._failed(f"the usher {reason}")
        self._detach()
        self._drop("usher")
        self._watch()

    def _failed(self, why: str, priority: messages.Priority | None = None) -> None:
        """What waits does so a little longer: it would start one after the other."""
        self._due = time.monotonic() + self._delay
        again = f"{why}; another one is started in {self._delay:g} s, if connections wait then"
        self._delay = min(LONGEST, self._delay * GROWTH)
        self.context.journal.record(messages.USHER_FAILED, again, priority)

    def stop(self) -> None:
        """The service is over: those too that still pass on to clients what workers have left."""
        self._detach()
        for name in ("usher", *self._dismissed()):
            fd = self.context.keeping.fds.get(f"{name}.pidfd")
            if fd is not None:
                pidfd.send(fd, signal.SIGKILL)
            self._drop(name)
        self._unwatch()
        self.mode = Mode.OFF

    def _end(self) -> None:
        self._dismiss()
        self.context.journal.record(messages.USHER_ENDED, "usher ended: nothing waits any more")
        self._watch()

    def _dismiss(self) -> None:
        """It takes nothing new, and leaves when what it relays is over. Until then a stop must find it; and its end of
        the channel stays open, by which it knows that there is somebody to stop it."""
        if self.wire is None:
            return
        with contextlib.suppress(WireError):
            self.wire.send({"op": "end"})
        if self.wire.wants_write:
            self.wire.sock.shutdown(socket.SHUT_RDWR)  # it has read nothing for long, and may never be told
        self._detach()
        number = 1 + max(self.context.keeping.numbered("usher", "pidfd"), default=0)
        self.context.keeping.rename(
            {"usher.channel": f"usher-{number}.channel", "usher.pidfd": f"usher-{number}.pidfd"}
        )

    def _tell(self) -> None:
        """Mode OFF while it runs is an order with no slots: it finishes what it relays and says that it is idle."""
        assert self.wire is not None
        fds = [fd for _, fd in self._listeners()]
        order = {
            "op": "usher",
            "mode": "refuse" if self.mode is Mode.REFUSE else "relay",
            "slots": list(self.slots),
            "retry-after": RETRY_AFTER,
            # plain text is nothing that a TLS client could read
            "kind": "close" if self.encrypted() else "http",
            "near": self._near(),
        }
        with contextlib.suppress(WireError):
            self.wire.send(order, fds[:CHUNK])
            for i in range(CHUNK, len(fds), CHUNK):
                self.wire.send({"op": "more"}, fds[i : i + CHUNK])

    def _near(self) -> bool:
        """Whether the unit lets the usher connect to loopback addresses only: it is confined as the application is."""
        settings = self.ledger.running
        confined = not self.context.foreground and not self.context.place.user
        return confined and settings is not None and settings.sandbox.network != "full"

    def _watch(self) -> None:
        self._unwatch()
        if self.mode is Mode.OFF or self._due is not None:
            return
        for i, fd in self._listeners():
            self.context.poll.register(fd, poll.READ, ("slot", i))
            self._watched.append(fd)

    def _listeners(self) -> list[tuple[int, int]]:
        """(slot, listener) of what nobody serves. A UNIX socket is everybody's: it is served as long as anybody is."""
        return [
            (i, group.fds[i])
            for group in self.context.slots.groups
            for i in self.slots
            if i < len(group.fds) and (len(group.fds) > 1 or self.mode is Mode.REFUSE)
        ]

    def _unwatch(self) -> None:
        for fd in self._watched:
            self.context.poll.unregister(fd)
        self._watched.clear()

    def _watch_it(self) -> None:
        fds = self.context.keeping.fds
        sock = socket.socket(fileno=fds["usher.channel"])
        sock.setblocking(False)
        self.wire = Watched(sock, self.context.poll)
        self.context.poll.register(sock.fileno(), poll.READ, ("usher.channel", 0))
        self.context.poll.register(fds["usher.pidfd"], poll.READ, ("usher.pidfd", 0))

    def _detach(self) -> None:
        if self.wire is not None:
            self.context.poll.unregister(self.wire.fileno())
            self.wire.detach()
            self.wire = None

    def _dismissed(self) -> list[str]:
        return [f"usher-{number}" for number in self.context.keeping.numbered("usher", "pidfd")]

    def _drop(self, name: str) -> None:
        keeping = self.context.keeping
        fd = keeping.fds.get(f"{name}.pidfd")
        if fd is not None:
            self.context.leaving.add(fd)
            self.context.poll.unregister(fd)
        keeping.drop(f"{name}.channel", f"{name}.pidfd")

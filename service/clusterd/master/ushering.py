"""The usher seen from the master: watch the slots nobody serves, start it when a connection waits there, end it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket

from clusterd.core.model import Mode
from clusterd.master.context import Context
from clusterd.master.ledger import Ledger
from clusterd.master.program import start_helper
from clusterd.shell import messages, pidfd, poll
from clusterd.shell.watched import Watched
from clusterd.worker.wire import Wire, WireError

RETRY_AFTER = 5
"""Seconds in Retry-After: about what a boot takes, and not so short that clients hammer."""


class Ushering:
    """A slot's listener is readable when a connection waits on it: so an idle usher need not run at all."""

    def __init__(self, context: Context, ledger: Ledger) -> None:
        self.context = context
        self.ledger = ledger
        self.mode = Mode.OFF
        self.slots: tuple[int, ...] = ()
        self.wire: Wire | None = None
        self._watched: list[int] = []

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
        if "usher.channel" in fds:
            with contextlib.suppress(WireError):
                Wire(socket.socket(fileno=os.dup(fds["usher.channel"]))).send({"op": "end"})
        self.context.keeping.drop("usher.channel", "usher.pidfd")

    def on_waiting(self) -> None:
        """A connection waits where nobody serves."""
        self._unwatch()
        if self.mode is Mode.OFF or self.wire is not None:
            return
        try:
            link, fd = start_helper("usher")
        except OSError as e:
            self.context.journal.record(
                messages.USHER_FAILED,
                f"the usher cannot be started: {e.strerror} '{e.filename}'",
                messages.Priority.ERROR,
            )
            return
        keeping = self.context.keeping
        keeping.keep("usher.channel", link)
        keeping.keep("usher.pidfd", fd)
        sock = socket.socket(fileno=keeping.fds["usher.channel"])
        sock.setblocking(False)
        self.wire = Watched(sock, self.context.poll)
        self.context.poll.register(sock.fileno(), poll.READ, ("usher.channel", 0))
        self.context.poll.register(fd, poll.READ, ("usher.pidfd", 0))
        self.context.journal.record(
            messages.USHER_STARTED, f"usher started ({self.mode}): connections wait in a slot nobody serves"
        )
        self._tell()

    def on_channel(self) -> None:
        if self.wire is None:
            return
        try:
            self.wire.flush()
            heard = self.wire.receive()
        except WireError:
            self.context.poll.unregister(self.wire.fileno())
            return
        if any(message.get("event") == "idle" for message, _ in heard):
            self._end()

    def on_gone(self) -> None:
        """It is dead; if it was wanted, the next waiting connection starts another."""
        pid = self.context.keeping.fds.get("usher.pidfd")
        if pid is None:
            return
        reason = pidfd.describe(pidfd.status(pid))
        if self.wire is not None:
            self.context.journal.record(messages.USHER_FAILED, f"the usher {reason}")
        self._forget()
        self._watch()

    def stop(self) -> None:
        fd = self.context.keeping.fds.get("usher.pidfd")
        if fd is not None:
            pidfd.send(fd, signal.SIGKILL)
            self._forget()
        self._unwatch()
        self.mode = Mode.OFF

    def _end(self) -> None:
        if self.wire is not None:
            with contextlib.suppress(WireError):
                self.wire.send({"op": "end"})
            self.context.journal.record(messages.USHER_ENDED, "usher ended: nothing waits any more")
        self._forget()
        self._watch()

    def _tell(self) -> None:
        """Mode OFF while it runs is an order with no slots: it finishes what it relays and says that it is idle."""
        assert self.wire is not None
        fds = [fd for _, fd in self._listeners()]
        with contextlib.suppress(WireError):
            self.wire.send(
                {
                    "op": "usher",
                    "mode": "refuse" if self.mode is Mode.REFUSE else "relay",
                    "slots": list(self.slots),
                    "retry-after": RETRY_AFTER,
                    # plain text is nothing that a TLS client could read
                    "kind": "close" if self.encrypted() else "http",
                    "near": self._near(),
                },
                fds[:250],
            )

    def _near(self) -> bool:
        """Whether the unit lets the usher connect to loopback addresses only: it is confined as the application is."""
        settings = self.ledger.running
        confined = not self.context.foreground and not self.context.place.user
        return confined and settings is not None and settings.sandbox.network != "full"

    def _watch(self) -> None:
        self._unwatch()
        if self.mode is Mode.OFF:
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

    def _forget(self) -> None:
        keeping = self.context.keeping
        if "usher.pidfd" in keeping.fds:
            self.context.leaving.add(keeping.fds["usher.pidfd"])
        for name in ("usher.channel", "usher.pidfd"):
            if name in keeping.fds:
                self.context.poll.unregister(keeping.fds[name])
        if self.wire is not None:
            self.wire.detach()
            self.wire = None
        keeping.drop("usher.channel", "usher.pidfd")

"""What the master must not forget: descriptors at the keeper, its state in a memfd.

The order matters everywhere: first keep, then act. A master that dies in between has then kept something nobody uses,
which its successor finds and drops; the other way round it would have done something nobody knows of.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

from clusterd.keeper import start_successor
from clusterd.master.program import program
from clusterd.shell import pidfd
from clusterd.shell.memory import State
from clusterd.shell.poll import Poll
from clusterd.shell.watched import Watched
from clusterd.worker.wire import PROTOCOL, Message, Wire, WireError


class Keeping:
    """The keeper's store as the master sees it: the same names, its own copies of the descriptors."""

    def __init__(self, sock: socket.socket, poll: Poll[Any]) -> None:
        self.poll = poll
        self.wire: Wire = Watched(sock, poll)
        self.fds: dict[str, int] = {}
        self.lost = False
        """The keeper is dead, and there is no other yet."""
        self.starts = 0
        self.keeper = os.getppid()
        """The keeper's pid."""
        self.protocol = PROTOCOL
        """Which the keeper speaks: it may be older than we are."""
        self.reaps = True
        """Whether the keeper is told when somebody dies who is no child of ours: not one that we have started."""
        self.reaped: dict[int, int] = {}
        """Wait statuses of processes that were orphaned and reaped by the keeper, by pid."""
        self._receive_store()
        if "state" not in self.fds:
            state = State.create()
            self.keep("state", state.fd)
            self.state = state
        else:
            self.state = State(self.fds["state"])

    def _receive_store(self) -> None:
        """Blocks until the keeper has handed everything over: it does that before anything else."""
        self.wire.sock.setblocking(True)
        while not self.starts:
            for message, fds in self.wire.receive():
                if message.get("event") == "store":
                    self.fds.update(zip(message["names"], fds, strict=True))
                elif message.get("event") == "stored":
                    self.starts = int(message["start"])
                    self.protocol = int(message.get("protocol", 1))
                    self.reaped.update({int(pid): int(status) for pid, status in message.get("reaped", [])})
                else:
                    self._note_reaped(message)
        self.wire.sock.setblocking(False)

    def keep(self, name: str, fd: int) -> None:
        """Remember `fd`, which stays the caller's to use and ours to close, under `name`."""
        self.fds[name] = fd
        with contextlib.suppress(WireError):  # the keeper's death is noticed in the loop, and the next one gets all
            self.wire.send({"op": "keep", "name": name}, [fd])

    def drop(self, *names: str) -> None:
        """Close and forget."""
        known = [name for name in names if name in self.fds]
        for name in known:
            os.close(self.fds.pop(name))
        if known:
            with contextlib.suppress(WireError):
                self.wire.send({"op": "drop", "names": known})

    def rename(self, names: Mapping[str, str]) -> None:
        """The descriptors known by the keys have the values for names from now on, all at once; what had is closed."""
        self.drop(*names.values())
        for old, new in names.items():
            self.fds[new] = self.fds.pop(old)
        with contextlib.suppress(WireError):
            self.wire.send({"op": "keep", "names": list(names.values())}, [self.fds[new] for new in names.values()])
            self.wire.send({"op": "drop", "names": list(names)})

    def numbered(self, prefix: str, suffix: str) -> dict[int, int]:
        """Descriptors named PREFIX-N.SUFFIX by N."""
        return {
            int(name[len(prefix) + 1 : -len(suffix) - 1]): fd
            for name, fd in self.fds.items()
            if name.startswith(f"{prefix}-") and name.endswith(f".{suffix}")
        }

    def bye(self, status: int) -> None:
        """The service is over: the keeper is to leave with `status` and start no other master."""
        self.wire.sock.setblocking(True)
        with contextlib.suppress(WireError):
            self.wire.send({"op": "bye", "status": status})

    def save(self, state: dict[str, Any]) -> None:
        self.state.write(json.dumps(state, separators=(",", ":")).encode())

    def load(self) -> dict[str, Any] | None:
        """What the last master saved, or None at a first start."""
        data = self.state.read()
        return json.loads(data) if data else None

    def succeed(self, launch: Sequence[str], app: str) -> int:
        """The keeper is dead: start another and give it everything; returns its pid. Raises OSError, WireError."""
        pid, fd, wire = start_successor(
            program("keeper"), launch, self.fds, app=app, foreground=False, start=self.starts
        )
        self.keeper, self.protocol, self.lost, self.reaps = pid, PROTOCOL, False, False
        os.close(fd)
        self.wire.close()
        self.wire = Watched(wire.sock, self.poll)
        return pid

    def ready(self) -> None:
        """The service is up: from here on the keeper never gives up."""
        with contextlib.suppress(WireError):
            self.wire.send({"op": "ready"})

    def receive(self) -> None:
        """Take in what the keeper says. Raises WireError when it is gone."""
        for message, fds in self.wire.exchange():
            for fd in fds:
                os.close(fd)
            self._note_reaped(message)

    def _note_reaped(self, message: Message) -> None:
        if message.get("event") == "reaped":
            self.reaped[int(message["pid"])] = int(message["status"])
            while len(self.reaped) > 1000:  # orphans nobody asks for
                del self.reaped[next(iter(self.reaped))]

    def status_of(self, fd: int, pid: int | None) -> int | None:
        """The wait status of the dead process `fd`, if we have reaped it, or the kernel or the keeper tells it."""
        status = pidfd.status(fd)
        if status is None and pid is not None:
            status = self.reaped.pop(pid, None)
        return status

    def may_tell(self, pid: int | None, dead_since: float) -> bool:
        """Whether the keeper, who reaps what is no child of ours, may yet say the status of `pid`."""
        return pid is not None and self.reaps and not self.lost and time.monotonic() < dead_since + pidfd.STATUS_GRACE

    def alive(self, name: str) -> bool:
        return name in self.fds and pidfd.alive(self.fds[name])

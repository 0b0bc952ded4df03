"""Both ends of a control socket: a master's loop in short, and a caller that does not block for ever."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

from clusterd.shell import control
from clusterd.shell.control import Call, Client, Control
from clusterd.shell.poll import Poll
from clusterd.worker.wire import Closed, Wire
from tests.shell.waiting import PATIENCE


class Server:
    """A master's loop, in short: `step` until something is true."""

    def __init__(self, path: str, uid: int | None = None) -> None:
        self.poll: Poll[Any] = Poll()
        self.control = Control(control.listen(path), self.poll, uid=uid)
        self.path = path
        self.calls: list[Call] = []

    def step(self, now: float = 0.0) -> None:
        for key, events in self.poll.wait(0.02):
            if isinstance(key, Client):
                self.calls += key.handle(events, now)
            else:
                self.control.accept(now)

    def until(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end
            self.step()

    def call(self) -> Call:
        """The next call that comes."""
        self.until(lambda: self.calls)
        return self.calls.pop(0)

    def close(self) -> None:
        self.control.close()
        self.poll.close()


class Caller:
    """One end of a connection that does not block for ever."""

    def __init__(self, server: Server) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(server.path)
        self.sock.setblocking(False)
        self.wire = Wire(self.sock)
        self.server = server
        self.got: list[dict[str, Any]] = []
        self.closed = False

    def send(self, method: str, **rest: Any) -> None:
        self.wire.send({"method": method if "." in method else f"io.clusterd.{method}", **rest})

    def reply(self) -> dict[str, Any]:
        self.server.until(self.receive)
        return self.got.pop(0)

    def hung_up(self) -> bool:
        self.server.until(lambda: self.receive() or self.closed)
        return self.closed

    def receive(self) -> bool:
        """Take what has come into `got`."""
        try:
            self.got += [message for message, _ in self.wire.receive()]
        except Closed:
            self.closed = True
        return bool(self.got)

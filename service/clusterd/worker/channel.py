"""A worker's end of its channel: what the master wants of it, and what it says back."""

from __future__ import annotations

import math
import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .wire import Wire, WireError

ORPHAN_TIMEOUT = 5.0
"""Seconds a worker nobody wants any more gives its clients (docs/architecture.md, end of file)."""

LATE = 0.3
"""Seconds after the end of a drain when a worker is ended by itself, with all that belongs to it; the master kills it
after a second."""

FRESH = 0.5
"""Seconds a connection that has not asked anything yet is kept, even without linger."""


@dataclass(frozen=True)
class Serve:
    """Accept."""


@dataclass(frozen=True)
class Drain:
    """Stop accepting; close idle connections after `linger` seconds, everything after `timeout` seconds."""

    linger: float
    timeout: float


Order = Serve | Drain


LAST = 0.2
"""Seconds before the end of a drain by which idle connections and WebSockets are let go in good order, also where
`linger` is as long as the drain."""


class Draining:
    """When a drain lets go of whom, in monotonic seconds. A later order may hasten it, never prolong it."""

    def __init__(self, order: Drain, now: float) -> None:
        self.began = now
        self.deadline = now + order.timeout
        self.linger_end = min(now + order.linger, self.deadline - LAST)

    def hasten(self, order: Drain, now: float) -> None:
        """A stop during a reload; or a new master that repeats what has long begun."""
        self.deadline = min(self.deadline, now + order.timeout)
        self.linger_end = min(self.linger_end, now + order.linger, self.deadline - LAST)

    def idle_may_close(self, now: float) -> bool:
        return now >= self.linger_end

    def fresh_may_close(self, now: float) -> bool:
        """Also connections that have not asked anything yet: their request is under way."""
        return now >= max(self.linger_end, self.began + FRESH)


class Channel:
    """Every order may come more than once: a new master says again what it finds written."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(None)  # whatever the application has given to socket.setdefaulttimeout()
        self._wire = Wire(sock)
        self._last: dict[str, Any] | None = None
        self._go = False
        self._orders: deque[Order] = deque()
        self.take_slot: Callable[[dict[str, Any], list[int]], None] | None = None
        """Called with an order to serve that has descriptors: the slot of a worker that was forked as a spare."""
        self.deadline = math.inf
        """When the drain is to be over that the master has ordered, monotonic."""
        self.lost = False
        """The master's end is closed, or broke the protocol: nobody wants this worker any more."""

    def take_wire(self) -> socket.socket:
        """Give up the connection, to whom nothing has been said after "go"."""
        return socket.socket(fileno=self._wire.detach())

    def fileno(self) -> int:
        return self._wire.fileno()

    def close(self) -> None:
        self._wire.close()

    def wait_for_go(self) -> bool:
        """Block until the master has the worker's pidfd. False when the master is gone instead."""
        while not self._go and not self.lost:
            self._read()
        return self._go

    def wait_for_end(self) -> None:
        """Block until the drain that the master has ordered should be over, or ORPHAN_TIMEOUT after its own end."""
        poller = select.poll()
        poller.register(self, select.POLLIN)
        while not self.lost and (left := self.deadline + LATE - time.monotonic()) > 0:
            if poller.poll(None if left == math.inf else left * 1000):
                self._read()
        if self.lost:
            time.sleep(ORPHAN_TIMEOUT)

    def set_nonblocking(self) -> None:
        self._wire.sock.setblocking(False)

    def orders(self) -> list[Order]:
        """Read once, and give what has come so far. End of file is an order to drain."""
        if not self.lost and not self._read():
            self._orders.append(Drain(0.0, ORPHAN_TIMEOUT))
        return self.pending()

    def pending(self) -> list[Order]:
        """The orders that came with earlier reads, without reading."""
        found = list(self._orders)
        self._orders.clear()
        return found

    def say(self, event: str, **fields: Any) -> None:
        """Report. A master that is gone is not told: its end of file will be noticed where orders are read."""
        self._last = {"event": event, **fields}
        self._send(self._last)

    def mention(self, event: str, **fields: Any) -> None:
        """Report in passing: it is not what is said again to another master."""
        self._send({"event": event, **fields})

    def awaits(self, what: str) -> None:
        """Name what the start now waits for: a start that takes too long is told with it."""
        self.say("awaits", what=what)

    def flush(self, timeout: float = 1.0) -> None:
        """Wait until the master has what was said, at most `timeout` seconds: the last words of a process."""
        if self.lost or not self._wire.wants_write:
            return
        self._wire.sock.settimeout(timeout)
        try:
            self._wire.flush()
        except (WireError, OSError):
            self.lost = True

    def _send(self, message: dict[str, Any]) -> None:
        if self.lost:
            return
        try:
            self._wire.send(message)
        except WireError:
            pass  # reading finds the same, and is where it is acted on

    def _read(self) -> bool:
        """Whether the master is still there."""
        try:
            received = self._wire.receive()
        except WireError:
            self.lost = True
            return False
        for message, fds in received:
            self._take(message, fds)
        return True

    def _take(self, message: dict[str, Any], fds: list[int]) -> None:
        op = message.get("op")
        if op == "serve" and fds and self.take_slot is not None:
            self.take_slot(message, fds)
        else:
            for fd in fds:
                os.close(fd)
        if op == "go":
            self._go = True
        elif op == "serve":
            self._orders.append(Serve())
        elif op == "drain":
            linger, timeout = (_seconds(message.get(key)) for key in ("linger", "timeout"))
            self._orders.append(Drain(min(linger, timeout), timeout))
            self.deadline = min(self.deadline, time.monotonic() + timeout)
        elif op == "state" and self._last is not None:
            self._send(self._last)


def _seconds(value: object) -> float:
    """A duration from the wire; anything that is none counts as 0."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0:
        return float(value)
    return 0.0

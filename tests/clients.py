"""Clients in threads of the tests, for addresses that no load generator knows: kept connections, and one a request."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from tests.patience import HANG

Address = str | tuple[str, int]
"""A UNIX socket's path, or host and port."""

IDLE = 2.0
"""Seconds after which a client makes a new connection rather than ask on one that it has not used: it may stand still
for longer than a server keeps a connection that nobody uses, and what it sends then crosses the server's goodbye."""

REQUEST = b"GET %s HTTP/1.1\r\nHost: localhost\r\n%s\r\n"


@dataclass
class Asked:
    """What the clients counted; whole when their block has ended."""

    answers: Counter[str] = field(default_factory=Counter)
    """By body."""
    failures: Counter[str] = field(default_factory=Counter)
    longest: float = 0.0

    def assert_nothing_lost(self) -> None:
        assert self.answers and not self.failures, f"{self.failures} besides {sum(self.answers.values())} answers"


@contextlib.contextmanager
def asking(address: Address, path: str = "/", *, kept: int = 4, single: int = 4) -> Iterator[Asked]:
    """`kept` clients on kept connections and `single` ones on a connection for each request, as long as the block runs.

    Each asks again as soon as it is answered, some 100 times a second; the block begins when each was answered once.
    """
    asked, stop = Asked(), threading.Event()
    clients = [_Client(address, path, keep, asked, stop) for keep in [True] * kept + [False] * single]
    for client in clients:
        client.start()
    try:
        for client in clients:
            assert client.flows.wait(HANG), f"no answer at all: {asked.failures}"
        yield asked
    finally:
        stop.set()
        for client in clients:
            client.join()


class _Client(threading.Thread):
    def __init__(self, address: Address, path: str, keep: bool, asked: Asked, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.address = address
        self.request = REQUEST % (path.encode(), b"" if keep else b"Connection: close\r\n")
        self.asked = asked
        self.stop = stop
        self.flows = threading.Event()
        self.sock: socket.socket | None = None
        self.used = 0.0

    def run(self) -> None:
        while not self.stop.wait(0.01):
            start = time.monotonic()
            try:
                body = self._ask()
            except (OSError, ValueError) as e:
                self.asked.failures[repr(e)] += 1
                self._close()
            else:
                self.asked.answers[body] += 1
                self.flows.set()
            self.asked.longest = max(self.asked.longest, time.monotonic() - start)
        self._close()

    def _ask(self) -> str:
        if time.monotonic() > self.used + IDLE:
            self._close()
        if self.sock is None:
            family = socket.AF_UNIX if isinstance(self.address, str) else socket.AF_INET
            family = socket.AF_INET6 if family == socket.AF_INET and ":" in self.address[0] else family
            self.sock = socket.socket(family)
            self.sock.settimeout(HANG)
            self.sock.connect(self.address)
        asked = time.monotonic()  # not when the answer is read: the server may have given it seconds before
        self.sock.sendall(self.request)
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._more(data)
        head, _, body = data.partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
        while len(body) < length:
            body += self._more(body)
        if not lines[0].startswith(b"http/1.1 200"):
            raise ValueError(lines[0].decode())
        if b"connection: close" in lines:
            self._close()
        self.used = asked
        return body.decode()

    def _more(self, data: bytes) -> bytes:
        assert self.sock is not None
        if not (more := self.sock.recv(65536)):
            raise ConnectionResetError(f"closed after {len(data)} bytes of the answer")
        return more

    def _close(self) -> None:
        if self.sock is not None:
            self.sock.close()
            self.sock = None

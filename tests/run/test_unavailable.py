"""Clients while no worker can live."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.patience import HANG
from tests.run.foreground import Foreground, unread

BREAKABLE = """

inner = app


async def app(scope, receive, send):
    if scope["type"] == "lifespan" and os.path.exists("broken"):
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})
        return
    await inner(scope, receive, send)
"""
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


class Breakable(Foreground):
    unavailable = "503"

    def deploy(self, greeting: str, extra: str = "") -> None:
        super().deploy(greeting, BREAKABLE + extra)

    def configure(self) -> Path:
        file = super().configure()
        text = file.read_text().replace("[reload]", '[restart]\nmax-delay = "500ms"\n[reload]')
        file.write_text(f'unavailable = "{self.unavailable}"\n{text}')
        return file

    def break_down(self) -> None:
        """No worker lives, and none will."""
        (self.directory / "broken").touch()
        for pid in self.pids().values():
            os.kill(pid, signal.SIGKILL)
        self.wait_for("it to be told", lambda: self.status()["state"] == "degraded" and self.status()["problem"])

    def ask(self) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.port))
        sock.settimeout(HANG)
        sock.sendall(REQUEST)
        return sock


@pytest.fixture
def run() -> Iterator[Breakable]:
    with Breakable(workers=2) as made:
        yield made


def whole(sock: socket.socket) -> bytes:
    with sock:
        return b"".join(iter(lambda: sock.recv(4096), b""))


def test_503(run: Breakable) -> None:
    """They are told so, with Retry-After; and the first worker that is ready takes over, with nobody's help."""
    run.start()
    run.break_down()
    assert "no database" in run.status()["problem"]
    answer = whole(run.ask())
    assert answer.startswith(b"HTTP/1.1 503 ") and b"\r\nRetry-After: " in answer
    (run.directory / "broken").unlink()
    run.wait_for("it to heal", run.at_rest)
    assert whole(run.ask()).endswith(b"hello")


def test_wait(run: Breakable) -> None:
    """They wait in the queue, and every one of them is answered by who serves at last, or was relayed to it."""
    run.unavailable = "wait"
    run.start()
    run.break_down()
    waiting = [run.ask() for _ in range(20)]
    run.wait_for("all of them to wait", lambda: unread(run.port) >= 20 * len(REQUEST))
    (run.directory / "broken").unlink()
    assert [whole(sock)[-5:] for sock in waiting] == [b"hello"] * 20
    assert "usher started (refuse)" not in run.said()

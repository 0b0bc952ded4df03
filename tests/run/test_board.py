"""What workers say of themselves on the scoreboard, as `clusterd status` shows it."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

from tests.patience import HANG
from tests.run.foreground import Foreground


def figures(run: Foreground) -> dict[str, Any]:
    """The sums over all workers, {} while one has not said anything."""
    workers = run.status()["workers"]
    names = ("requests", "in_flight", "connections")
    if not workers or any(w[name] is None for w in workers for name in names):
        return {}
    return {name: sum(w[name] for w in workers) for name in names}


def ask(run: Foreground, path: str) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", run.port))
    sock.settimeout(HANG)
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return sock


def test_figures_outlive_the_master() -> None:
    """Requests answered, those in flight and connections are shown; another master knows them at once; they go on."""
    with Foreground(workers=2) as run, contextlib.ExitStack() as kept:
        (run.directory / "held").touch()
        run.start()
        held = [kept.enter_context(ask(run, "/held")) for _ in range(3)]
        # Idle ones would end when keep-alive is over.
        at_first = {"requests": 0, "in_flight": 3, "connections": 3}
        run.wait_for("three requests", lambda: figures(run) == at_first)
        pids = run.pids()
        run.kill_master()
        assert figures(run) == at_first
        (run.directory / "held").unlink()
        for sock in held:
            with sock.makefile("rb") as answer:
                # A connection that is kept has no end: up to the body's length.
                assert b"".join(iter(answer.readline, b"\r\n")).startswith(b"HTTP/1.1 200 ")
                assert answer.read(5) == b"hello"
        run.wait_for("their end", lambda: (f := figures(run)) and (f["requests"], f["in_flight"]) == (3, 0))
        assert run.pids() == pids

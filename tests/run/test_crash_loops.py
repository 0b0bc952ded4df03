"""Workers that die again and again: tried again for ever, more and more seldom, and nobody else suffers."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.patience import HANG
from tests.run.foreground import Foreground

DYING = """

inner = app


async def app(scope, receive, send):
    if scope["type"] == "lifespan" and os.path.exists("doomed"):
        asyncio.get_running_loop().call_later(0.05, os._exit, 7)  # READY has been said long before
    await inner(scope, receive, send)
"""

THREAD = """
import threading

threading.Thread(target=threading.Event().wait, daemon=True).start()
"""


class Doomed(Foreground):
    code = DYING

    def deploy(self, greeting: str, extra: str = "") -> None:
        super().deploy(greeting, self.code + extra)

    def configure(self) -> Path:
        file = super().configure()
        file.write_text(
            file.read_text().replace("[reload]", '[restart]\ndelay = "50ms"\nmax-delay = "300ms"\n[reload]')
        )
        return file

    def doom(self) -> None:
        """From now on no worker lives for long."""
        (self.directory / "doomed").touch()
        for pid in self.pids().values():
            os.kill(pid, signal.SIGKILL)


class Spawning(Doomed):
    """Its zygote, without the application and its thread, has no twin."""

    code = THREAD


@pytest.fixture
def run() -> Iterator[Doomed]:
    with Doomed(workers=2) as made:
        made.start()
        yield made


def tries(status: dict[str, Any]) -> int:
    found = re.search(r"\((\d+) times in a row", status.get("summary", ""))
    return int(found[1]) if found else 0


def test_a_death_soon_after_ready_counts(run: Doomed) -> None:
    """Each worker becomes ready and dies: that is a failure too, is told with its reason and number, and is tried again
    without an end; the first that lives is served by, and all is forgiven."""
    assert run.process is not None
    master = run.status()["master"]["pid"]
    run.doom()
    status = run.wait_for("five in a row", lambda: tries(now := run.status()) >= 5 and now)
    assert status["state"] == "degraded" and "exited with status 7" in status["problem"]
    (run.directory / "doomed").unlink()
    run.wait_for("it to be forgiven", lambda: run.at_rest() and not run.status()["problem"])
    with socket.create_connection(("127.0.0.1", run.port)) as sock:
        sock.settimeout(HANG)
        sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert b"".join(iter(lambda: sock.recv(4096), b"")).endswith(b"hello")
    assert run.status()["master"]["pid"] == master and run.process.poll() is None


def test_a_zygote_that_dies_soon_after_it_was_up_counts() -> None:
    """One without a twin, killed whenever it is up: it is tried again more and more seldom, and workers serve on. One
    that lives is forgiven what became of those before it."""
    with Spawning(workers=2) as run:
        run.start()
        workers = run.pids()

        def struck() -> str:
            status = run.status()
            (generation,) = status["generations"]
            if generation["state"] == "up":
                with contextlib.suppress(ProcessLookupError):
                    os.kill(generation["zygote"], signal.SIGKILL)
            return str(status["problem"]) if tries(status) >= 4 else ""

        assert "killed by SIGKILL" in run.wait_for("four in a row", struck)
        run.wait_for("it to be forgiven", lambda: run.at_rest() and not run.status()["problem"])
        assert run.pids() == workers

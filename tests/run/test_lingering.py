"""Old generations whose clients take their time: shown, bounded, and finished where they may be."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.patience import HANG
from tests.run.foreground import Foreground, unread
from tests.worker.environments import environment

COUNTING = """

inner = app


async def app(scope, receive, send):
    if scope["type"] != "http" or scope["path"] != "/upload":
        await inner(scope, receive, send)
        return
    size, more = 0, True
    while more:
        message = await receive()
        assert message["type"] == "http.request", message
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    body = b"%d for %s" % (size, GREETING.encode())
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
"""

PIECE = bytes(1 << 20)


class Patient(Foreground):
    """Drains for as long as it takes, of two generations at most; 'engine' from an environment of its own."""

    engine = ""

    def deploy(self, greeting: str, extra: str = "") -> None:
        super().deploy(greeting, COUNTING + extra)

    def configure(self) -> Path:
        file = super().configure()
        text = file.read_text().replace('drain-timeout = "60s"', 'drain-timeout = "5min"\nmax-generations = 2', 1)
        if self.engine:
            text = re.sub("^python = .*$", f'python = "{environment(self.engine)}"', text, flags=re.M)
            text = f'engine = "{self.engine.partition("-")[0]}"\n{text}'
        file.write_text(text)
        return file

    def ask(self, path: str, headers: str = "", method: str = "GET") -> socket.socket:
        """A request that has reached the worker which serves now."""
        sock = socket.create_connection(("127.0.0.1", self.port))
        sock.settimeout(HANG)
        sock.sendall(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n".encode())
        self.wait_for("the request to be read", lambda: unread(self.port) == 0)
        return sock

    def reload(self) -> None:
        done = self.clusterd("reload")
        assert done.returncode == 0, done.stdout + done.stderr

    def drains(self) -> list[int]:
        """The generations whose workers drain."""
        return sorted(w["generation"] for w in self.status()["workers"] if w["state"] == "draining")


@pytest.fixture
def run() -> Iterator[Patient]:
    with Patient(workers=1) as made:
        yield made


@pytest.mark.proof
def test_generations_that_linger(run: Patient) -> None:
    """Three reloads, a request held in each generation: `clusterd status` shows who drains, only the oldest is cut, and
    that is told; the others are answered by the code they had asked."""
    run.start()
    (run.directory / "held").touch()
    held = [run.ask("/held")]
    run.deploy("second")
    run.reload()
    assert run.drains() == [1]
    shown = run.clusterd("status").stdout
    assert re.search(r"\bdraining\b", shown), shown
    held.append(run.ask("/held"))
    run.deploy("third")
    run.reload()
    assert held[0].recv(100) == b""
    run.wait_for("the first to be gone", lambda: run.drains() == [2])
    assert "has to make room: 2 later generations have workers" in run.said()
    held.append(run.ask("/held"))
    run.reload()
    assert held[1].recv(100) == b""
    run.wait_for("the second to be gone", lambda: run.drains() == [3])
    (run.directory / "held").unlink()
    with held[2].makefile("rb") as answer:
        assert answer.read().endswith(b"\r\n\r\nthird")
    run.wait_for("it to be at rest", run.at_rest)
    for sock in held:
        sock.close()


@pytest.mark.proof
@pytest.mark.parametrize("engine", ["", "uvicorn-0.17.6", "granian-newest"], ids=lambda engine: engine or "uvicorn")
def test_an_upload_of_a_gigabyte(run: Patient, engine: str) -> None:
    """Begun before a reload, it is taken to its end by the worker that has begun it, and answered with its size."""
    run.engine = engine
    run.start()
    pieces = 1 << 10
    sock = run.ask("/upload", f"Content-Length: {pieces << 20}\r\n", "POST")
    for number in range(pieces):
        sock.sendall(PIECE)
        if number == pieces // 2:
            run.deploy("second")
            run.reload()
            assert run.drains() == [1]
    answer = b""
    while more := sock.recv(1000):
        answer += more
    assert answer.endswith(b"\r\n\r\n%d for hello" % (1 << 30)), answer
    sock.close()
    run.wait_for("it to be at rest", run.at_rest)

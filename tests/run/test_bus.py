"""Workers that talk, as their application sees it: `clusterd run` and what it starts."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.patience import HANG
from tests.run.foreground import Foreground

APP = """
import asyncio
import json
import os
import threading

from clusterd import worker
from clusterd.worker import given

heard = []
at_start = []


@worker.on("t")
async def hear(message):
    asyncio.get_running_loop()
    heard.append([message.data, message.sender])


@worker.on("plain")
def plain(message):
    heard.append([message.data, message.sender])


@worker.on("double")
async def double(message):
    if message.data == "slow":
        await asyncio.sleep(60)
    return [message.data * 2, worker.id]


@worker.on("bad")
async def bad(message):
    raise KeyError("nothing")


@worker.on("leave")
async def leave(message):
    os._exit(1)


async def answer(what, *rest):
    if what == "heard":
        return heard
    if what == "start":
        return at_start
    if what == "value":
        return worker.value(*rest)
    if what == "rude":
        os.write(given.bus, b"GET / HTTP/1.0\\0")
        return
    if what == "sync":
        name, *rest = rest
        return await asyncio.to_thread(getattr(worker.sync, name), *rest)
    return await getattr(worker, what)(*rest)


async def serve(reader, writer):
    try:
        found = await answer(*json.loads(await reader.readline()))
    except Exception as e:
        found = [type(e).__name__, str(e)]
    writer.write(json.dumps(found).encode())
    writer.close()


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        at_start.append(worker.value("users"))
        await receive()
        await asyncio.start_unix_server(serve, f"worker-{worker.id}", limit=1 << 25)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})
"""


class Talking(Foreground):
    """Each worker answers on a socket of its own, so that a test can choose whom it asks."""

    def deploy(self, greeting: str, extra: str = "") -> None:
        (self.directory / "hello.py").write_text(APP + extra)

    def ask(self, worker: int, *what: Any) -> Any:
        """What `worker` answers."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(HANG)
            sock.connect(str(self.directory / f"worker-{worker}"))
            sock.sendall(json.dumps(what).encode() + b"\n")
            parts = []
            while part := sock.recv(1 << 16):
                parts.append(part)
        return json.loads(b"".join(parts))

    def ids(self) -> list[int]:
        return sorted(w["worker"] for w in self.status()["workers"] if w["state"] == "serving")

    def hears(self, worker: int, *expected: Any) -> None:
        """`worker` has heard exactly that, in this order."""
        try:
            self.wait_for("it to be heard", lambda: len(self.ask(worker, "heard")) >= len(expected), 20)
        finally:
            assert self.ask(worker, "heard") == list(expected)

    def reload(self) -> list[int]:
        done = self.clusterd("reload")
        assert done.returncode == 0, done.stderr
        return self.ids()


@pytest.fixture
def run() -> Iterator[Talking]:
    with Talking(workers=3) as made:
        yield made.start()


def test_messages(run: Talking) -> None:
    """Broadcasts reach the others and sends one, plain and async; requests are answered, or told why not."""
    a, b, c = run.ids()
    for n in range(3):
        run.ask(a, "broadcast", "t", n)
    run.ask(a, "send", c, "plain", "ü")
    run.ask(a, "sync", "broadcast", "plain", "sync")
    for worker, said in ((b, ["sync"]), (c, ["ü", "sync"])):
        all_of_it = 3 + len(said)
        run.wait_for("it to be heard", lambda w=worker, n=all_of_it: len(run.ask(w, "heard")) >= n)
        heard = run.ask(worker, "heard")  # an async handler and a plain one run beside each other: in order each
        assert [m for m in heard if isinstance(m[0], int)] == [[n, a] for n in range(3)]
        assert [m for m in heard if isinstance(m[0], str)] == [[s, a] for s in said]
    run.hears(a)
    assert run.ask(a, "request", b, "double", 21) == [42, b]
    assert run.ask(a, "sync", "request", b, "double", "x") == ["xx", b]
    assert run.ask(a, "request", b, "bad", 1) == ["HandlerFailed", "KeyError: 'nothing'"]
    assert run.ask(a, "request", 99, "double", 1) == ["WorkerGone", "there is no worker 99 with messages"]
    assert run.ask(a, "request", b, "nothing", 1) == ["NoHandler", f"worker {b} has no handler for 'nothing'"]
    assert run.ask(a, "request", b, "leave", 1) == ["WorkerGone", f"worker {b} left before it answered"]
    large = "x" * (8 << 20)
    assert run.ask(a, "request", c, "double", large[: 4 << 20]) == [large, c]
    assert "the handler of 'bad' raised" in run.said()


def test_values_through_everything(run: Talking) -> None:
    """A worker has the retained values when it starts: after a reload, a crash, and with another master."""
    first = run.ids()
    assert [run.ask(w, "start") for w in first] == [[None]] * 3
    run.ask(first[0], "publish", "users", {"n": 1})
    for worker in first:
        run.wait_for("the value", lambda w=worker: run.ask(w, "value", "users") == {"n": 1})
    second = run.reload()
    assert not set(first) & set(second)
    assert [run.ask(w, "start") for w in second] == [[{"n": 1}]] * 3
    run.kill_master()
    run.ask(second[0], "publish", "more", "é" * 10)
    os.kill(run.pids()[0], signal.SIGKILL)
    run.wait_for("another worker", lambda: run.at_rest() and set(run.ids()) - set(second))
    (born,) = set(run.ids()) - set(second)
    assert run.ask(born, "start") == [{"n": 1}]
    assert run.ask(born, "value", "more") == "é" * 10
    assert run.ask(born, "publish", "k" * 129, 1)[0] == "MessageValueError"


def test_another_master(run: Talking) -> None:
    """Workers go on talking when the master is replaced, requests that were under way too."""
    a, b, _ = run.ids()
    run.kill_master()
    run.wait_for("the bus", lambda: run.ask(a, "request", b, "double", 1) == [2, b])
    run.ask(a, "broadcast", "t", "after")
    run.hears(b, ["after", a])


def test_who_breaks_the_protocol_loses_the_bus_alone(run: Talking) -> None:
    """A worker that writes what is not the protocol serves on; the others are told that it is gone."""
    a, b, _ = run.ids()
    run.ask(b, "rude")
    run.wait_for("it to be told", lambda: f"worker {b} has lost its messages: not a JSON object" in run.said())
    assert run.ask(a, "request", b, "double", 1)[0] == "WorkerGone"
    assert run.ask(b, "broadcast", "t", 1)[0] == "MessageError"
    assert b in run.ids() and run.at_rest()


def test_an_application_without_messages() -> None:
    """A worker whose application asks for nothing has no thread, and is sent nothing."""
    with Foreground(workers=1) as plain:
        plain.start()
        (pid,) = plain.pids().values()
        assert len(list(Path(f"/proc/{pid}/task").iterdir())) == 1

"""An application whose workers talk, each with a socket of its own on which a test tells it what to say."""

from __future__ import annotations

import json
import socket
from typing import Any

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


@worker.on("long")
async def long(message):
    heard.append([len(message.data), message.sender])


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
    if what == "long":
        return await worker.broadcast("long", "x" * rest[0])
    if what == "rude":
        os.write(given.bus, b"GET / HTTP/1.0\\0")
        return
    if what == "patient":
        return await worker.request(*rest, timeout=100)
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
            self.wait_for("it to be heard", lambda: len(self.ask(worker, "heard")) >= len(expected))
        finally:
            assert self.ask(worker, "heard") == list(expected)

    def reload(self) -> list[int]:
        done = self.clusterd("reload")
        assert done.returncode == 0, done.stderr
        return self.ids()

"""An ASGI application without a framework, to see a cluster at work.

/                    who answered
/pid                 the worker's process
/sleep?seconds=1     an answer that takes its time: it survives a reload
/healthz             what the health check asks
/ws                  a WebSocket that echoes, and is closed with 1012 when its worker is replaced
"""

from __future__ import annotations

import asyncio
import os
from typing import Any
from urllib.parse import parse_qs

from clusterd import worker

GREETING = "hello"


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["type"] == "websocket":
        await echo(receive, send)
    else:
        status, text = await answer(scope)
        await respond(send, status, text)


async def lifespan(receive: Any, send: Any) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def answer(scope: dict[str, Any]) -> tuple[int, str]:
    path = scope["path"]
    if path == "/":
        return 200, f"{GREETING} from worker {worker.id}, slot {worker.slot}, generation {worker.generation}\n"
    if path == "/pid":
        return 200, f"{os.getpid()}\n"
    if path == "/sleep":
        query = parse_qs(scope["query_string"].decode())
        seconds = min(float(query.get("seconds", ["1"])[0]), 60.0)
        await asyncio.sleep(seconds)
        return 200, f"slept {seconds:g} s\n"
    if path == "/healthz":
        return 200, "ok\n"
    return 404, "not found\n"


async def respond(send: Any, status: int, text: str) -> None:
    body = text.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def echo(receive: Any, send: Any) -> None:
    while True:
        message = await receive()
        if message["type"] == "websocket.connect":
            await send({"type": "websocket.accept"})
        elif message["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message.get("text") or ""})
        else:
            return

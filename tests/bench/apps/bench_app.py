"""The application every Python server of the benchmark serves: / answers at once, /cpu computes for some milliseconds.

With BENCH_DIE=SECONDS in the environment every worker exits at a random moment within that time of its start.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

Message = dict[str, Any]
LOOPS = 30_000
DIE = float(os.environ.get("BENCH_DIE", "0"))


def burn() -> int:
    x = 0
    for i in range(LOOPS):
        x += i * i
    return x


def arm() -> None:
    # from the kernel, not from `random`: workers forked from one process must not share a seed
    moment = int.from_bytes(os.urandom(4), "big") / 2**32 * DIE
    asyncio.get_running_loop().call_later(moment, os._exit, 1)


async def app(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                if DIE:
                    arm()
                await send({"type": "lifespan.startup.complete"})
            else:
                await send({"type": "lifespan.shutdown.complete"})
                return
    body = b"hello"
    if scope["path"] == "/cpu":
        body = str(burn()).encode()
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})

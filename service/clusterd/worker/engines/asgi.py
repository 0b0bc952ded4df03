"""ASGI without a server: the lifespan protocol and a request made in the process itself.

The engine's own lifespan is not used, because it logs what went wrong instead of telling it, and takes an exception
during startup for an application that knows no lifespan.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from typing import Any

from ... import worker
from ..refusal import Refusal, describe, one_line, text_of

Message = dict[str, Any]

_SHUTDOWN = 1.0
"""Seconds the application's lifespan shutdown has when the drain has used up its own time."""


class Lifespan:
    """Drives one application's lifespan. `state` is what it shares with its requests."""

    should_exit = False  # what uvicorn's Server.startup asks of a lifespan

    def __init__(self, app: Any, with_state: bool) -> None:
        self._app = app
        self._with_state = with_state
        self.state: dict[str, Any] = {"clusterd": worker}
        self._task: asyncio.Task[None] | None = None
        self._requests: asyncio.Queue[Message] = asyncio.Queue()
        self._answers: asyncio.Queue[Message] = asyncio.Queue()
        self._asked = False
        self._misused = False
        self._supported = False

    async def startup(self) -> None:
        """Raises Refusal. An application that knows no lifespan is fine."""
        if self._task is not None:
            return
        if (messaging := sys.modules.get("clusterd.worker.messaging")) is not None:
            messaging.adopt(asyncio.get_running_loop())
        scope: Message = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}}
        if self._with_state:
            scope["state"] = self.state
        self._task = asyncio.create_task(self._app(scope, self._receive, self._send))
        answer = await self._ask("lifespan.startup")
        if answer is None:
            error = self._error()
            # Raising before it listens is how ASGI says "unsupported", and so is answering as if this were a request.
            if error is not None and self._asked and not self._misused:
                raise Refusal(f"lifespan startup failed: {describe(error)}", text_of(error))
        elif answer["type"] == "lifespan.startup.failed":
            text = str(answer.get("message") or "the application gave no reason")
            # Starlette and its kind put a whole traceback into the message; its last line is the error.
            lines = [line for line in text.strip().splitlines() if line.strip()] or [text]
            raise Refusal(f"lifespan startup failed: {one_line(lines[-1])}", text if len(lines) > 1 else "")
        else:
            self._supported = True

    async def shutdown(self) -> str | None:
        """What went wrong, or None."""
        if not self._supported:
            return None
        answer = await self._ask("lifespan.shutdown")
        if answer is None:
            error = self._error()
            return describe(error) if error is not None else None
        if answer["type"] == "lifespan.shutdown.failed":
            return one_line(str(answer.get("message") or "the application gave no reason"))
        return None

    async def shut_down_by(self, deadline: float) -> None:
        """Shut down by that time, or a second from now if it has passed; what goes wrong is logged."""
        timeout = max(_SHUTDOWN, deadline - time.monotonic())
        try:
            problem = await asyncio.wait_for(self.shutdown(), timeout)
        except asyncio.TimeoutError:
            problem = f"not done after {timeout:.1f} s"
        if problem:
            logging.getLogger("clusterd.worker").error("lifespan shutdown failed: %s", problem)

    async def _ask(self, kind: str) -> Message | None:
        """The application's answer, or None when it ended instead."""
        assert self._task is not None
        await self._requests.put({"type": kind})
        answer = asyncio.ensure_future(self._answers.get())
        await asyncio.wait([answer, self._task], return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        answer.cancel()
        return None if self._answers.empty() else self._answers.get_nowait()

    def _error(self) -> BaseException | None:
        assert self._task is not None
        if not self._task.done() or self._task.cancelled():
            return None
        return self._task.exception()

    async def _receive(self) -> Message:
        self._asked = True
        return await self._requests.get()

    async def _send(self, message: Message) -> None:
        if not str(message.get("type", "")).startswith("lifespan."):
            self._misused = True
            raise RuntimeError(f"unexpected message '{message.get('type')}' in lifespan")
        await self._answers.put(message)


async def get(app: Any, path: str, state: dict[str, Any] | None) -> int:
    """The status of GET `path`, asked without a socket. Whatever the application raises comes out."""
    path, _, query = path.partition("?")
    scope: Message = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "GET",
        "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": query.encode(), "root_path": "",
        "headers": [(b"host", b"localhost"), (b"user-agent", b"clusterd")],
        "client": ("127.0.0.1", 0), "server": ("127.0.0.1", 80),
    }  # fmt: skip
    if state is not None:
        scope["state"] = dict(state)
    status: int | None = None
    complete = asyncio.Event()
    asked = False

    async def receive() -> Message:
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await complete.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            complete.set()

    await app(scope, receive, send)
    if status is None:
        raise RuntimeError("the application returned without a response")
    return status


async def check_health(app: Any, path: str, state: dict[str, Any] | None) -> None:
    """Raises Refusal unless `path` answers 200 to 399."""
    try:
        status = await get(app, path, state)
    except BaseException as e:
        raise Refusal(f"GET {path} failed: {describe(e)}", text_of(e)) from e
    if not 200 <= status <= 399:
        raise Refusal(f"GET {path} answered {status}, [health] path expects 200 to 399")

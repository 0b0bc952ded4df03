"""That the drain of this worker has begun: a flag to look at, and functions to be called once."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[[], Any])
log = logging.getLogger("clusterd")

begun = False
"""Nothing new is accepted; what is in flight is finished, as far as the time allows."""
_functions: list[Callable[[], Any]] = []
_tasks: set[asyncio.Task[Any]] = set()


def on_drain(function: F) -> F:
    """Have the decorated function, plain or async, called once, without arguments, when the drain of its worker begins.

    For streams and long polls, to end them in good order: WebSockets are closed by the server, and requests that end by
    themselves need nothing. An async function runs in the event loop, a plain one in a thread; the drain waits for
    neither. What it raises goes to the log.
    """
    _functions.append(function)
    return function


def begin() -> None:
    """Called by what serves, in its event loop if it has one; a second time changes nothing."""
    global begun
    if begun:
        return
    begun = True
    for function in _functions:
        if inspect.iscoroutinefunction(function):
            _run_async(function)
        else:
            threading.Thread(target=_call, args=(function,), name="clusterd-drain", daemon=True).start()


def _run_async(function: Callable[[], Any]) -> None:
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:  # a WSGI application
        threading.Thread(target=lambda: asyncio.run(_await(function)), name="clusterd-drain", daemon=True).start()
        return
    task = loop.create_task(_await(function))
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


async def _await(function: Callable[[], Any]) -> None:
    try:
        await function()
    except Exception:
        log.exception("what is to be done at the drain (on_drain) raised")


def _call(function: Callable[[], Any]) -> None:
    try:
        function()
    except Exception:
        log.exception("what is to be done at the drain (on_drain) raised")

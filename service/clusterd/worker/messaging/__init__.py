"""Messages between the workers of an application, and the values they retain: docs/messages-and-state.md.

Imported when the application first asks for any of it; a worker whose application does not has no thread for it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from . import calls, sync
from .errors import (
    HandlerFailed,
    MessageError,
    MessageValueError,
    NoHandler,
    RequestTimeout,
    WorkerGone,
)
from .handlers import Handler
from .hub import hub, importing
from .inbox import Message
from .link import Link
from .streams import Messages, Watch

if TYPE_CHECKING:
    import asyncio

__all__ = [
    "HandlerFailed", "Message", "MessageError", "MessageValueError", "Messages", "NoHandler", "RequestTimeout", "Watch",
    "WorkerGone", "broadcast", "messages", "on", "publish", "request", "send", "sync", "value", "watch",
]  # fmt: skip

F = TypeVar("F", bound=Callable[[Message], Any])


async def broadcast(topic: str, data: Any = None, *, include_self: bool = False) -> None:
    """Say `data` to every worker that listens to `topic`, of whatever generation; to this one too with `include_self`.

    At most once: a worker that is born later, or reads too slowly, does not hear it. Raises MessageError when there is
    no channel, MessageValueError for data that JSON has not or that is above 16 MiB.
    """
    _adopt_if_alone()
    await _post(calls.broadcast(topic, data, include_self))


async def send(to: int | None, topic: str, data: Any = None) -> None:
    """Say `data` to the worker whose id is `to`; nobody hears it when that is gone. Raises as `broadcast` does."""
    _adopt_if_alone()
    await _post(calls.send(to, topic, data))


async def request(  # its twin needs `timeout`, and so both have it
    to: int | None,
    topic: str,
    data: Any = None,
    *,
    timeout: float = calls.TIMEOUT,  # noqa: ASYNC109
) -> Any:
    """What the handler of `topic` in worker `to` returns, within `timeout` seconds.

    Raises WorkerGone, NoHandler, HandlerFailed (with the text of what it raised), RequestTimeout, and as `broadcast`.
    """
    import asyncio

    _adopt_if_alone()
    _ = hub.link
    number, future = hub.expect()
    try:
        await _post(calls.request(to, topic, data, number))
        return await asyncio.wait_for(asyncio.wrap_future(future), timeout)
    except asyncio.TimeoutError:
        raise calls.late(to, topic, timeout) from None
    finally:
        hub.forget(number)


async def publish(key: str, value: Any) -> None:
    """Retain `value` under `key`: every worker has it, those that are born later before they are ready.

    When it returns the master has it, and this worker too. Raises MessageValueError beyond a bound (1,024 keys, 16 MiB
    in all), and as `broadcast`.
    """
    import asyncio

    _ = hub.link
    number, future = hub.expect()
    try:
        await _post(hub.publishing(number, calls.publish(key, value, number)))
        await asyncio.wrap_future(future)
    finally:
        hub.published(number)


def value(key: str, default: Any = None) -> Any:
    """The last value published under `key`. It is shared by all callers in this worker: do not change it.

    While the application is imported nothing is known: `default`.
    """
    if importing():
        return default
    _ = hub.link
    return hub.values.get(key, default)


def watch(key: str) -> Watch:
    """`async for value in worker.watch(key)`: the present value, if there is one, and each that follows.

    Who is slow gets the last one, not those between.
    """
    return hub.watch(calls.check(key, "key"))


def messages(topic: str) -> Messages:
    """`async for message in worker.messages(topic)`: what is said under `topic` from this call on."""
    return hub.stream(calls.check(topic))


def on(topic: str) -> Callable[[F], F]:
    """Have the decorated function, plain or async, called with each Message under `topic`.

    What it returns answers a request. Several functions may hear one topic; the first answers. An exception goes to the
    log. Messages come one after another; plain functions run in a thread of their own.
    """
    calls.check(topic)

    def decorate(function: F) -> F:
        asynchronous = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004  # an object with an async __call__
        )
        hub.add(Handler(topic, function, asynchronous))
        return function

    return decorate


def begin() -> None:
    """In a worker, before its application starts: connect, and wait for the retained values."""
    _ = hub.link


def speak_only() -> None:
    """In a run of a task: what workers hear is not for it, unless it asks for it now."""
    hub.deafen()


def adopt(loop: asyncio.AbstractEventLoop) -> None:
    """The application's event loop: async handlers run there."""
    hub.loops.adopt(loop)


def end() -> None:
    """At the worker's end: what it has said goes out."""
    if isinstance(link := hub.opened, Link):
        link.flush(1.0)


async def _post(data: bytes) -> None:
    """Without holding up the loop where the master does not read."""
    link = hub.link
    if not link.offer(data):
        import asyncio

        await asyncio.get_running_loop().run_in_executor(None, link.post, data)


def _adopt_if_alone() -> None:
    """Outside a cluster nobody tells of a loop: handlers run in that of who sends."""
    if hub.alone:
        import asyncio

        hub.loops.adopt(asyncio.get_running_loop())

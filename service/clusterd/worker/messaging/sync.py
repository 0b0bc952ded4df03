"""The plain twins, for WSGI and threads: `worker.sync.broadcast(...)`. They wait; do not call them in an event loop."""

from __future__ import annotations

from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

from . import calls
from .errors import MessageError
from .hub import hub


def broadcast(topic: str, data: Any = None, *, include_self: bool = False) -> None:
    """See worker.broadcast."""
    hub.link.post(calls.broadcast(topic, data, include_self))


def send(to: int | None, topic: str, data: Any = None) -> None:
    """See worker.send."""
    hub.link.post(calls.send(to, topic, data))


def request(to: int | None, topic: str, data: Any = None, *, timeout: float = calls.TIMEOUT) -> Any:
    """See worker.request."""
    _not_in_a_loop("request")
    link = hub.link
    number, future = hub.expect()
    try:
        link.post(calls.request(to, topic, data, number))
        return future.result(timeout)
    except FutureTimeout:
        raise calls.late(to, topic, timeout) from None
    finally:
        hub.forget(number)


def publish(key: str, value: Any) -> None:
    """See worker.publish."""
    _not_in_a_loop("publish")
    link = hub.link
    number, future = hub.expect()
    try:
        link.post(hub.publishing(number, calls.publish(key, value, number)))
        future.result()
    finally:
        hub.published(number)


def _not_in_a_loop(what: str) -> None:
    import sys

    if (asyncio := sys.modules.get("asyncio")) is None:
        return
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise MessageError(f"worker.sync.{what} would hold up the event loop: use 'await worker.{what}'")

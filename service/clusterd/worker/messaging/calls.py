"""What both twins of a call do alike: check, encode, and read the answer."""

from __future__ import annotations

import os
from typing import Any

from .. import frames, topics
from .errors import MessageValueError, RequestTimeout
from .hub import encoded, hub
from .inbox import Message

TIMEOUT = 10.0
"""Seconds a request is waited for by default."""


def check(name: str, what: str = "topic") -> str:
    if (why := topics.wrong(name, what)) is not None:
        raise MessageValueError(why)
    return name


def broadcast(topic: str, data: Any, include_self: bool) -> bytes:
    message = encoded({"op": "broadcast", "topic": check(topic), "data": data})
    if include_self:
        again = frames.decode(message[:-1]) or {}  # as the others get it: not the sender's own object
        own = os.environ.get("CLUSTERD_WORKER", "")
        hub.hear(Message(topic, again["data"], int(own) if own.isdigit() else None, size=len(message)))
    return message


def send(to: int | None, topic: str, data: Any) -> bytes:
    return encoded({"op": "send", "to": _worker(to), "topic": check(topic), "data": data})


def request(to: int | None, topic: str, data: Any, number: int) -> bytes:
    return encoded({"op": "request", "to": _worker(to), "topic": check(topic), "data": data, "number": number})


def publish(key: str, value: Any, number: int) -> bytes:
    return encoded({"op": "publish", "key": check(key, "key"), "value": value, "number": number})


def late(to: int | None, topic: str, timeout: float) -> RequestTimeout:
    return RequestTimeout(f"worker {to} has not answered '{topic}' within {timeout:g} s")


def _worker(to: int | None) -> int | None:
    right = to is None and hub.alone or type(to) is int and 0 <= to <= topics.MAX_NUMBER
    if not right:
        raise MessageValueError(f"to: expected a worker's id, a number; found {to!r}")
    return to

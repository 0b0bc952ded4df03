"""ASGI or WSGI, found by looking."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from clusterd.worker import kinds
from clusterd.worker.refusal import Refusal


async def asgi(scope: Any, receive: Any, send: Any) -> None: ...


def wsgi(environ: Any, start_response: Any) -> list[bytes]:
    return []


def wsgi_generator(environ: Any, start_response: Any) -> Any:
    yield b""


class AsgiObject:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...

    async def method(self, scope: Any, receive: Any, send: Any) -> None: ...


class WsgiObject:
    def __call__(self, environ: Any, start_response: Any) -> list[bytes]:
        return []


class WsgiClass:
    def __init__(self, environ: Any, start_response: Any) -> None: ...

    def __iter__(self) -> Any: ...


class AsgiClass:
    def __init__(self, scope: Any, receive: Any, send: Any) -> None: ...

    def __await__(self) -> Any: ...


class Asgi2Class:
    def __init__(self, scope: Any) -> None: ...

    async def __call__(self, receive: Any, send: Any) -> None: ...


async def more(extra: Any, scope: Any, receive: Any, send: Any) -> None: ...


@functools.wraps(asgi)
def decorated(*args: Any, **kwargs: Any) -> Any:
    return asgi(*args, **kwargs)


@pytest.mark.parametrize(
    ("app", "interface"),
    [
        (asgi, "asgi"),
        (AsgiObject(), "asgi"),
        (AsgiObject().method, "asgi"),
        (AsgiClass, "asgi"),
        (functools.partial(more, 1), "asgi"),
        (functools.partial(functools.partial(more), 1), "asgi"),
        (decorated, "asgi"),
        (lambda scope, receive, send: asgi(scope, receive, send), "asgi"),
        (wsgi, "wsgi"),
        (wsgi_generator, "wsgi"),
        (WsgiObject(), "wsgi"),
        (WsgiClass, "wsgi"),
        (functools.partial(wsgi), "wsgi"),
    ],
)
def test_found_by_looking(app: Any, interface: str) -> None:
    """Functions, instances, methods, classes, partials and decorated ones are told apart without being called."""
    assert kinds.interface_of(app, "m:a") == interface


@pytest.mark.parametrize(
    ("app", "words"),
    [
        (Asgi2Class, "ASGI 2 application class"),
        (lambda scope: None, "takes one argument, as ASGI 2"),
        (AsgiObject, "is a class, not an application"),
        (lambda: None, "write 'm:a()'"),
        (lambda *args: None, "set engine = "),
        (42, "is an int, not"),
        (None, "is a NoneType, not"),
        (more, "4 arguments"),
    ],
)
def test_refused_with_words(app: Any, words: str) -> None:
    """What is no application is refused with what to write instead."""
    with pytest.raises(Refusal) as caught:
        kinds.interface_of(app, "m:a")
    assert words in caught.value.reason

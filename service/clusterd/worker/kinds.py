"""ASGI or WSGI, found by looking at the object: its signature, and whether calling it makes a coroutine."""

from __future__ import annotations

import functools
import inspect
from typing import Any, Literal

from .refusal import Refusal

Interface = Literal["asgi", "wsgi"]

_WRAP = "wrap it with asgiref.compatibility.guarantee_single_callable"


def article(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[:1] in 'aeiou' else 'a'} {name}"


def interface_of(app: Any, reference: str) -> Interface:
    """Raises Refusal, which says what was found and what to write instead."""
    if inspect.isclass(app):
        return _of_class(app, reference)
    if not callable(app):
        raise Refusal(f"'{reference}' is {article(app)}, not an ASGI or WSGI application")
    foreign = type(app).__module__.partition(".")[0]
    if foreign == "aiohttp":
        raise Refusal(f"'{reference}' is an aiohttp application, which speaks neither ASGI nor WSGI: use `command`")
    target = _target(app)
    asynchronous = inspect.iscoroutinefunction(target) or inspect.isasyncgenfunction(target)
    least, most = _arguments(app)
    if asynchronous:
        if _takes(3, least, most):
            return "asgi"
        if least == 0:
            raise Refusal(
                f"'{reference}' is a coroutine function of 0 arguments: what makes an application is a plain function"
            )
        raise Refusal(f"'{reference}' is a coroutine function of {_count(least)}, ASGI takes (scope, receive, send)")
    if least == 0 and most == float("inf"):
        raise Refusal(
            f"cannot tell whether '{reference}' is ASGI or WSGI, it takes any arguments: "
            "set engine = 'uvicorn' or 'waitress'"
        )
    if _takes(2, least, most):
        return "wsgi"
    if _takes(3, least, most):
        return "asgi"  # a plain function that returns the coroutine of an ASGI application
    if _takes(1, least, most) and least == 1:
        raise Refusal(f"'{reference}' takes one argument, as ASGI 2 applications did: {_WRAP}")
    if least == 0:
        raise Refusal(f"'{reference}' takes no arguments: if it makes the application, write '{reference}()'")
    raise Refusal(
        f"'{reference}' takes {_count(least)}; ASGI takes (scope, receive, send), WSGI takes (environ, start_response)"
    )


def _of_class(app: Any, reference: str) -> Interface:
    least, most = _arguments(app)
    if hasattr(app, "__await__") and _takes(3, least, most):
        return "asgi"
    if least == 2 and hasattr(app, "__iter__"):
        return "wsgi"  # PEP 3333's own example: the instance is the iterable
    call = inspect.getattr_static(app, "__call__", None)
    if least == 1 and call is not None and inspect.iscoroutinefunction(call):
        raise Refusal(f"'{reference}' is an ASGI 2 application class: {_WRAP}")
    raise Refusal(f"'{reference}' is a class, not an application: name an instance of it, or '{reference}()'")


def _target(app: Any) -> Any:
    """What runs when `app` is called: behind partial(), and behind an instance's __call__."""
    while isinstance(app, functools.partial):
        app = app.func
    if inspect.isfunction(app) or inspect.ismethod(app):
        return app
    return app.__call__


def _arguments(app: Any) -> tuple[int, float]:
    """The least and most positional arguments `app` takes; (0, inf) when nobody can tell."""
    try:
        parameters = inspect.signature(app).parameters.values()
    except (ValueError, TypeError):
        return 0, float("inf")
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    most = float("inf") if any(p.kind is p.VAR_POSITIONAL for p in parameters) else len(positional)
    return sum(p.default is p.empty for p in positional), most


def _takes(count: int, least: int, most: float) -> bool:
    return least <= count <= most


def _count(least: int) -> str:
    return "1 argument" if least == 1 else f"{least} arguments"

"""A Python file, read but not run: which applications it makes at its top level."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

MAX_SOURCE = 1 << 20

Interface = Literal["asgi", "wsgi", "unknown"]

FRAMEWORKS: dict[str, tuple[str, Interface]] = {
    "fastapi.FastAPI": ("FastAPI", "asgi"),
    "starlette.applications.Starlette": ("Starlette", "asgi"),
    "litestar.Litestar": ("Litestar", "asgi"),
    "quart.Quart": ("Quart", "asgi"),
    "sanic.Sanic": ("Sanic", "asgi"),
    "blacksheep.Application": ("BlackSheep", "asgi"),
    "falcon.asgi.App": ("Falcon", "asgi"),
    "channels.routing.ProtocolTypeRouter": ("Django with Channels", "asgi"),
    "django.core.asgi.get_asgi_application": ("Django", "asgi"),
    "django.core.wsgi.get_wsgi_application": ("Django", "wsgi"),
    "flask.Flask": ("Flask", "wsgi"),
    "bottle.Bottle": ("Bottle", "wsgi"),
    "bottle.default_app": ("Bottle", "wsgi"),
    "falcon.App": ("Falcon", "wsgi"),
    "pyramid.config.Configurator.make_wsgi_app": ("Pyramid", "wsgi"),
    "connexion.FlaskApp": ("Connexion", "asgi"),
    "connexion.AsyncApp": ("Connexion", "asgi"),
    "dash.Dash": ("Dash", "wsgi"),
}
"""What an application is made by -> whose it is, and what it speaks."""

FACTORIES = ("create_app", "make_app", "get_app", "build_app", "create_application", "make_application")
HEALTH = re.compile(r"/?(healthz?|health-?check|livez|readyz|_health|ping|up)/?")


@dataclass(frozen=True)
class Made:
    """`attribute` as after the colon of `app`, with "()" for a factory."""

    attribute: str
    framework: str
    interface: Interface


@dataclass(frozen=True)
class Source:
    made: tuple[Made, ...]
    health: str | None


def read(path: Path) -> Source | None:
    """None for what is no Python, or too large, or cannot be read."""
    try:
        if not path.is_file() or path.stat().st_size > MAX_SOURCE:
            return None
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return Source(tuple(_made(tree)), _health(tree))


def _made(tree: ast.Module) -> Iterator[Made]:
    names = _imports(tree)
    for node in _top(tree):
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            known = _call(node.value, names)
            if known and known[0] == "Dash":  # the object is Dash's own; what serves is the Flask application in it
                yield from (Made(f"{t.id}.server", "Dash", "wsgi") for t in targets if isinstance(t, ast.Name))
            elif known:
                yield from (Made(target.id, *known) for target in targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _function(node, names)


def _function(node: ast.FunctionDef | ast.AsyncFunctionDef, names: dict[str, str]) -> Iterator[Made]:
    arguments = [argument.arg for argument in node.args.posonlyargs + node.args.args]
    if isinstance(node, ast.AsyncFunctionDef):
        if arguments == ["scope", "receive", "send"]:
            yield Made(node.name, "plain ASGI", "asgi")
    elif arguments[:2] in (["environ", "start_response"], ["env", "start_response"]):
        yield Made(node.name, "plain WSGI", "wsgi")
    elif node.name in FACTORIES and len(arguments) == len(node.args.defaults):
        made = [known for each in ast.walk(node) if (known := _call(each, names))]
        yield Made(f"{node.name}()", *(made[0] if made else ("a factory", "unknown")))


def _top(tree: ast.Module) -> Iterator[ast.stmt]:
    """The statements that an import runs, inside if, try and with too; not `if __name__ == "__main__"`."""
    waiting: list[ast.stmt] = list(tree.body)
    while waiting:
        node = waiting.pop(0)
        if isinstance(node, ast.If) and "__name__" in ast.dump(node.test):
            continue
        if isinstance(node, ast.If | ast.Try | ast.With):
            waiting = [*node.body, *getattr(node, "orelse", []), *waiting]
        yield node


def _imports(tree: ast.Module) -> dict[str, str]:
    """Local name -> what it stands for."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {a.asname or a.name.partition(".")[0]: a.name if a.asname else a.name.partition(".")[0]
                      for a in node.names}  # fmt: skip
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return found


def _call(node: ast.AST | None, names: dict[str, str]) -> tuple[str, Interface] | None:
    if not isinstance(node, ast.Call):
        return None
    parts: list[str] = []
    at: ast.expr = node.func
    while isinstance(at, ast.Attribute):
        parts.insert(0, at.attr)
        at = at.value
    if not isinstance(at, ast.Name) or at.id not in names:
        return None
    called = ".".join([names[at.id], *parts])
    # `from flask import Flask` and `import flask; flask.Flask` are one; re-exports differ in the middle only
    short = (called.partition(".")[0], called.rpartition(".")[2])
    same = [known for name, known in FRAMEWORKS.items() if (name.partition(".")[0], name.rpartition(".")[2]) == short]
    return FRAMEWORKS.get(called) or (same[0] if same else None)


def _health(tree: ast.Module) -> str | None:
    """The path of a route that is there to be asked whether all is well: given to a call, or compared with."""
    for node in ast.walk(tree):
        given = (
            node.args[:1] if isinstance(node, ast.Call) else node.comparators if isinstance(node, ast.Compare) else []
        )
        for each in given:
            value = each.value if isinstance(each, ast.Constant) else None
            if isinstance(value, str) and HEALTH.fullmatch(value) and (isinstance(node, ast.Call) or value[0] == "/"):
                return "/" + value.lstrip("/")
    return None


def strings(path: Path) -> dict[str, str]:
    """NAME = "literal" at the top of a file, and os.environ.setdefault("NAME", "literal") anywhere in it."""
    found: dict[str, str] = {}
    try:
        tree = ast.parse(path.read_bytes()) if path.stat().st_size <= MAX_SOURCE else ast.Module([], [])
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return found
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            found |= {target.id: node.value.value for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "setdefault":
            values = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            if len(values) == 2:
                found[values[0]] = values[1]
    return found

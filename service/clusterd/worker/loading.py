"""From "module:attribute" or "module:factory(...)" to the application's object; every failure in one line."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from types import ModuleType
from typing import Any

from . import kinds, reference
from .reference import Reference
from .refusal import Refusal, describe, frames, place, relative, text_of

_USUAL = ("app", "application", "asgi", "wsgi", "api", "server")
"""What applications are called, for those who have written something quite different."""


def parse(text: str) -> Reference:
    try:
        return reference.parse(text)
    except ValueError as e:
        raise Refusal(f"app = '{text}': expected 'module:attribute' or 'module:factory()': {e}") from e


def load(wanted: Reference, directory: str) -> Any:
    """Import and find the object. Raises Refusal."""
    module = _import(wanted, directory)
    found: Any = module
    walked = wanted.module
    for part in wanted.attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as e:
            raise Refusal(f"'{walked}' has no attribute '{part}'{_suggest(found, part)}", "") from e
        walked += ("." if ":" in walked else ":") + part
    if not wanted.factory:
        return found
    if not callable(found):
        raise Refusal(f"'{walked}' is {kinds.article(found)}, not a function: write it without '()'")
    try:
        return found(*wanted.arguments, **wanted.keywords)
    except BaseException as e:
        raise Refusal(f"'{wanted}' failed: {describe(e)}{_at(e, directory)}", text_of(e)) from e


def _import(wanted: Reference, directory: str) -> ModuleType:
    name = wanted.module
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as e:
        if not frames(e.__traceback__) and e.name and (name == e.name or name.startswith(e.name + ".")):
            hint = _nearby(e.name, directory)
            raise Refusal(f"no module '{e.name}' in '{directory}' (app = '{wanted}'){hint}") from e
        raise Refusal(_missing_dependency(e, directory), text_of(e)) from e
    except SyntaxError as e:
        where = f"{relative(e.filename or '?', directory)}:{e.lineno}"
        raise Refusal(f"{type(e).__name__} in {where}: {e.msg}", text_of(e)) from e
    except SystemExit as e:
        raise Refusal(f"importing '{name}' called exit({e.code!r}){_at(e, directory)}", text_of(e)) from e
    except BaseException as e:
        raise Refusal(f"importing '{name}' failed: {describe(e)}{_at(e, directory)}", text_of(e)) from e


def _missing_dependency(error: ModuleNotFoundError, directory: str) -> str:
    at = place(error, directory)
    what = f"'{error.name}'" if error.name else "a module"
    return f"{at or 'the application'} imports {what}, which is not installed for {sys.executable}"


def _at(error: BaseException, directory: str) -> str:
    where = place(error, directory)
    return f" ({where})" if where else ""


def _suggest(holder: object, name: str) -> str:
    names = [n for n in dir(holder) if not n.startswith("_")]
    close = difflib.get_close_matches(name, names, 1)
    if not close:
        close = [n for n in names if n in _USUAL or n.endswith("_app")][:1]
    return f" (did you mean '{close[0]}'?)" if close else ""


def _nearby(name: str, directory: str) -> str:
    try:
        entries = sorted(os.listdir(directory))[:1000]
    except OSError as e:
        return f": {e.strerror}"
    modules = [e[:-3] for e in entries if e.endswith(".py")]
    modules += [e for e in entries if os.path.isfile(os.path.join(directory, e, "__init__.py"))]
    top = name.partition(".")[0]
    for below in entries:
        inside = os.path.join(directory, below, top)
        if os.path.isfile(f"{inside}.py") or os.path.isdir(inside):
            return f" (it is in '{below}': set PYTHONPATH = \"{below}\" in [env])"
    close = difflib.get_close_matches(name, modules, 1)
    return f" (did you mean '{close[0]}'?)" if close else ""

"""Adapters to well-kept servers, one module each. The engine comes from the application's interpreter."""

from __future__ import annotations

import importlib
import os
import socket
import sys
from importlib import metadata
from typing import TYPE_CHECKING, Any, Protocol

from .. import abilities, kinds
from ..refusal import Refusal

if TYPE_CHECKING:
    from ..boot import Boot
    from ..channel import Channel

INTERFACES: dict[str, kinds.Interface] = {"uvicorn": "asgi", "waitress": "wsgi"}
"""Engine -> what it serves; also the engine "auto" stands for, by interface."""

_INSTALL = {
    "uvicorn": ("uvicorn[standard]", "python3-uvicorn"),
    "waitress": ("waitress", "python3-waitress"),
    **{name: (name, f"python3-{name}") for name in ("h11", "httptools", "uvloop", "websockets", "wsproto")},
}


class Engine(Protocol):
    """Loaded in the zygote, run in each worker."""

    name: str
    """'uvicorn 0.32.0'"""

    def run(self, listeners: list[socket.socket], channel: Channel) -> int:
        """Start, say "ready", serve and drain when told to, say "drained"; the exit status. Raises Refusal."""


def interface(app: Any, reference: str, engine: str) -> kinds.Interface:
    """What `app` is; `engine` decides where looking does not tell. Raises Refusal."""
    if engine == "auto":
        return kinds.interface_of(app, reference)
    wanted = INTERFACES.get(engine)
    if wanted is None:
        raise Refusal(f"engine = '{engine}': expected 'auto', {', '.join(map(repr, INTERFACES))}")
    try:
        found = kinds.interface_of(app, reference)
    except Refusal:
        if callable(app):
            return wanted
        raise
    if found != wanted:
        better = next(name for name, serves in INTERFACES.items() if serves == found)
        raise Refusal(
            f"'{reference}' is {found.upper()}, engine = '{engine}' serves {wanted.upper()}: set engine = '{better}'"
        )
    return wanted


def prepare(app: Any, serves: kinds.Interface, boot: Boot) -> Engine:
    """Import the engine and give it the application. Raises Refusal."""
    name = boot.engine if boot.engine in INTERFACES else next(n for n, served in INTERFACES.items() if served == serves)
    _refuse_unable(name, boot)
    if name == "uvicorn":
        from . import uvicorn

        return uvicorn.prepare(app, boot)
    from . import waitress

    return waitress.prepare(app, boot)


def _refuse_unable(name: str, boot: Boot) -> None:
    """What the file asks of the engine and this version of it cannot do. Raises Refusal."""
    asked = boot.asked()
    if not asked:
        return
    text, version = installed_version(name)
    wrong = abilities.objections(name, asked, version)
    if wrong:
        first = wrong[0]
        others = f" (nor {', '.join(each.key for each in wrong[1:])})" if wrong[1:] else ""
        raise Refusal(f"{first.key}: {name} {text} cannot do it{others}: {first.why}; instead: {first.instead}")


def installed_version(package: str) -> tuple[str, tuple[int, ...]]:
    """Its version as text and as numbers. Raises Refusal, with the line that installs it for this interpreter."""
    try:
        text = metadata.version(package)
    except metadata.PackageNotFoundError as e:
        raise Refusal(f"{package} is not installed for {sys.executable}: {install_line(package)}") from e
    numbers = []
    for part in text.split(".")[:3]:
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        numbers.append(int(digits) if digits else 0)
    return text, tuple(numbers)


def require(package: str, least: tuple[int, ...]) -> str:
    """The version of `package`, if it is at least `least`. Raises Refusal."""
    text, numbers = installed_version(package)
    if numbers < least:
        wanted = ".".join(map(str, least))
        line = install_line(package, upgrade=True)
        raise Refusal(f"{package} {text} of {sys.executable} is too old, {wanted} or newer is needed: {line}")
    return text


def require_module(name: str) -> None:
    """Import what a key of the file names. Raises Refusal."""
    try:
        importlib.import_module(name)
    except ImportError as e:
        raise Refusal(f"{name} is not installed for {sys.executable}: {install_line(name)}") from e


def install_line(package: str, upgrade: bool = False) -> str:
    """The command for this very interpreter: Debian's packages serve only /usr/bin/python3."""
    name, debian = _INSTALL[package]
    debians = sys.prefix == sys.base_prefix and os.path.realpath(sys.executable).startswith("/usr/bin/python3")
    if debians and not upgrade:
        return f"apt install {debian}"
    quoted = f"'{name}'" if "[" in name else name
    return f"{sys.executable} -m pip install {'-U ' if upgrade else ''}{quoted}"

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

INTERFACES: dict[str, kinds.Interface | None] = {"uvicorn": "asgi", "waitress": "wsgi", "granian": None}
"""Engine -> the only interface it serves, or None."""

_INSTALL: dict[str, tuple[str, str | None]] = {
    "uvicorn": ("uvicorn[standard]", "python3-uvicorn"),
    "waitress": ("waitress", "python3-waitress"),
    "redis": ("redis", "python3-redis"),
    "granian": ("granian>=2.8,<2.9", None),  # what granian.py knows
    **{name: (name, f"python3-{name}") for name in ("h11", "httptools", "uvloop", "websockets", "wsproto")},
}
"""Package -> its name for pip, with what makes it fast, and Debian's package of it."""


class Engine(Protocol):
    """Loaded in the zygote, run in each worker."""

    name: str
    """'uvicorn 0.32.0'"""

    def run(self, listeners: list[socket.socket], channel: Channel) -> int:
        """Start, say "ready", serve and drain when told to, say "drained"; the exit status. Raises Refusal."""


def interface(app: Any, reference: str, engine: str) -> kinds.Interface:
    """What `app` is; `engine` decides where looking does not tell. Raises Refusal."""
    if engine != "auto" and engine not in INTERFACES:
        raise Refusal(f"engine = '{engine}': expected 'auto', {', '.join(map(repr, INTERFACES))}")
    wanted = INTERFACES.get(engine)
    try:
        found = kinds.interface_of(app, reference)
    except Refusal:
        if wanted is not None and callable(app):
            return wanted
        raise
    if wanted is not None and found != wanted:
        better = next(name for name, serves in INTERFACES.items() if serves == found)
        raise Refusal(
            f"'{reference}' is {found.upper()}, engine = '{engine}' serves {wanted.upper()}: set engine = '{better}'"
        )
    return found


def choose(serves: kinds.Interface, engine: str) -> str:
    """What "auto" stands for: for WSGI the fastest there is, for ASGI the one everybody knows."""
    if engine != "auto":
        return engine
    if serves == "asgi":
        return "uvicorn"
    return "granian" if _is_installed("granian") else "waitress"


def prepare(app: Any, serves: kinds.Interface, boot: Boot) -> Engine:
    """Import the engine and give it the application. Raises Refusal."""
    name = choose(serves, boot.engine)
    _refuse_unable(name, boot)
    if boot.tls is not None:
        from .. import tls

        tls.check(boot.tls)
        if text := tls.warning(boot.tls):
            print(f"<4>tls.certificate: {text}", file=sys.stderr, flush=True)
    if name == "granian":
        from . import granian

        return granian.prepare(app, serves, boot)
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


def _is_installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


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


def require(package: str, least: tuple[int, ...], before: tuple[int, ...] | None = None) -> str:
    """The version of `package`, if it is at least `least` and less than `before`. Raises Refusal."""
    text, numbers = installed_version(package)
    if numbers < least:
        wanted = _dotted(least)
        line = install_line(package, upgrade=True)
        raise Refusal(f"{package} {text} of {sys.executable} is too old, {wanted} or newer is needed: {line}")
    if before is not None and numbers >= before:
        raise Refusal(
            f"{package} {text} of {sys.executable} is newer than this version of clusterd knows, "
            f"before {_dotted(before)} is needed: {install_line(package)}"
        )
    return text


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


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
    if debians and debian is None:
        # Debian's interpreter takes nothing from pip, and there is no package of it
        return f"Debian has no package of it, make a virtual environment, install '{name}' there and set python"
    if debians and not upgrade:
        return f"apt install {debian}"
    quoted = name if name.isalnum() else f"'{name}'"
    return f"{sys.executable} -m pip install {'-U ' if upgrade else ''}{quoted}"

"""The layers that docs/architecture.md names, read off the imports."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SERVICE = Path(__file__).resolve().parent.parent / "service"
PACKAGE = SERVICE / "clusterd"

LAYERS: dict[str, frozenset[str]] = {
    "core": frozenset(),
    "balance": frozenset(),
    "bus": frozenset({"worker.frames", "worker.topics"}),
    "tasks": frozenset(),
    "worker": frozenset(),
    "config": frozenset({"worker.abilities", "worker.reference", "worker.topics"}),
    "shell": frozenset({"worker.wire", "worker.native", "balance"}),
    "generator": frozenset({"config"}),
    "keeper": frozenset({"worker.wire", "shell"}),
    "usher": frozenset({"worker.wire", "shell", "relay"}),
    "relay": frozenset(),
    "bridge": frozenset({"bus", "worker.wire", "worker.frames", "worker.topics", "worker.caching"}),
    "drain": frozenset({"worker.wire", "shell", "config"}),
    "master": frozenset(
        {
            *("core", "balance", "bus", "tasks", "config", "shell", "keeper", "usher"),
            *("worker.wire", "worker.frames", "worker.topics", "worker.board"),
        }
    ),
    "discovery": frozenset({"config"}),
    "cli": frozenset(
        {"discovery", "config", "shell", "worker.wire", "worker.frames", "worker.topics", "worker.tls", "master"}
    ),
    "__main__": frozenset({"cli", "master", "keeper", "usher", "bridge", "drain"}),
    "__init__": frozenset(),
}
"""What of clusterd each layer may import besides itself."""

PURE = {
    "core": "dataclasses enum typing collections __future__ functools itertools json math operator",
    "tasks": "dataclasses enum typing collections __future__ math",
    "bus": "dataclasses typing collections __future__ json struct zlib",
}
"""Of the standard library, for the layers that take no time, file or log from anywhere."""

OUTSIDE = {"cli": frozenset({"click", "rich"}), "shell": frozenset({"systemd", "sdnotify"})}
"""Debian's packages, each with the one layer that may import it."""


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def layer(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """(dotted name, line) of everything the module imports, wherever in it, those of its own package made absolute."""
    package = ("clusterd", *path.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            name = ".".join(part for part in (base, node.module) if part)
            for alias in node.names:
                yield (f"{name}.{alias.name}" if name.split(".")[0] == "clusterd" else name), node.lineno


def relative(path: Path) -> str:
    return str(path.relative_to(SERVICE))


@pytest.mark.parametrize("path", modules(), ids=relative)
def test_imports_go_one_way(path: Path) -> None:
    """A module imports of clusterd what its layer may, and nothing else: what is decided never sees what acts."""
    own = layer(path)
    allowed = LAYERS[own] | {own}
    wrong = []
    for name, line in imports(path):
        parts = name.split(".")
        if parts[0] != "clusterd" or name in ("clusterd", "clusterd.__version__"):
            continue
        if parts[1] not in allowed and ".".join(parts[1:3]) not in allowed:
            wrong.append(f"line {line}: {name}")
    assert not wrong, f"{relative(path)} is of the layer '{own}', which may import {sorted(allowed)}: {wrong}"


@pytest.mark.parametrize("path", modules(), ids=relative)
def test_packages_from_outside(path: Path) -> None:
    """Only the layers at the edge import what is not in the standard library; an adapter, what it adapts."""
    own = layer(path)
    engine = {path.stem} if path.parent.name in ("engines", "caching") else set()
    allowed = sys.stdlib_module_names | {"clusterd"} | OUTSIDE.get(own, frozenset()) | engine
    wrong = [f"line {line}: {name}" for name, line in imports(path) if name.split(".")[0] not in allowed]
    assert not wrong, f"{relative(path)}: {wrong}"


@pytest.mark.parametrize("path", [path for path in modules() if layer(path) in PURE], ids=relative)
def test_core_is_pure(path: Path) -> None:
    """The state machine can reach no clock, file, log or socket, so that a test can drive every moment of it."""
    allowed = {*PURE[layer(path)].split(), "clusterd"}
    wrong = [f"line {line}: {name}" for name, line in imports(path) if name.split(".")[0] not in allowed]
    assert not wrong, f"{relative(path)}: {wrong}"


def test_every_layer_is_named() -> None:
    """A new part of clusterd is placed in the layers before it is used."""
    assert {layer(path) for path in modules()} <= set(LAYERS)

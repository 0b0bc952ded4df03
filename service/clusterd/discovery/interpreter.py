"""Which interpreter an application has, and what is installed for it: by looking where packages lie."""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from clusterd.discovery.found import Interpreter

SYSTEM = "/usr/bin/python3"


def find(directory: Path, environment: Mapping[str, str], given: str | None = None) -> Interpreter:
    """The one given, else the nearest virtual environment, else Debian's."""
    if given:
        return _described(Path(given), "as given")
    for path, why in _environments(directory, environment):
        python = path / "bin" / "python"
        if (path / "pyvenv.cfg").is_file() and os.path.lexists(python):
            return _described(python, why)
    return _described(Path(SYSTEM), "no virtual environment found")


def _environments(directory: Path, environment: Mapping[str, str]) -> Iterator[tuple[Path, str]]:
    project = next((d for d in (directory, directory.parent) if (d / "pyproject.toml").is_file()), directory)
    for base in dict.fromkeys((directory, project)):
        for name in (".venv", "venv", "env", ".env"):
            yield base / name, f"{base / name}"
    yield from _poetry(project, environment)
    if active := environment.get("VIRTUAL_ENV"):
        yield Path(active), "VIRTUAL_ENV, the active one"
    yield directory.parent / ".venv", f"{directory.parent / '.venv'}"
    yield directory.parent / "venv", f"{directory.parent / 'venv'}"


def _poetry(project: Path, environment: Mapping[str, str]) -> Iterator[tuple[Path, str]]:
    """Those poetry keeps in its cache, named by a hash of the project's path (poetry's EnvManager)."""
    home = environment.get("HOME", "")
    cache = Path(environment.get("POETRY_CACHE_DIR") or f"{home}/.cache/pypoetry") / "virtualenvs"
    if not (project / "pyproject.toml").is_file() or not cache.is_dir():
        return
    digest = hashlib.sha256(os.path.normcase(project).encode()).digest()
    mark = base64.urlsafe_b64encode(digest).decode()[:8]
    for path in sorted(cache.glob(f"*-{mark}-py3*"), reverse=True):
        yield path, f"{path}, poetry's"


def _described(python: Path, why: str) -> Interpreter:
    places = list(_sites(python))
    packages = {
        entry.removesuffix(".py").partition("-")[0].partition(".")[0].lower()
        for place in places
        for entry in _listed(place)
    }
    return Interpreter(str(python), why, _version(python), frozenset(packages))


def _sites(python: Path) -> Iterator[Path]:
    root = python.parent.parent
    yield from root.glob("lib/python3*/site-packages")
    if not (root / "pyvenv.cfg").is_file() or _setting(root, "include-system-site-packages") == "true":
        yield from Path("/usr/lib/python3").glob("dist-packages")
        yield from Path("/usr/local/lib").glob("python3*/dist-packages")


def _version(python: Path) -> str:
    found = _setting(python.parent.parent, "version_info") or _setting(python.parent.parent, "version")
    if not found:
        try:
            found = os.path.basename(os.path.realpath(python)).removeprefix("python")
        except OSError:
            return ""
    match = re.match(r"(3\.\d+)", found)
    return match[1] if match else ""


def _setting(environment: Path, key: str) -> str:
    try:
        lines = (environment / "pyvenv.cfg").read_text(errors="replace")[:10_000].splitlines()
    except OSError:
        return ""
    values = [value.strip() for line in lines for name, _, value in [line.partition("=")] if name.strip() == key]
    return values[0].lower() if values else ""


def _listed(place: Path) -> list[str]:
    try:
        return os.listdir(place)
    except OSError:
        return []

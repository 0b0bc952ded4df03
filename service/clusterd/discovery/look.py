"""From a directory to what could be served there, the surest first."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from clusterd.discovery import source
from clusterd.discovery.found import Candidate, NothingFound

MAX_FILES = 500
MAX_TEXT = 256 << 10
SKIPPED = {"tests", "test", "docs", "venv", "env", "node_modules", "build", "dist", "migrations", "site-packages"}

# in a Procfile or a start script: gunicorn [options] module:attribute
_SERVED = re.compile(r"\b(?:gunicorn|uvicorn|hypercorn|granian|waitress-serve|daphne)\b[^\n;&|]*?"
                     r"\s(?P<app>[A-Za-z_][\w.]*:[A-Za-z_][\w.]*(?:\(\))?)")  # fmt: skip
_FLAGS = ("--preload", "--reload", "--daemon", "-D", "--capture-output", "--reuse-port", "--no-sendfile", "-R")
"""Options of gunicorn after which no value of theirs comes."""
_REFERENCE = re.compile(r"[^\W\d][\w.]*:[^\W\d][\w.]*(\(\))?")
_FLASK_APP = re.compile(r"^FLASK_APP=[\"']?([\w.]+?)(?:\.py)?(?::([\w.()]+))?[\"']?$", re.MULTILINE)
_USUAL = ("app", "application", "asgi", "wsgi", "main")


def candidates(directory: Path) -> list[Candidate]:
    """Everything found, the surest first, each thing once."""
    found: dict[tuple[str, Path], Candidate] = {}
    for each in _all(directory):
        key = each.reference, each.directory
        if key not in found or each.rank < found[key].rank:
            found[key] = each
    return sorted(found.values(), key=lambda c: c.rank)


def choose(
    directory: Path, reference: str | None = None, module: str | None = None
) -> tuple[Candidate, list[Candidate]]:
    """The one to serve, and those it was chosen before; of `module` alone, where it is given.

    Raises NothingFound, for two that are alike too.
    """
    if reference is not None:
        return _named(directory, reference), []
    every = [c for c in candidates(directory) if module is None or c.reference.startswith(f"{module}:")]
    if not every:
        hint = "name it: clusterd init MODULE:OBJECT, or in its directory clusterd init"
        raise NothingFound(f"no application in '{directory}' that it could tell by its files", hint)
    best = [each for each in every if each.rank == every[0].rank]
    if len(best) > 1:
        names = ", ".join(f"{c.reference} ({c.framework}, {c.why})" for c in best[:8])
        raise NothingFound(
            f"{len(best)} applications in '{directory}': {names}", f"say which: clusterd init {best[0].reference}"
        )
    return every[0], every[1:]


def _named(directory: Path, reference: str) -> Candidate:
    if not _REFERENCE.fullmatch(reference):
        raise NothingFound(
            f"'{reference}' is neither MODULE:OBJECT nor a directory", "for example clusterd init hello:app"
        )
    for each in candidates(directory):
        if each.reference == reference:
            return each
    module = reference.partition(":")[0]
    for base in (directory, directory / "src"):
        if file := _file(base, module):
            read = source.read(file)
            return Candidate(reference, base, "an application", "unknown", "as named", 0, read.health if read else None)
    raise NothingFound(
        f"no module '{module}' in '{directory}'", "give its directory with --directory, or go there first"
    )


def _all(directory: Path) -> Iterator[Candidate]:
    scanned = list(_scan(directory))
    by_reference = {each.reference: each for each in scanned}
    for reference, why, rank in _declared(directory):
        known = by_reference.get(reference)
        if known:
            yield replace(known, why=why, rank=rank)
        else:
            yield Candidate(reference, directory, "an application", "unknown", why, rank)
    django = list(_django(directory, by_reference))
    yield from django
    # the files that Django makes for asgi and wsgi are one application, and told above
    yield from (each for each in scanned if not (django and each.framework.startswith("Django")))
    yield from _node(directory)


def _declared(directory: Path) -> Iterator[tuple[str, str, int]]:
    """What files that others go by say: the Procfile, gunicorn's configuration, pyproject.toml, Flask's."""
    for line in text(directory / "Procfile").splitlines():
        if line.startswith("web:") and (app := _served(line)):
            yield app, "Procfile", 0
    if named := source.strings(directory / "gunicorn.conf.py").get("wsgi_app"):
        yield _whole(named), "gunicorn.conf.py", 0
    entry = _table(directory / "pyproject.toml", "tool", "fastapi").get("entrypoint")
    if isinstance(entry, str) and _REFERENCE.fullmatch(entry):
        yield entry, "pyproject.toml, [tool.fastapi]", 0
    for name in (".flaskenv", ".env"):
        match = _FLASK_APP.search(text(directory / name))
        if match and match[2]:
            yield f"{match[1]}:{match[2]}", f"{name}, FLASK_APP", 0


def _served(line: str) -> str:
    """The application of a server's command line, "" where there is none; gunicorn's may leave out the object."""
    if match := _SERVED.search(line):
        return match["app"]
    words = re.split(r"[;&|]", line.partition("gunicorn ")[2])[0].split()
    for before, word in zip(["", *words], words, strict=False):
        takes_it = re.fullmatch(r"--[^=]+|-[a-zA-Z]", before) and before not in _FLAGS
        if not takes_it and re.fullmatch(r"[A-Za-z_][\w.]*", word):
            return _whole(word)
    return ""


def _whole(app: str) -> str:
    return app if ":" in app else f"{app}:application"  # as gunicorn has it


def _django(directory: Path, known: dict[str, Candidate]) -> Iterator[Candidate]:
    settings = source.strings(directory / "manage.py").get("DJANGO_SETTINGS_MODULE")
    if not settings:
        return
    package = settings.partition(".")[0]
    file = _file(directory, settings)
    said = source.strings(file) if file else {}
    order = [("asgi", said.get("ASGI_APPLICATION")), ("wsgi", said.get("WSGI_APPLICATION"))]
    if not said.get("ASGI_APPLICATION"):
        order.reverse()  # asgi.py is in every project; who serves by it says so
    urls = source.read(directory / package / "urls.py")
    for rank, (interface, name) in enumerate(order):
        module = name.rpartition(".")[0] if name else f"{package}.{interface}"
        if _file(directory, module):
            reference = f"{module}:{name.rpartition('.')[2] if name else 'application'}"
            base = known.get(reference) or Candidate(reference, directory, "Django", "unknown", "", 0)
            notes = ("collect its static files and let a proxy, or WhiteNoise, serve them",)
            health = urls.health if urls else None
            why = f"manage.py, {settings}"
            yield replace(base, why=why, rank=1 + rank, health=health, notes=notes, interface=interface)  # type: ignore[arg-type]  # one of the two words


def _scan(directory: Path) -> Iterator[Candidate]:
    """Modules of the directory, of src/, and of the packages in them."""
    budget = MAX_FILES
    for base in (directory, directory / "src"):
        for path in _modules(base):
            if (budget := budget - 1) < 0:
                return
            read = source.read(path)
            if not read or not read.made:
                continue
            names = path.relative_to(base).with_suffix("").parts
            module = ".".join(names[:-1] if names[-1] == "__init__" else names)
            if not all(part.isidentifier() for part in module.split(".")):
                continue
            instances = [made for made in read.made if not made.attribute.endswith("()")]
            for made in instances or read.made:
                usual = made.attribute.removesuffix("()") in (*_USUAL, *source.FACTORIES)
                # a nearer module and a usual name are surer: an example deep in a package is not what is meant
                rank = 10 + 10 * len(names) + (0 if usual else 5) + (0 if instances else 2)
                why = str(path.relative_to(directory))
                yield Candidate(
                    f"{module}:{made.attribute}", base, made.framework, made.interface, why, rank, read.health
                )


def _modules(base: Path) -> Iterator[Path]:
    for entry in _entries(base):
        if entry.suffix == ".py" and entry.name not in ("setup.py", "conftest.py", "manage.py", "gunicorn.conf.py"):
            yield entry
        elif entry.is_dir() and entry.name.isidentifier() and entry.name not in SKIPPED and entry.name != "src":
            inner = _entries(entry)
            yield from (each for each in inner if each.suffix == ".py" and not each.name.startswith("test_"))


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())[:MAX_FILES]
    except OSError:
        return []


def _node(directory: Path) -> Iterator[Candidate]:
    try:
        package = json.loads(text(directory / "package.json") or "null")
    except ValueError:
        return
    if not isinstance(package, dict):
        return
    scripts, main = package.get("scripts"), package.get("main")
    start = scripts.get("start") if isinstance(scripts, dict) else None
    match = re.fullmatch(r"node ([\w./-]+\.[cm]?js)", start) if isinstance(start, str) else None
    names = [match[1] if match else "", main if isinstance(main, str) else "", "server.js", "index.js"]
    file = next((name for name in names if name and (directory / name).is_file()), None)
    if file is None or file.startswith("/") or ".." in file:
        return
    takes = re.search(r"LISTEN_FDS|fd:\s*\w+", text(directory / file))
    advice = "does not seem to take its socket from systemd: let it server.listen({ fd: 3 }) where LISTEN_FDS is set"
    notes = () if takes else (f"{file} {advice}",)
    why = "package.json" + (", scripts.start" if match else "")
    yield Candidate(file, directory, "Node.js", "unknown", why, 15, command=("node", file), notes=notes)


def _file(directory: Path, module: str) -> Path | None:
    path = directory.joinpath(*module.split("."))
    return next((p for p in (path.with_name(path.name + ".py"), path / "__init__.py") if p.is_file()), None)


def _table(path: Path, *keys: str) -> dict[str, Any]:
    try:
        at: Any = tomllib.loads(text(path))
    except (ValueError, RecursionError):  # a plain ValueError is one of a number with thousands of digits
        return {}
    for key in keys:
        at = at.get(key, {}) if isinstance(at, dict) else {}
    return at if isinstance(at, dict) else {}


def project_name(directory: Path) -> str:
    """What pyproject.toml or package.json call it, or ""."""
    name = _table(directory / "pyproject.toml", "project").get("name")
    return name if isinstance(name, str) else ""


def text(path: Path) -> str:
    """ "" for what is no file of at most MAX_TEXT bytes."""
    try:
        return path.read_text(errors="replace") if path.is_file() and path.stat().st_size <= MAX_TEXT else ""
    except OSError:
        return ""

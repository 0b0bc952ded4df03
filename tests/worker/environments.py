"""Interpreters and engines to test with: one environment for each version, kept between runs."""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests import network
from tests.lacking import lacking

ROOT = Path(__file__).parents[2]
CACHE = ROOT / "build" / "venvs"

# Both ends of the supported range of each engine (Debian 12's and the newest) and what Debian 13 has, with and
# without the fast parser and loop; h11 is what uvicorn falls back to, wsproto what it takes without websockets.
ENGINES = {
    "uvicorn-0.17.6": ["uvicorn==0.17.6", "uvloop", "httptools", "websockets<11"],
    "uvicorn-0.17.6-plain": ["uvicorn==0.17.6", "wsproto"],
    "uvicorn-0.32.0": ["uvicorn==0.32.0", "uvloop", "httptools", "websockets<14"],
    "uvicorn-0.32.0-plain": ["uvicorn==0.32.0", "wsproto"],
    "uvicorn-newest": ["uvicorn[standard]"],
    "uvicorn-newest-plain": ["uvicorn", "wsproto"],
    "waitress-2.1.2": ["waitress==2.1.2"],
    "waitress-newest": ["waitress"],
    "granian-2.8.0": ["granian==2.8.0"],
    "granian-newest": ["granian", "uvloop"],
}


@dataclass(frozen=True)
class Case:
    """An engine of one version with an example application that suits it."""

    environment: str
    app: str
    engine: str = "auto"

    @property
    def name(self) -> str:
        return f"{self.environment}-asgi" if self.engine != "auto" else self.environment

    @property
    def boot(self) -> dict[str, str]:
        return {"app": self.app, "engine": self.engine}


CASES = [Case(name, "hello:app" if name.startswith("uvicorn") else "shop:app") for name in ENGINES]
CASES += [Case(name, "hello:app", "granian") for name in ENGINES if name.startswith("granian")]


def interpreters() -> dict[str, str]:
    """Version -> interpreter: the one that runs the tests, $CLUSTERD_TEST_PYTHONS (paths, colons between), PATH."""
    found: dict[str, str] = {}
    candidates = os.environ.get("CLUSTERD_TEST_PYTHONS", "").split(":")
    candidates += [shutil.which(f"python3.{minor}") or "" for minor in (10, 11, 12, 13, 14)]
    for candidate in ["/usr/bin/python3", *candidates]:
        version = _version(candidate)
        if version and version >= (3, 10):
            found.setdefault(f"{version[0]}.{version[1]}", candidate)
    return found


@functools.cache
def _version(python: str) -> tuple[int, int] | None:
    if not python or not Path(python).exists():
        return None
    code = "import sys; print(sys.version_info[0], sys.version_info[1])"
    run = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    if run.returncode:
        return None
    major, minor = run.stdout.split()
    return int(major), int(minor)


@functools.cache
def environment(engine: str, python: str = "") -> str:
    """The interpreter of an environment with `engine` ("none": nothing installed). Skips when it cannot be made."""
    base = python or str(getattr(sys, "_base_executable", sys.executable))
    version = _version(base)
    if version is None:
        lacking(f"{base} does not run")
    directory = CACHE / f"{engine}-py{version[0]}.{version[1]}"
    interpreter = directory / "bin" / "python"
    done = directory / ".done"
    if not done.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with (CACHE / f"{directory.name}.lock").open("w") as lock, network.outside():
            fcntl.flock(lock, fcntl.LOCK_EX)  # another process of the tests may be making it
            if not done.exists():
                _make(engine, base, directory)
                done.touch()
    return str(interpreter)


def _make(engine: str, base: str, directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    packages = ENGINES.get(engine, [])
    commands = [[base, "-m", "venv", str(directory)]]
    if packages:
        commands.append([f"{directory}/bin/python", "-m", "pip", "install", "-q", "--prefer-binary", *packages])
    for command in commands:
        run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        if run.returncode:
            shutil.rmtree(directory, ignore_errors=True)
            lacking(f"cannot install {engine} for {base}: {run.stderr.strip()[-300:]}")

"""The peers' programs, from PyPI and npm, in directories of their own under build/; made once."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
APPS = HERE / "apps"
VENV = ROOT / "build" / "bench-venv"
NODE = ROOT / "build" / "bench-node"

# Exactly these: what is measured shall not change by itself. Newer ones are a line here and a run.
PYTHON_PEERS = [
    "uvicorn[standard]==0.54.0", "gunicorn==27.0.1", "uvicorn-worker==0.4.0", "granian==2.8.7", "hypercorn==0.18.0",
    "pyuwsgi==2.0.30.post1", "waitress==3.0.2",
]  # fmt: skip
NODE_PEERS = ["pm2@7.0.4"]


def prepare() -> None:
    """Install what is not there as it is wanted. Without npm there is no PM2, and its rows say so."""
    # as an installed package is: without it each of clusterd's programs would compile its modules at every start
    subprocess.run(["/usr/bin/python3", "-m", "compileall", "-q", str(ROOT / "service")], check=True)
    install_once(VENV, PYTHON_PEERS, install_python)
    if shutil.which("npm") is None:
        print("bench: no npm (Debian's package 'npm' has it), so without PM2", flush=True)
        return
    try:
        install_once(NODE, NODE_PEERS, install_node)
    except subprocess.CalledProcessError as e:
        print(f"bench: npm exited with {e.returncode}, so without PM2", flush=True)


def install_once(directory: Path, wanted: list[str], install: Callable[[], None]) -> None:
    stamp = directory / "peers"
    text = "\n".join(wanted)
    if stamp.exists() and stamp.read_text() == text:
        return
    print(f"bench: installing {', '.join(wanted)} into {directory.relative_to(ROOT)}", flush=True)
    install()
    stamp.write_text(text)


def install_python() -> None:
    subprocess.run(["/usr/bin/python3", "-m", "venv", "--clear", str(VENV)], check=True)
    subprocess.run([str(VENV / "bin/pip"), "install", "--quiet", *PYTHON_PEERS], check=True)


def install_node() -> None:
    shutil.rmtree(NODE, ignore_errors=True)
    NODE.mkdir(parents=True)
    subprocess.run(["npm", "install", "--silent", "--no-fund", "--no-audit", *NODE_PEERS], cwd=NODE, check=True)


def versions() -> dict[str, str]:
    code = (
        "import importlib.metadata as m, platform, sys;"
        "print(*(m.version(name) for name in sys.argv[1:]), platform.python_version())"
    )
    packages = ["uvicorn", "uvloop", "httptools", "gunicorn", "granian", "hypercorn", "pyuwsgi", "waitress"]
    out = subprocess.run([str(VENV / "bin/python"), "-c", code, *packages], capture_output=True, text=True, check=True)
    found = dict(zip([*packages, "CPython"], out.stdout.split(), strict=True))
    pm2 = ["node", "-p", f"require({str(NODE / 'node_modules/pm2/package.json')!r}).version"]
    for name, command in {
        "Node.js": ["node", "--version"],
        "PM2": pm2,
        "wrk": ["wrk", "-v"],
        "ab": ["ab", "-V"],
    }.items():
        text = subprocess.run(command, capture_output=True, text=True).stdout
        words = text.replace("<$Revision$>", "").split("\n")[0].split()
        if pick := [word for word in words if any(c.isdigit() for c in word)]:
            found[name] = pick[0].removeprefix("debian/").lstrip("v")
    return found

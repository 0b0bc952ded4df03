"""The peers' programs, from PyPI and npm, in directories of their own under build/; made once."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
APPS = HERE / "apps"
VENV = ROOT / "build" / "bench-venv"
NODE = ROOT / "build" / "bench-node"

PYTHON_PEERS = ["uvicorn[standard]", "gunicorn", "uvicorn-worker", "granian", "hypercorn", "pyuwsgi", "waitress"]
NODE_PEERS = ["pm2"]
STAMP = VENV / "peers"


def prepare() -> None:
    wanted = " ".join([*PYTHON_PEERS, *NODE_PEERS])
    if STAMP.exists() and STAMP.read_text() == wanted:
        return
    print("bench: installing the peers into build/bench-venv and build/bench-node", flush=True)
    subprocess.run(["/usr/bin/python3", "-m", "venv", str(VENV)], check=True)
    subprocess.run([str(VENV / "bin/pip"), "install", "--quiet", *PYTHON_PEERS], check=True)
    if shutil.which("npm") is None:
        print("bench: no npm, so without PM2", flush=True)
        return
    NODE.mkdir(parents=True, exist_ok=True)
    subprocess.run(["npm", "install", "--silent", "--no-fund", "--no-audit", *NODE_PEERS], cwd=NODE, check=True)
    STAMP.write_text(wanted)


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
        pick = [word for word in words if any(c.isdigit() for c in word)]
        found[name] = (pick[0] if pick else "?").removeprefix("debian/").lstrip("v")
    return found

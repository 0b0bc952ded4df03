"""clusterd as the benchmark runs it: `clusterd run`, from this source tree."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import processes
import servers
from kit import APPS, ROOT, VENV

PROGRAM = ["/usr/bin/python3", "-I", "-B", str(ROOT / "service" / "clusterd")]


class Clusterd(servers.Server):
    name, title, kind, base = "clusterd", "clusterd (uvicorn)", "ASGI", "uvicorn"
    app = "bench_app:app"
    engine = "uvicorn"
    shares = True

    def command(self) -> list[str]:
        self.runtime = Path(tempfile.mkdtemp(prefix="clusterd-bench-"))
        lines = [
            f'app = "{self.app}"', f'engine = "{self.engine}"', f'listen = "127.0.0.1:{self.port}"',
            f"workers = {self.count}", f'directory = "{APPS}"', f'python = "{VENV}/bin/python"',
        ]  # fmt: skip
        if "soak" in self.ours:
            lines += ["[reload]", f'soak = "{self.ours["soak"]}"']
        if "spares" in self.ours:
            lines += ["[restart]", f"spares = {self.ours['spares']}"]
        file = self.runtime / "bench.toml"
        file.write_text("\n".join(lines) + "\n")
        return [*PROGRAM, "run", str(file), "--runtime", str(self.runtime)]

    def workers(self) -> list[int]:
        return self._in("serving")

    def _in(self, state: str) -> list[int]:
        """Pids of the workers in `state`, the oldest first."""
        status = self._ask("status", "--json")
        if status.returncode:
            return []
        found = [w for w in json.loads(status.stdout)["workers"] if w["state"] == state and w["pid"]]
        return [w["pid"] for w in sorted(found, key=lambda w: -w["age"])]

    def settled(self) -> None:
        super().settled()
        if spares := self.ours.get("spares", 0):
            servers.wait_for(f"{self.name}: {spares} spares", lambda: len(self._in("spare")) == spares, 20)

    def calm(self) -> None:
        servers.wait_for(f"{self.name}: the end of its usher", lambda: not self._ushers(), 30)

    def _ushers(self) -> list[int]:
        return [pid for pid in self.all() if " usher" in processes.command_line(pid)]

    def reload(self) -> float | None:
        before = set(self.workers())
        began = time.monotonic()
        done = self._ask("reload")
        seconds = time.monotonic() - began
        if done.returncode:
            raise servers.Failed(f"{self.name}: reload exited with {done.returncode}: {done.stderr}")
        return None if before & set(self.workers()) else seconds

    def stop(self) -> None:
        super().stop()
        shutil.rmtree(self.runtime, ignore_errors=True)

    def _ask(self, verb: str, *options: str) -> subprocess.CompletedProcess[str]:
        command = [*PROGRAM, verb, *options, str(self.runtime / "control")]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)


class Bare(servers.Server):
    """The engine that `beside` uses, alone, with the settings it has there.

    uvicorn and waitress are given a socket like those of the slots; granian opens the same kind by itself.
    """

    name = "bare"

    def __init__(self, beside: type[Clusterd]) -> None:
        self._beside = beside
        super().__init__(1)

    def command(self) -> list[str]:
        engine, app = self._beside.engine, self._beside.app
        if engine == "granian":
            options = ["--interface", "wsgi", "--blocking-threads", "4", "--backlog", "4096", "--log-level", "warning"]
            app = "bare_granian:app"
            return [str(VENV / "bin/granian"), app, "--host", "127.0.0.1", "--port", str(self.port), *options]
        return [str(VENV / "bin/python"), "bare.py", engine, app, str(self.port)]

    def workers(self) -> list[int]:
        return super().workers() if self._beside.engine == "granian" else [self.process.pid]


class ClusterdWsgi(Clusterd):
    name, title, kind, base = "clusterd-wsgi", "clusterd (waitress)", "WSGI", "gunicorn-gthread"
    app = "bench_wsgi:app"
    engine = "waitress"


class ClusterdGranian(ClusterdWsgi):
    name, title = "clusterd-granian", "clusterd (granian)"
    engine = "granian"

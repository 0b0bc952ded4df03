"""The servers that are compared, each behind the same verbs: start, workers, reload, replaced, stop."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import IO

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
APPS = HERE / "apps"
VENV = ROOT / "build" / "bench-venv"
PROGRAM = ["/usr/bin/python3", "-I", "-B", str(ROOT / "service" / "clusterd")]
PEERS = ["uvicorn[standard]", "gunicorn", "uvicorn-worker"]


class Failed(Exception):
    """A server did not do what its verb says within its time."""


def wait_for(what: str, condition: object, seconds: float) -> None:
    """Ask `condition()` until it is true: the servers have no common event to wait on."""
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise Failed(f"{what}: not within {seconds:g} s")
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(word) for word in text.split()]


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")
            return sock.recv(64).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


class Server:
    """One server under test. `workers` is how many it is asked for; `die` the seconds within which each shall exit."""

    name = ""
    reload_signal = signal.SIGHUP

    def __init__(self, workers: int, *, die: float = 0) -> None:
        self.count = workers
        self.port = free_port()
        self.log: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by stop)
        environment = {**os.environ, "PYTHONPATH": str(APPS)}
        environment.pop("CLUSTERD_INSTANCE", None)
        if die:
            environment["BENCH_DIE"] = str(die)
        self.process = subprocess.Popen(
            self.command(),
            cwd=APPS,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            wait_for(f"{self.name}: start", lambda: self._alive() and answers(self.port), 30)
            if not die:
                self.settled()
        except Failed as e:
            tail = self.tail()
            self.stop()
            raise Failed(f"{e}\n{tail}") from None

    def command(self) -> list[str]:
        raise NotImplementedError

    def workers(self) -> list[int]:
        """Pids of the workers, the oldest first."""
        return children(self.process.pid)

    def cpu_seconds(self) -> float:
        """Processor time that the server's processes have used, those that are gone not counted."""
        ticks = 0
        waiting = [self.process.pid]
        while waiting:
            pid = waiting.pop()
            waiting += children(pid)
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def settled(self) -> None:
        """Wait until as many workers run as were asked for, and the port answers."""
        wait_for(f"{self.name}: {self.count} workers", lambda: len(self.workers()) == self.count, 20)
        wait_for(f"{self.name}: an answer", lambda: answers(self.port), 20)

    def replaced(self, victim: int) -> None:
        """Wait until a killed worker is gone and another is there in its place."""
        wait_for(f"{self.name}: worker {victim} gone", lambda: victim not in self.workers(), 20)
        self.settled()

    def reload(self) -> bool:
        """Ask for a rolling replacement, and wait until every worker is a new one. Returns whether that happened."""
        before = set(self.workers())
        os.kill(self.process.pid, self.reload_signal)
        try:
            wait_for(
                f"{self.name}: reload",
                lambda: not before & set(now := self.workers()) and len(now) == self.count,
                20,
            )
        except Failed:
            return False
        return True

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(15)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # its session: whatever it has left behind
        self.process.wait()
        self.log.close()

    def tail(self) -> str:
        self.log.flush()
        self.log.seek(0)
        return "\n".join(self.log.read().splitlines()[-12:])

    def _alive(self) -> bool:
        if self.process.poll() is not None:
            raise Failed(f"{self.name}: it exited with status {self.process.returncode}")
        return True


class Uvicorn(Server):
    name = "uvicorn"

    def command(self) -> list[str]:
        options = ["--host", "127.0.0.1", "--port", str(self.port), "--no-access-log", "--log-level", "warning"]
        return [str(VENV / "bin/uvicorn"), "bench_app:app", *options, "--workers", str(self.count)]

    def workers(self) -> list[int]:
        # with one worker uvicorn serves in the process itself; with more, multiprocessing adds a resource tracker
        spawned = [pid for pid in children(self.process.pid) if "spawn_main" in command_line(pid)]
        return spawned if self.count > 1 else [self.process.pid]


class Gunicorn(Server):
    name = "gunicorn"

    def command(self) -> list[str]:
        options = ["--bind", f"127.0.0.1:{self.port}", "--log-level", "warning", "--workers", str(self.count)]
        return [str(VENV / "bin/gunicorn"), "bench_app:app", "-k", "uvicorn_worker.UvicornWorker", *options]


class Node(Server):
    name = "node cluster"
    reload_signal = signal.SIGUSR2

    def command(self) -> list[str]:
        return ["node", str(APPS / "bench_cluster.js"), str(self.port), str(self.count)]


class Clusterd(Server):
    name = "clusterd"

    def command(self) -> list[str]:
        self.runtime = Path(tempfile.mkdtemp(prefix="clusterd-bench-"))
        return [
            *PROGRAM, "run", "bench_app:app", "--listen", f"127.0.0.1:{self.port}",
            "--workers", str(self.count), "--directory", str(APPS), "--python", str(VENV / "bin/python"),
            "--runtime", str(self.runtime),
        ]  # fmt: skip

    def workers(self) -> list[int]:
        status = self._ask("status", "--json")
        if status.returncode:
            return []
        workers = json.loads(status.stdout)["workers"]
        serving = [w for w in workers if w["state"] == "serving" and w["pid"]]
        return [w["pid"] for w in sorted(serving, key=lambda w: -w["age"])]

    def reload(self) -> bool:
        before = set(self.workers())
        done = self._ask("reload")
        return done.returncode == 0 and not before & set(self.workers())

    def stop(self) -> None:
        super().stop()
        shutil.rmtree(self.runtime, ignore_errors=True)

    def _ask(self, verb: str, *options: str) -> subprocess.CompletedProcess[str]:
        command = [*PROGRAM, verb, *options, str(self.runtime / "control")]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)


ALL: tuple[type[Server], ...] = (Clusterd, Uvicorn, Gunicorn, Node)


def prepare() -> None:
    """The peers, from PyPI, in an environment of their own (made once)."""
    if (VENV / "bin/gunicorn").exists() and (VENV / "bin/uvicorn").exists():
        return
    print("bench: installing the peers into build/bench-venv", flush=True)
    subprocess.run(["/usr/bin/python3", "-m", "venv", str(VENV)], check=True)
    subprocess.run([str(VENV / "bin/pip"), "install", "--quiet", *PEERS], check=True)


def versions() -> dict[str, str]:
    code = (
        "import importlib.metadata as m, platform, sys;"
        "print(*(m.version(name) for name in sys.argv[1:]), platform.python_version())"
    )
    packages = ["uvicorn", "uvloop", "httptools", "gunicorn", "uvicorn-worker"]
    out = subprocess.run([str(VENV / "bin/python"), "-c", code, *packages], capture_output=True, text=True, check=True)
    found = dict(zip([*packages, "CPython"], out.stdout.split(), strict=True))
    for name, command in {"Node.js": ["node", "--version"], "wrk": ["wrk", "-v"], "ab": ["ab", "-V"]}.items():
        text = subprocess.run(command, capture_output=True, text=True).stdout
        words = text.replace("<$Revision$>", "").split("\n")[0].split()
        pick = [word for word in words if any(c.isdigit() for c in word)]
        found[name] = (pick[0] if pick else "?").removeprefix("debian/").lstrip("v")
    return found

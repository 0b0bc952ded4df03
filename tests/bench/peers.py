"""The peers, each as its documentation starts it: as many workers as asked for, no access log, the rest as it comes.

Where a server by itself would let a dead worker be, or end with it, and has an option against that, it is given.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

import processes
from kit import APPS, NODE, VENV
from servers import Failed, Server


class Uvicorn(Server):
    name, title, base = "uvicorn", "uvicorn", "uvicorn"

    def command(self) -> list[str]:
        options = ["--host", "127.0.0.1", "--port", str(self.port), "--no-access-log", "--log-level", "warning"]
        return [str(VENV / "bin/uvicorn"), "bench_app:app", *options, "--workers", str(self.count)]

    def workers(self) -> list[int]:
        # with one worker uvicorn serves in the process itself; with more, multiprocessing adds a resource tracker
        return spawned(self.process.pid) if self.count > 1 else [self.process.pid]


class GunicornUvicorn(Server):
    name, title, base = "gunicorn-uvicorn", "gunicorn, uvicorn workers", "uvicorn"
    app = "bench_app:app"
    worker = ("-k", "uvicorn_worker.UvicornWorker")

    def command(self) -> list[str]:
        options = ["--bind", f"127.0.0.1:{self.port}", "--log-level", "warning", "--workers", str(self.count)]
        return [str(VENV / "bin/gunicorn"), self.app, *self.worker, *options]


class GunicornPreload(GunicornUvicorn):
    """For its memory: it too forks its workers from the imported application, and so a reload brings no new code."""

    name, title = "gunicorn-preload", "gunicorn, --preload"
    worker = (*GunicornUvicorn.worker, "--preload")
    shares = True
    legs = frozenset({"memory", "crash"})


class GunicornGthread(GunicornUvicorn):
    name, title, kind, base = "gunicorn-gthread", "gunicorn, gthread", "WSGI", "gunicorn-gthread"
    app = "bench_wsgi:app"
    worker = ("-k", "gthread", "--threads", "4")


class Granian(Server):
    name, title, base = "granian", "granian", "uvicorn"
    app = "bench_app:app"
    interface = "asgi"
    reload_limit = 40.0  # it waits 3.5 s between one worker and the next
    between_kills = 6.0  # it ends when a worker that it started again dies within 5.5 s of that

    def command(self) -> list[str]:
        options = [
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--log-level",
            "warning",
            "--respawn-failed-workers",
        ]
        return [
            str(VENV / "bin/granian"), self.app, "--interface", self.interface, "--workers", str(self.count), *options,
        ]  # fmt: skip


class GranianWsgi(Granian):
    name, title, kind, base = "granian-wsgi", "granian", "WSGI", "gunicorn-gthread"
    app = "bench_wsgi:app"
    interface = "wsgi"


class Hypercorn(Server):
    name, title, base = "hypercorn", "hypercorn", "uvicorn"
    reload_signal = None

    def command(self) -> list[str]:
        options = ["--bind", f"127.0.0.1:{self.port}", "--log-level", "warning", "-k", "uvloop"]
        return [str(VENV / "bin/hypercorn"), "bench_app:app", *options, "--workers", str(self.count)]

    def workers(self) -> list[int]:
        return spawned(self.process.pid)


class Uwsgi(Server):
    """With its HTTP router before the workers: without it a kept connection would occupy a thread."""

    name, title, kind, base = "uwsgi", "uWSGI", "WSGI", "gunicorn-gthread"

    def command(self) -> list[str]:
        self.directory = Path(tempfile.mkdtemp(prefix="clusterd-bench-uwsgi-"))
        return [
            str(VENV / "bin/uwsgi"), "--http", f"127.0.0.1:{self.port}", "--http-keepalive", "--master",
            "--processes", str(self.count), "--threads", "4", "--module", "bench_wsgi:app", "--pythonpath", str(APPS),
            "--need-app", "--die-on-term", "--disable-logging", "--lazy-apps",
            "--master-fifo", str(self.directory / "fifo"), "--stats", str(self.directory / "stats"),
        ]  # fmt: skip

    def workers(self) -> list[int]:
        # from its own account: the router is a child of the master too, and looks like a worker
        try:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(2)
                sock.connect(str(self.directory / "stats"))
                told = json.loads(b"".join(iter(lambda: sock.recv(65536), b"")))
        except (OSError, ValueError):
            return []
        ready = [worker for worker in told["workers"] if worker["apps"] and worker["pid"]]
        return [worker["pid"] for worker in ready if Path(f"/proc/{worker['pid']}").exists()]

    def ask_to_reload(self) -> None:
        # its chain reload, a worker after the other; SIGHUP would replace the router and its port with them
        (self.directory / "fifo").write_text("c")

    def stop(self) -> None:
        super().stop()
        shutil.rmtree(self.directory, ignore_errors=True)


class Node(Server):
    name, title, kind, base = "node-cluster", "node cluster", "Node", "node-cluster"
    reload_signal = signal.SIGUSR2

    def command(self) -> list[str]:
        return ["node", str(APPS / "bench_cluster.js"), str(self.count)]


class Pm2(Server):
    name, title, kind, base = "pm2", "PM2", "Node", "node-cluster"
    bin = NODE / "node_modules" / ".bin"

    def command(self) -> list[str]:
        if not (self.bin / "pm2").exists():
            raise Failed("npm was not there to install it")
        self.home = tempfile.mkdtemp(prefix="clusterd-bench-pm2-")
        self.environment.update(PM2_HOME=self.home, PM2_DISABLE_VERSION_CHECK="true")
        server = str(APPS / "bench_server.js")
        return [str(self.bin / "pm2-runtime"), "start", server, "-i", str(self.count), "--name", "bench"]

    def workers(self) -> list[int]:
        found = processes.children(self.process.pid)
        return [pid for pid in found if "bench_server.js" in processes.command_line(pid)]

    def ask_to_reload(self) -> None:
        done = subprocess.run(
            [str(self.bin / "pm2"), "reload", "bench"], env=self.environment, capture_output=True, text=True, timeout=60
        )
        if done.returncode:
            raise Failed(f"pm2 reload exited with {done.returncode}: {done.stderr.strip()}")

    def stop(self) -> None:
        workers = self.workers()
        super().stop()
        for pid in workers:  # each is in a session of its own
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.home, ignore_errors=True)


def spawned(pid: int) -> list[int]:
    """The workers among the children of one that uses multiprocessing's spawn: the others only watch."""
    return [child for child in processes.children(pid) if "spawn_main" in processes.command_line(child)]

"""A server under test behind the same verbs whatever it is: start, workers, reload, replaced, stop."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from typing import IO

import processes
from kit import APPS


class Failed(Exception):
    """A server did not do what its verb says within its time."""


class NotOffered(Exception):
    """The server has no such thing."""


def wait_for(what: str, condition: Callable[[], bool], seconds: float) -> None:
    """Ask `condition()` until it is true: the servers have no common event to wait on."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise Failed(f"{what}: not within {seconds:g} s")
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")
            return b" 200 " in sock.recv(64)
    except OSError:
        return False


class Server:
    """One server under test. `workers` is how many it is asked for; `die` the seconds within which each shall exit;
    `heap` how many bytes of objects the application makes at import, `blob` how many in one piece; `unseen` is without
    clusterd's scoreboard. `ours` are settings of clusterd alone."""

    name = ""
    """on the command line"""
    title = ""
    """in the tables"""
    kind = "ASGI"
    base = ""
    """name of the server of the same kind that ratios are taken to"""
    reload_signal: int | None = signal.SIGHUP
    reload_limit = 15.0
    """seconds"""
    between_kills = 0.5
    """seconds between the return of all workers and the next kill"""
    shares = False
    """whether its workers are forked from a process that has imported the application"""
    legs: frozenset[str] | None = None
    """the legs it is measured in: None for all"""

    def __init__(
        self, workers: int, *, die: float = 0, heap: int = 0, blob: int = 0, unseen: bool = False, **ours: str | int
    ) -> None:
        self.count = workers
        self.ours = ours
        self.port = free_port()
        self.log: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by stop)
        self.environment = {**os.environ, "PYTHONPATH": str(APPS), "PORT": str(self.port)}
        self.environment.pop("CLUSTERD_INSTANCE", None)
        asked = {"BENCH_DIE": die, "BENCH_HEAP": heap, "BENCH_BLOB": blob, "BENCH_UNSEEN": int(unseen)}
        self.environment.update({name: str(value) for name, value in asked.items() if value})
        self.process = subprocess.Popen(
            self.command(),
            cwd=APPS,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            wait_for(f"{self.name}: start", lambda: self._alive() and answers(self.port), 30)
            if not die:
                self.settled()
        except BaseException as e:
            tail = self.tail()
            self.stop()
            if isinstance(e, Failed):
                raise Failed(f"{e}\n{tail}") from None
            raise

    def command(self) -> list[str]:
        raise NotImplementedError

    def workers(self) -> list[int]:
        """Pids of the workers, the oldest first."""
        return processes.children(self.process.pid)

    def all(self) -> list[int]:
        return processes.family(self.process.pid)

    def others(self) -> list[int]:
        """What it runs besides workers."""
        workers = set(self.workers())
        return [pid for pid in self.all() if pid not in workers]

    def cpu_seconds(self) -> float:
        return processes.cpu_seconds(self.all())

    def settled(self) -> None:
        """Wait until as many workers run as were asked for, and the port answers."""
        wait_for(f"{self.name}: {self.count} workers", lambda: self._alive() and len(self.workers()) == self.count, 20)
        wait_for(f"{self.name}: an answer", lambda: self._alive() and answers(self.port), 20)

    def calm(self) -> None:
        """Wait until nothing runs that is there for a moment only.

        clusterd's usher is: as long as connections wait that no worker takes, and some seconds more.
        """

    def replaced(self, victim: int) -> None:
        """Wait until a killed worker is gone and another is there in its place."""
        wait_for(f"{self.name}: worker {victim} gone", lambda: victim not in self.workers(), 20)
        self.settled()

    def ask_to_reload(self) -> None:
        if self.reload_signal is None:
            raise NotOffered("no replacement of its workers")
        os.kill(self.process.pid, self.reload_signal)

    def reload(self) -> float | None:
        """Ask for a replacement of all workers: the seconds until every one is new, None when that did not happen."""
        before = set(self.workers())
        began = time.monotonic()
        self.ask_to_reload()
        try:
            wait_for(
                f"{self.name}: reload",
                lambda: not before & set(now := self.workers()) and len(now) == self.count,
                self.reload_limit,
            )
        except Failed:
            return None
        return time.monotonic() - began

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

"""`clusterd run` as a process of the tests, and everything it starts."""

from __future__ import annotations

import contextlib
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from clusterd.shell import client
from tests import output
from tests.descriptors import links
from tests.patience import HANG

T = TypeVar("T")

SERVICE = Path(__file__).resolve().parents[2] / "service"
CLUSTERD = [sys.executable, "-I", "-B", str(SERVICE / "clusterd")]

APP = """
import asyncio
import os

GREETING = "hello"


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["path"] == "/slow":
        await asyncio.sleep(1.0)
    while scope["path"] == "/held" and os.path.exists("held"):
        await asyncio.sleep(0.01)
    body = GREETING.encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
"""

TOML = """\
app = "hello:app"
directory = "{directory}"
python = "{python}"
listen = [{listen}]
workers = {workers}
[reload]
soak = "20ms"
watch = "1s"
linger = "60s"
drain-timeout = "60s"
ready-timeout = "60s"
[stop]
drain-timeout = "{stop}"
"""


class Foreground:
    """One `clusterd run FILE`, its directory and its terminal. A context manager that leaves no process behind."""

    def __init__(self, workers: int = 2, listen: Sequence[str] = ()) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="clusterd-test-"))
        self.runtime = self.directory / "runtime"
        self.port = free_port()
        self.listen = [f"127.0.0.1:{self.port}", *listen]
        self.workers = workers
        self.stop = "2s"
        """[stop] drain-timeout."""
        self.deploy("hello")
        self.environment: dict[str, str] = {}
        """Variables of `clusterd run` besides our own."""
        self.process: subprocess.Popen[bytes] | None = None
        self.log = output.kept()
        self.terminal = -1

    def __enter__(self) -> Foreground:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            everything = [self.process.pid, *descendants(self.process.pid)]
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(HANG)
            except subprocess.TimeoutExpired:
                for pid in everything:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                self.process.wait()
        if self.terminal >= 0:
            os.close(self.terminal)
        self.log.close()
        shutil.rmtree(self.directory)

    def deploy(self, greeting: str, extra: str = "") -> None:
        """The application greets so from the next reload on; `extra` is more code."""
        code = APP.replace('"hello"', repr(greeting)) + extra
        (self.directory / "hello.py.new").write_text(code)
        (self.directory / "hello.py.new").rename(self.directory / "hello.py")

    def configure(self) -> Path:
        file = self.directory / "app.toml"
        listen = ", ".join(f'"{address}"' for address in self.listen)
        text = TOML.format(
            directory=self.directory, python=sys.executable, listen=listen, workers=self.workers, stop=self.stop
        )
        file.write_text(text)
        return file

    def start(self, argv: Sequence[str] | None = None, *, terminal: bool = False, wait: bool = True) -> Foreground:
        """Start it, by default on no terminal, and wait until it serves. `argv` instead of the usual command."""
        command = [*CLUSTERD, "run", str(self.configure()), "--runtime", str(self.runtime)] if argv is None else argv
        stdio: Any = {"stdin": subprocess.DEVNULL, "stdout": self.log, "stderr": self.log}
        if terminal:
            self.terminal, slave = pty.openpty()
            # setsid(1) -c: the terminal becomes the controlling one, as at a login.
            command, stdio = ["setsid", "-c", *command], {"stdin": slave, "stdout": slave, "stderr": slave}
        self.process = subprocess.Popen(list(command), **stdio, env=_environment() | self.environment)
        if terminal:
            os.close(slave)
        if wait:
            self.wait_for("it to serve", lambda: self.status()["state"] == "serving")
        return self

    @property
    def control(self) -> str:
        return str(self.runtime / "control")

    def status(self) -> dict[str, Any]:
        """What the master says of itself; {"state": "unreachable"} while there is none."""
        try:
            reply = list(client.call(self.control, "Status", {}, connect_timeout=HANG, timeout=HANG))[-1]
        except Exception:
            return {"state": "unreachable", "workers": [], "master": {"pid": 0}, "generations": []}
        status: dict[str, Any] = reply["status"]
        return status

    def clusterd(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*CLUSTERD, *arguments, self.control], capture_output=True, text=True, timeout=HANG, env=_environment()
        )

    def clusterd_on(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The same for a command with arguments after the instance."""
        words = [*CLUSTERD, command, self.control, *arguments]
        return subprocess.run(words, capture_output=True, text=True, timeout=HANG, env=_environment())

    def pids(self) -> dict[int, int]:
        """Slot to pid of those that serve."""
        return {w["slot"]: w["pid"] for w in self.status()["workers"] if w["state"] == "serving"}

    def everything(self) -> list[int]:
        """Every living process of it: keeper, master, zygotes, twins, workers."""
        return [self.process.pid, *descendants(self.process.pid)] if self.process is not None else []

    def at_rest(self, gone: int | None = None) -> bool:
        """Every worker serves, all of one generation, nobody drains; none of them is the process `gone`."""
        status = self.status()
        generations = [w["generation"] for w in status["workers"] if w["state"] == "serving"]
        whole = len(status["workers"]) == self.workers and generations == [status["generation"]] * self.workers
        return status["state"] == "serving" and whole and gone not in [w["pid"] for w in status["workers"]]

    def accounted_for(self) -> bool:
        """Not at every instant: who was just forked or has just left is known a moment later."""
        return set(self.everything()) == self.accounted(self.status())

    def accounted(self, status: dict[str, Any]) -> set[int]:
        """The processes that `status` and the keeper account for."""
        assert self.process is not None
        zygotes = {g[kind] for g in status["generations"] for kind in ("zygote", "twin") if g[kind]}
        return {self.process.pid, status["master"]["pid"], *zygotes, *(w["pid"] for w in status["workers"])}

    def master(self) -> int:
        """The master's pid; 0 while nobody answers."""
        return int(self.status()["master"]["pid"])

    def signal_master(self, number: int) -> int:
        """Returns its pid."""
        pid = self.master()
        assert pid, "nobody answers, and 0 would be our own group"
        os.kill(pid, number)
        return pid

    def kill_master(self) -> int:
        """SIGKILL the master; returns its pid once another has taken over."""
        old = self.signal_master(signal.SIGKILL)
        self.wait_for("another master", lambda: self.master() not in (0, old))
        return old

    def wait_for(self, what: str, probe: Callable[[], T], timeout: float = HANG) -> T:
        end = time.monotonic() + timeout
        while not (found := probe()):
            assert self.process is None or self.process.poll() is None, f"it ended instead:\n{self.said()}"
            assert time.monotonic() < end, f"waited {timeout} s in vain for: {what}\n{self.status()}\n{self.said()}"
            time.sleep(0.02)
        return found

    def wait(self, timeout: float = HANG) -> int:
        """Its exit status."""
        assert self.process is not None
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still there after {timeout} s: {self.status()}\n{self.said()}") from None

    def said(self) -> str:
        """What it has printed, where it has no terminal."""
        return output.read(self.log)


def descendants(pid: int) -> list[int]:
    """Every process below `pid`, orphans included: the keeper is their subreaper."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                stat = (entry / "stat").read_text()
                state, parent = stat.rpartition(")")[2].split()[:2]
                if state not in "ZX":
                    parents[int(entry.name)] = int(parent)
    found: list[int] = []
    level = {pid}
    while level := {child for child, parent in parents.items() if parent in level}:
        found += level
    return found


def zombies(*parents: int) -> list[int]:
    """Children of `parents` that are dead and not reaped."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, above = stat.read_text().rpartition(")")[2].split()[:2]
            if state == "Z" and int(above) in parents:
                found.append(int(stat.parent.name))
    return found


def gone(pids: Sequence[int]) -> list[int]:
    """Those of `pids` that still live, after a moment to die in; zombies are dead."""
    end = time.monotonic() + HANG
    while True:
        living = []
        for pid in pids:
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                    living.append(pid)
        if not living or time.monotonic() > end:
            return living
        time.sleep(0.01)


def descriptors(pid: int) -> dict[str, int]:
    """How many descriptors of each kind a process has open."""
    found: dict[str, int] = {}
    for link in links(pid):
        kind = link.partition("[")[0].partition(":[")[0].rstrip(":")
        kind = "file" if kind.startswith("/") and "memfd" not in kind else kind
        found[kind] = found.get(kind, 0) + 1
    return found


GIVEN: set[int] = set()
"""Ports that `free_port` has given: another one each time."""


def free_port() -> int:
    while True:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port: int = probe.getsockname()[1]
        if port not in GIVEN:
            GIVEN.add(port)
            return port


def unread(port: int) -> int:
    """Bytes that clients have sent to `port` and nobody has read: on their way, or with whoever listens there, also of
    connections that nobody has accepted."""
    return max(_unread(port), _unread(port))  # it is not one look: what moves meanwhile may be missed, once


def _unread(port: int) -> int:
    here = f":{port:04X}"
    total = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues, *_ = line.split()
        sent, received = (int(queue, 16) for queue in queues.split(":"))
        total += received if local.endswith(here) else sent if remote.endswith(here) else 0
    return total


def _environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "CLUSTERD_"))}

"""A master that says what a test tells it to, behind a real control socket; and the command line run against it."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from clusterd.cli import program
from clusterd.worker.wire import Closed, Wire
from tests.patience import HANG

Reply = dict[str, Any]
Script = Callable[[dict[str, Any]], Iterator[Reply | None]]
"""From a request's parameters to the replies; None hangs up."""

STATUS: dict[str, Any] = {
    "name": "hello",
    "version": "0.1.0",
    "state": "serving",
    "summary": "2/2 workers, generation 3",
    "problem": None,
    "profile": None,
    "master": {"pid": 800, "starts": 1, "since": 1_700_000_000.0},
    "generation": 3,
    "previous": 2,
    "wanted": 2,
    "workers": [
        {
            "worker": 17, "slot": 0, "generation": 3, "state": "serving", "pid": 4711, "age": 7500.0,
            "requests": 1234, "in_flight": 2, "connections": 3, "beat": 0.4, "memory": 50 << 20, "cpu": 61.25,
            "restarts": 0, "last_end": None, "last_end_at": None, "status_text": None,
        },
        {
            "worker": 18, "slot": 1, "generation": 3, "state": "serving", "pid": 4712, "age": 12.2,
            "requests": None, "in_flight": None, "connections": None, "beat": None, "memory": 1 << 20, "cpu": 0.0,
            "restarts": 2, "last_end": "killed by SIGKILL", "last_end_at": 1_700_000_000.0, "status_text": None,
        },
    ],
    "generations": [
        {
            "generation": 3, "state": "up", "mode": "fork", "why": [], "zygote": 4700, "twin": 4701,
            "interface": "asgi", "engine": "uvicorn 0.32.0", "python": "3.11.2", "directory": "/srv/hello/releases/7",
        },
        {
            "generation": 2, "state": "parked", "mode": "spawn", "why": ["thread 'poller'"], "zygote": 4600,
            "twin": None, "interface": "asgi",
            "engine": "uvicorn 0.32.0", "python": "3.11.2", "directory": "/srv/hello/releases/6",
        },
    ],
    "slots": {"total": 16, "live": [0, 1]},
    "listen": ["0.0.0.0:8000"],
    "rollout": None,
    "receipt": {
        "number": 12, "kind": "reload", "outcome": "done", "generation": 3, "workers": 2, "seconds": 1.3,
        "reason": None, "cut": 0, "websockets": 3, "text": "#12: 2/2 in 1.3 s, 3 WebSockets closed 1012",
    },
}  # fmt: skip


def done(text: str = "#13: 2/2 in 0.9 s", **more: Any) -> Reply:
    return {"parameters": {"receipt": {"number": 13, "kind": "reload", "outcome": "done", "text": text, **more}}}


def progress(phase: str, ready: int, wanted: int) -> Reply:
    text = f"{ready}/{wanted} ready"
    return {
        "parameters": {"progress": {"phase": phase, "ready": ready, "wanted": wanted, "text": text}},
        "continues": True,
    }


def error(name: str, **parameters: Any) -> Reply:
    return {"error": f"io.clusterd.{name}", "parameters": parameters}


def unknown(_: dict[str, Any]) -> Iterator[Reply | None]:
    return iter([{"error": "org.varlink.service.MethodNotFound", "parameters": {}}])


class Master:
    """Serves a control socket from threads, one a connection, until closed. `calls` is what it was asked."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.calls: list[tuple[str, dict[str, Any], bool]] = []
        self.status: dict[str, Any] = json.loads(json.dumps(STATUS))
        self.scripts: dict[str, Script] = {"Status": lambda _: iter([{"parameters": {"status": self.status}}])}
        self.ended = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def answers(self, method: str, *replies: Reply | None) -> None:
        self.scripts[method] = lambda _: iter(replies)

    def asked(self, method: str) -> list[dict[str, Any]]:
        return [parameters for name, parameters, _ in self.calls if name == method]

    def close(self) -> None:
        self.ended.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(HANG)
            assert not thread.is_alive()
        self.path.unlink(missing_ok=True)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        with sock:
            wire = Wire(sock)
            try:
                for message, _ in wire.receive():
                    method = message["method"].removeprefix("io.clusterd.")
                    self.calls.append((method, message.get("parameters", {}), message.get("more", False)))
                    for reply in self.scripts.get(method, unknown)(message.get("parameters", {})):
                        if reply is None:
                            return
                        wire.send(reply)
            except Closed:
                return


@dataclass
class Site:
    """A configuration and a runtime directory, and the command line that works on them."""

    root: Path
    capsys: pytest.CaptureFixture[str]
    masters: list[Master] = field(default_factory=list)
    options: list[str] = field(default_factory=list)
    """Given before the subcommand in place of the two directories."""

    @property
    def config(self) -> Path:
        return self.root / "etc"

    @property
    def runtime(self) -> Path:
        return self.root / "run"

    def write(self, name: str, text: str = 'app = "hello:app"\nlisten = "8000"\n') -> Path:
        path = self.config / f"{name}.toml"
        path.write_text(text)
        return path

    def master(self, name: str) -> Master:
        self.masters.append(Master(self.runtime / name / "control"))
        return self.masters[-1]

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """(exit status, standard output, standard error) of `clusterd ARGUMENTS`."""
        where = self.options or ["--config-dir", str(self.config), "--runtime-dir", str(self.runtime)]
        self.capsys.readouterr()
        handler = signal.getsignal(signal.SIGTERM)  # a process of its own would not have to be put back
        try:
            status = program.main([*where, *arguments])
        finally:
            signal.signal(signal.SIGTERM, handler)
        out, err = self.capsys.readouterr()
        return status, out, err


@pytest.fixture
def site(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Site]:
    made = Site(tmp_path, capsys)
    made.config.mkdir()
    made.runtime.mkdir()
    yield made
    for master in made.masters:
        if not master.ended.is_set():
            master.close()


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Makes a program of the given shell lines the first on PATH; $LOG is where it may write what it was asked."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    monkeypatch.setenv("LOG", str(tmp_path / "log"))

    def make(name: str, lines: str) -> Path:
        path = directory / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>"$LOG"\n{lines}\n')
        path.chmod(0o755)
        return tmp_path / "log"

    return make

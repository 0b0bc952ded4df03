"""A `command` worker that drains is told so once, and then left alone until its time is up, whoever its master is."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.run.foreground import CLUSTERD, Foreground

PROGRAM = """#!{python}
# Serves nothing; has a listener of its own, for its figures. Told to drain, it waits for a file to go.
import os, select, signal, socket, time

told = 0

def drain(*_):
    global told
    told += 1
    with open(f"told.{{os.getpid()}}", "a") as f:
        f.write("SIGTERM\\n")

signal.signal(signal.SIGTERM, drain)
open(f"told.{{os.getpid()}}", "w").close()  # from here on it hears
given, own = socket.socket(fileno=3), socket.create_server(("127.0.0.1", 0))
epoll = select.epoll()
epoll.register(given, select.EPOLLIN)
epoll.register(own, select.EPOLLIN)
while not told:
    epoll.poll(0.02)
epoll.unregister(given)
given.close()
while os.path.exists("held"):
    epoll.poll(0.02)
"""
TOML = """\
command = ["{directory}/server"]
directory = "{directory}"
listen = "127.0.0.1:{port}"
workers = 2
ready = "after 200ms"
[reload]
soak = "20ms"
drain-timeout = "60s"
[stop]
drain-timeout = "60s"
"""


class Draining(Foreground):
    def begin(self) -> list[int]:
        """Serve, hold, reload; the old workers, which have been told to drain."""
        program, file = self.directory / "server", self.directory / "command.toml"
        program.write_text(PROGRAM.format(python=sys.executable))
        program.chmod(0o755)
        (self.directory / "held").touch()
        file.write_text(TOML.format(directory=self.directory, port=self.port))
        self.start([*CLUSTERD, "run", str(file), "--runtime", str(self.runtime)])
        old = list(self.pids().values())
        self.wait_for("them to listen", lambda: self.told(old) == [0, 0])
        assert self.clusterd("reload").returncode == 0
        self.wait_for("them to hear it", lambda: self.told(old) == [1, 1])
        assert self.draining() == set(old)
        return old

    def draining(self) -> set[int]:
        return {w["pid"] for w in self.status()["workers"] if w["state"] == "draining"}

    def told(self, pids: list[int]) -> list[int | None]:
        """How many SIGTERMs each has had; None while it would die of one."""
        files = [self.directory / f"told.{pid}" for pid in pids]
        return [len(file.read_text().splitlines()) if file.exists() else None for file in files]

    def release(self) -> None:
        (self.directory / "held").unlink()


@pytest.fixture
def run() -> Iterator[Draining]:
    with Draining() as made:
        yield made


def test_another_master(run: Draining) -> None:
    """It neither takes them for programs that never took their sockets, nor tells them again."""
    old = run.begin()
    run.kill_master()
    assert run.clusterd("try").returncode == 0, "what a new worker is given to become ready, they have had as well"
    assert run.draining() == set(old) and run.told(old) == [1, 1]
    run.release()
    run.wait_for("them to leave", lambda: not run.draining())
    assert "is killed" not in run.said() and run.told(old) == [1, 1]
    receipt = next(r for r in run.status()["receipts"] if r["number"] == 2)
    assert (receipt["drained"], receipt["untold"]) == (True, 2)
    assert ", resets not known, " in receipt["text"]


def test_a_stop(run: Draining) -> None:
    """Many programs take a second SIGTERM for the order to drop what they have."""
    old = run.begin()
    new = list(run.pids().values())
    run.wait_for("them to listen", lambda: run.told(new) == [0, 0])
    assert run.process is not None
    run.process.terminate()
    run.wait_for("the others to hear it", lambda: run.told(new) == [1, 1])
    assert run.told(old) == [1, 1] and run.draining() == {*old, *new}
    run.release()
    assert run.wait() == 0
    assert run.told(old) == [1, 1]

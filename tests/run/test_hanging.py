"""Workers that hang: found, shown where they stand, followed by others."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients import asking
from tests.patience import HANG
from tests.run.foreground import CLUSTERD, Foreground
from tests.worker.environments import environment

ASGI = """

import time

inner = app


def deep_in_the_application():
    with open("hung.new", "w") as f:
        f.write(str(os.getpid()))
    os.rename("hung.new", "hung")
    while os.path.exists("hang"):
        time.sleep(0.01)


async def app(scope, receive, send):
    if scope["type"] == "http" and scope["path"] == "/hang":
        deep_in_the_application()
    await inner(scope, receive, send)
"""

WSGI = """
import os
import time


def deep_in_the_application():
    open("hung", "w").close()
    while os.path.exists("hang"):
        time.sleep(0.01)


def app(environ, start_response):
    if environ["PATH_INFO"] == "/hang":
        deep_in_the_application()
    start_response("200 OK", [("Content-Length", "5")])
    return [b"hello"]
"""


class Watched(Foreground):
    """With a short watchdog."""

    application = ASGI
    engine = python = ""
    silent = "2s"

    def deploy(self, greeting: str, extra: str = "") -> None:
        if self.application is ASGI:
            super().deploy(greeting, ASGI + extra)
        else:
            (self.directory / "hello.py").write_text(self.application)

    def configure(self) -> Path:
        file = super().configure()
        text = file.read_text()
        if self.python:
            text = f'engine = "{self.engine}"\n' + text.replace(f'"{sys.executable}"', f'"{self.python}"')
        file.write_text(f'{text}[health]\nwatchdog = "{self.silent}"\n')
        return file

    def hang(self, requests: int = 1) -> list[socket.socket]:
        """Requests that are not answered as long as there is a file `hang`, each on a connection of its own.

        A worker hangs by them when this returns: whoever asks now is not accepted together with them.
        """
        (self.directory / "hang").touch()
        asked = []
        for _ in range(requests):
            sock = socket.create_connection(("127.0.0.1", self.port))
            sock.settimeout(HANG)
            sock.sendall(b"GET /hang HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            asked.append(sock)
        self.wait_for("it to hang", (self.directory / "hung").exists)
        return asked

    def replaced(self, victim: int) -> dict[int, int]:
        """Who serves when another has taken the place of `victim`: slot to pid."""
        now = lambda: {slot: pid for slot, pid in self.pids().items() if pid}  # noqa: E731
        return self.wait_for(
            "another worker",
            lambda: len(found := now()) == self.workers and victim not in found.values() and found,
        )

    def left_alone(self, others: set[int]) -> bool:
        """Whether those of `others` who serve no more have been found to hang as well: on a busy machine they may."""
        gone = others - set(self.pids().values())
        return self.said().count(" hangs: ") > len(gone)


@pytest.fixture
def run() -> Iterator[Watched]:
    with Watched(workers=2) as made:
        yield made


@pytest.mark.parametrize(
    "installed",
    [
        "",
        pytest.param("granian-newest", marks=pytest.mark.proof),
        pytest.param("granian-2.8.0", marks=pytest.mark.proof),
        pytest.param("uvicorn-0.17.6", marks=pytest.mark.proof),
        pytest.param("uvicorn-newest", marks=pytest.mark.proof),
    ],
    ids=lambda name: name or "uvicorn",
)
def test_a_blocked_event_loop(run: Watched, installed: str) -> None:
    """Its stack is told, it is followed, killed after a grace, and only those lose a request whom it had accepted.

    uvicorn accepts nobody while its loop stands still, and is followed in its own slot; granian does, until new
    connections are steered elsewhere: at most one of each client here.
    """
    if installed:
        run.python, run.engine = environment(installed), installed.partition("-")[0]
    run.start()
    before = run.pids()
    (stuck,) = run.hang()
    victim = int((run.directory / "hung").read_text())
    assert victim in before.values()
    with asking(("127.0.0.1", run.port), single=4, kept=0) as asked:
        after = run.replaced(victim)
        run.wait_for("it to be killed", lambda: len(run.status()["workers"]) == 2)
    assert run.left_alone({*before.values()} - {victim})
    assert (set(after) == set(before)) == ("granian" not in installed)
    said = run.said()
    assert "hangs: it has given no sign of life for" in said
    assert "in deep_in_the_application" in said
    assert asked.longest < HANG / 2
    assert sum(asked.failures.values()) <= (4 if "granian" in installed else 0), asked.failures
    assert stuck.recv(100) == b""
    stuck.close()


def test_a_worker_that_comes_back_finishes_and_leaves(run: Watched) -> None:
    """Whoever asked what took so long gets the answer; the worker leaves, for another has its place."""
    run.silent = "6s"  # it is killed as long after it was found
    run.start()
    (slow,) = run.hang()
    run.wait_for("it to be found", lambda: " hangs: " in run.said())
    (run.directory / "hang").unlink()
    assert slow.recv(100).startswith(b"HTTP/1.1 200 OK")
    slow.close()
    run.replaced(int((run.directory / "hung").read_text()))
    run.wait_for("it to leave", lambda: len(run.status()["workers"]) == 2)
    assert "is killed" not in run.said()


def test_one_that_is_stopped(run: Watched) -> None:
    """SIGSTOP is told as such."""
    run.start()
    before = run.pids()
    os.kill(before[0], signal.SIGSTOP)
    assert set(run.replaced(before[0])) == {0, 1} and run.left_alone({before[1]})
    run.wait_for("it to be killed", lambda: len(run.status()["workers"]) == 2)
    assert "; it is stopped (SIGSTOP), not hanging by itself" in run.said()


def test_a_slow_start_is_no_hang(run: Watched) -> None:
    """A worker that takes longer than the watchdog to start, and blocks its event loop for it, is left alone."""
    code = (run.directory / "hello.py").read_text()
    blocked = code.replace(
        'if scope["type"] == "lifespan":', 'if scope["type"] == "lifespan":\n        time.sleep(4.5)', 1
    )
    assert blocked != code
    (run.directory / "hello.py").write_text("import time\n" + blocked)
    run.start()
    assert "hangs" not in run.said() and run.at_rest()


@pytest.mark.proof
def test_a_master_that_was_stopped_itself_blames_nobody(run: Watched) -> None:
    """Everything frozen for longer than the watchdog, the master last of all to stop and first to go on: the others
    have their whole time anew, for a machine with much on it takes some to run everybody again."""
    run.silent = "6s"
    run.start()
    before = run.pids()
    master = run.status()["master"]["pid"]
    stopped = [*before.values(), master]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    threading.Event().wait(8.0)  # it is the time that passes which is the matter here
    os.kill(master, signal.SIGCONT)
    threading.Event().wait(3.0)
    for pid in before.values():
        os.kill(pid, signal.SIGCONT)
    assert run.status()["state"] == "serving"
    threading.Event().wait(4.0)
    assert run.pids() == before and "hangs" not in run.said()


@pytest.mark.parametrize(
    "installed",
    [
        "waitress-newest",
        pytest.param("granian-newest", marks=pytest.mark.proof),
        pytest.param("waitress-2.1.2", marks=pytest.mark.proof),
        pytest.param("granian-2.8.0", marks=pytest.mark.proof),
    ],
)
def test_threads_that_are_all_busy(run: Watched, installed: str) -> None:
    """No request ends and no thread is free: the worker is followed. A long request, with threads free, is nothing."""
    run.python, run.engine = environment(installed), installed.partition("-")[0]
    run.application, run.workers = WSGI, 1
    run.deploy("hello")
    run.start()
    before = run.pids()
    few = run.hang(2)
    threading.Event().wait(5.0)
    assert run.pids() == before
    many = run.hang(6)
    run.replaced(before[0])
    run.wait_for("where it hangs", lambda: "in deep_in_the_application" in run.said())
    assert "hangs: it has ended no request for" in run.said()
    (run.directory / "hang").unlink()
    run.wait_for("the old one to leave", lambda: len(run.status()["workers"]) == 1)
    for sock in few + many:
        sock.close()


COMMAND = """
import os
import socket
import time

os.listdir("/proc/self")
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.connect(os.environ["NOTIFY_SOCKET"])
assert os.environ["WATCHDOG_USEC"] == "2000000" and os.environ["WATCHDOG_PID"] == str(os.getpid())
notify.send(b"READY=1")
while True:
    if not os.path.exists("hang"):
        notify.send(b"WATCHDOG=1")
    time.sleep(0.5)
"""


def test_a_command_that_stops_saying_watchdog(run: Watched) -> None:
    """WATCHDOG=1 is its sign of life, as systemd has it."""
    (run.directory / "server.py").write_text(COMMAND)
    file = run.configure()
    text = file.read_text().replace('app = "hello:app"', f'command = ["{sys.executable}", "server.py"]')
    file.write_text("\n".join(line for line in text.splitlines() if not line.startswith("python")))
    run.start([*CLUSTERD, "run", str(file), "--runtime", str(run.runtime)])
    before = run.pids()
    threading.Event().wait(5.0)
    assert run.pids() == before
    (run.directory / "hang").touch()
    run.replaced(before[0])
    assert "hangs: it has given no sign of life for" in run.said()
    (run.directory / "hang").unlink()

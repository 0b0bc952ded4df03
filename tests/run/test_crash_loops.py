"""Workers that die again and again: tried again for ever, more and more seldom, and nobody else suffers."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.patience import HANG
from tests.run.foreground import CLUSTERD, Foreground
from tests.shell.waiting import readable

DYING = """

inner = app


async def app(scope, receive, send):
    if scope["type"] == "lifespan" and os.path.exists("doomed"):
        asyncio.get_running_loop().call_later(0.05, os._exit, 7)  # READY has been said long before
    await inner(scope, receive, send)
"""

THREAD = """
import threading

threading.Thread(target=threading.Event().wait, daemon=True).start()
"""


class Doomed(Foreground):
    code = DYING

    def deploy(self, greeting: str, extra: str = "") -> None:
        super().deploy(greeting, self.code + extra)

    def configure(self) -> Path:
        file = super().configure()
        file.write_text(
            file.read_text().replace("[reload]", '[restart]\ndelay = "50ms"\nmax-delay = "300ms"\n[reload]')
        )
        return file

    def doom(self) -> None:
        """From now on no worker lives for long."""
        (self.directory / "doomed").touch()
        for pid in self.pids().values():
            os.kill(pid, signal.SIGKILL)


UNPRINTABLE = """

inner = app


async def app(scope, receive, send):
    if scope["type"] == "lifespan" and os.path.exists("doomed"):
        await receive()
        message = "what is caf\\udce9, \\ud83d, \\x00 and \\x1b[8m?"
        await send({"type": "lifespan.startup.failed", "message": message})
    await inner(scope, receive, send)
"""


WAITING = """

inner = app


async def app(scope, receive, send):
    if scope["type"] == "lifespan" and os.path.exists("doomed"):
        await receive()
        while not os.path.exists("speak"):
            await asyncio.sleep(0.01)
        await send({"type": "lifespan.startup.failed", "message": "these are my last words"})
    await inner(scope, receive, send)
"""


class Unprintable(Doomed):
    """What it dies of is no text that can be encoded."""

    code = UNPRINTABLE


class Waiting(Doomed):
    """It dies of what it says as soon as it may."""

    code = WAITING


class Spawning(Doomed):
    """Its zygote, without the application and its thread, has no twin."""

    code = THREAD


@pytest.fixture
def run() -> Iterator[Doomed]:
    with Doomed(workers=2) as made:
        made.start()
        yield made


def tries(status: dict[str, Any]) -> int:
    found = re.search(r"\((\d+) times in a row", status.get("summary", ""))
    return int(found[1]) if found else 0


def starting(status: dict[str, Any]) -> list[int]:
    """The pids of those that start."""
    return [w["pid"] for w in status["workers"] if w["state"] == "starting" and w["pid"]]


@contextlib.contextmanager
def pidfds(*pids: int) -> Iterator[list[int]]:
    with contextlib.ExitStack() as stack:
        made = [os.pidfd_open(pid) for pid in pids]
        for fd in made:
            stack.callback(os.close, fd)
        yield made


def test_a_death_soon_after_ready_counts(run: Doomed) -> None:
    """Each worker becomes ready and dies: that is a failure too, is told with its reason and number, and is tried again
    without an end; the first that lives is served by, and all is forgiven."""
    assert run.process is not None
    master = run.status()["master"]["pid"]
    run.doom()
    status = run.wait_for("five in a row", lambda: tries(now := run.status()) >= 5 and now)
    assert status["state"] == "degraded" and "exited with status 7" in status["problem"]
    (run.directory / "doomed").unlink()
    run.wait_for("it to be forgiven", lambda: run.at_rest() and not run.status()["problem"])
    with socket.create_connection(("127.0.0.1", run.port)) as sock:
        sock.settimeout(HANG)
        sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert b"".join(iter(lambda: sock.recv(4096), b"")).endswith(b"hello")
    assert run.status()["master"]["pid"] == master and run.process.poll() is None


HELD = """

import time

while os.path.exists("held"):
    time.sleep(0.01)
"""


class Watching(Doomed):
    def configure(self) -> Path:
        file = super().configure()
        file.write_text(file.read_text().replace('watch = "1s"', 'watch = "10min"'))
        return file


def test_a_try_gives_way_to_a_return() -> None:
    """Whoever tries is told so, as a refusal; not that another was asked for, which was refused itself."""
    with Watching(workers=2) as run:
        run.start()
        run.deploy("new")
        assert run.clusterd("reload").returncode == 0
        (run.directory / "held").touch()
        run.deploy("newer", HELD)
        argv = [*CLUSTERD, "try", run.control]
        trying = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        run.wait_for("the try", lambda: run.status()["rollout"])
        assert run.clusterd("try").returncode == 1
        run.doom()
        _, said = trying.communicate(timeout=HANG)
        (run.directory / "held").unlink()
        (run.directory / "doomed").unlink()
        assert (trying.returncode, "the current generation had to be returned" in said) == (1, True), said


def test_a_reason_that_is_no_text(tmp_path: Path) -> None:
    """Of half characters, a NUL and a terminal's orders: a person and systemd are told it in escapes, by a master that
    lives on; as does the next, which takes it over."""
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd, Unprintable(workers=2) as run:
        systemd.bind(address)
        systemd.settimeout(HANG)
        run.environment = {"NOTIFY_SOCKET": address}
        run.start()
        run.doom()
        reason = r"what is caf\udce9, \ud83d, \x00 and \x1b[8m?"
        run.wait_for("it to be told", lambda: reason in (run.status()["problem"] or ""))
        while reason not in systemd.recv(4096).decode():
            pass
        systemd.close()  # who does not read its queue holds the master up, a second at each notification
        run.kill_master()
        # What the dead one had just heard and not yet written down is lost with it, and said again by the next worker.
        run.wait_for("the next to tell it", lambda: reason in run.status()["problem"])
        assert run.status()["master"]["starts"] == 2
        assert reason in run.clusterd("status").stdout
        (run.directory / "doomed").unlink()
        run.wait_for("it to heal", lambda: run.at_rest() and not run.status()["problem"])
        assert run.status()["master"]["starts"] == 2


def test_last_words_while_no_master_lives() -> None:
    """A worker says why it fails, and is dead before there is another master to hear it: it is told all the same."""
    with Waiting(workers=2) as run:
        run.start()
        assert run.process is not None
        keeper, master = run.process, run.status()["master"]["pid"]
        (run.directory / "doomed").touch()
        os.kill(run.pids()[0], signal.SIGKILL)
        worker = run.wait_for("one that waits", lambda: next(iter(starting(run.status())), None))
        with pidfds(worker, master) as (its, masters):
            keeper.send_signal(signal.SIGSTOP)
            os.kill(master, signal.SIGKILL)
            assert readable(masters)
            (run.directory / "speak").touch()
            assert readable(its)
        (run.directory / "doomed").unlink()
        keeper.send_signal(signal.SIGCONT)
        run.wait_for("its death to be told", lambda: "worker 3 died" in run.said())
        assert "worker 3 died: lifespan startup failed: these are my last words" in run.said()
        run.wait_for("it to heal", run.at_rest)


def test_a_zygote_that_dies_soon_after_it_was_up_counts() -> None:
    """One without a twin, killed whenever it is up: it is tried again more and more seldom, and workers serve on. One
    that lives is forgiven what became of those before it."""
    with Spawning(workers=2) as run:
        run.start()
        workers = run.pids()

        def struck() -> str:
            status = run.status()
            (generation,) = status["generations"]
            if generation["state"] == "up":
                with contextlib.suppress(ProcessLookupError):
                    os.kill(generation["zygote"], signal.SIGKILL)
            return str(status["problem"]) if tries(status) >= 4 else ""

        assert "killed by SIGKILL" in run.wait_for("four in a row", struck)
        run.wait_for("it to be forgiven", lambda: run.at_rest() and not run.status()["problem"])
        assert run.pids() == workers

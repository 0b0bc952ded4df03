"""The faults: what each does to a cluster that serves, and how many connections it may cost."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.run.foreground import Foreground
from tests.systemd import storm

VICTIM = (
    storm.VICTIM
    + """

import time

ballast = []
serve = app


def block(number, frame):
    say(held())
    while True:
        time.sleep(1)


signal.signal(signal.SIGRTMIN + 5, block)


async def app(scope, receive, send):
    if scope["type"] == "http" and scope["path"] == "/grow":
        ballast.append(os.urandom(1 << 16) * 2000)
    await serve(scope, receive, send)
"""
)
TABLES = """
[http]
loop = "asyncio"
[health]
watchdog = "6s"
[recycle]
max-memory = "220M"
max-requests = 3000
[restart]
delay = "50ms"
max-delay = "1s"
"""
WORKERS = 4
JUNK = (b"\0" * 999, b'{"method": 7}\0', b"x" * 5000, b'{"method":"io.clusterd.Status"}\0' * 12)


class Cluster(Foreground):
    """`clusterd run` of an application that can be harmed, and what harming it may cost."""

    def __init__(self) -> None:
        super().__init__(workers=WORKERS)
        self.taken = 0
        """Connections that victims had accepted, where they could be counted from outside."""
        self.struck: set[int | None] = {None}
        self.clients: list[socket.socket] = []

    def __exit__(self, *exception: object) -> None:
        for client in self.clients:
            client.close()
        super().__exit__(*exception)

    def deploy(self, greeting: str, extra: str = "") -> None:
        super().deploy(greeting, VICTIM + extra)

    def configure(self) -> Path:
        file = super().configure()
        text = file.read_text().replace('linger = "60s"\ndrain-timeout = "60s"', 'linger = "5s"\ndrain-timeout = "10s"')
        assert 'linger = "5s"' in text
        file.write_text(text + TABLES)
        return file

    @property
    def allowed(self) -> int:
        """Requests that may have failed so far: at most one for each connection that a victim had accepted."""
        return self.taken + sum(map(int, re.findall(r"storm: held (\d+)", self.said())))

    def strike(self, chance: float, how: Callable[[int], int], *, survives: bool = False) -> None:
        """One of at least two that serve: what there is when nobody does is another matter. `how` tells what it had
        taken; somebody else is struck where it leaves just then."""
        while True:
            pids = storm.serving(self.control, self.struck)
            victim = pids[int(chance * len(pids))]
            if not survives:
                self.struck.add(victim)
            try:
                self.taken += how(victim)
            except (ProcessLookupError, FileNotFoundError):
                continue
            return

    def master(self) -> int:
        pid: int = self.wait_for("a master", lambda: self.status().get("master", {}).get("pid"))
        return pid


Fault = Callable[[Cluster, float], None]


def dies(kind: str) -> Fault:
    def strike(run: Cluster, chance: float) -> None:
        run.strike(chance, lambda victim: storm.end(victim, kind, run.port), survives=kind == "uncaught")

    return strike


def stopped(run: Cluster, chance: float) -> None:
    def stop(victim: int) -> int:
        storm.stop(victim)
        return storm.connections(victim, run.port)

    run.strike(chance, stop)


def blocked(run: Cluster, chance: float) -> None:
    def block(victim: int) -> int:
        os.kill(victim, signal.SIGRTMIN + 5)
        return 0

    run.strike(chance, block)


def zygote(kind: str) -> Fault:
    def strike(run: Cluster, chance: float) -> None:
        pids = [g[kind] for g in run.status().get("generations", []) if g[kind]]
        if pids:
            _send(pids[int(chance * len(pids))], signal.SIGKILL)

    return strike


def master(number: int) -> Fault:
    return lambda run, chance: _send(run.master(), number)


def master_stopped(run: Cluster, chance: float) -> None:
    """For up to two seconds: less than the keeper waits before it takes it for hung."""
    pid = run.master()
    _send(pid, signal.SIGSTOP)
    subprocess.run(["sleep", str(2 * chance)], check=True)
    _send(pid, signal.SIGCONT)


def reload(run: Cluster, chance: float) -> None:
    run.deploy(f"hello {chance:.6f}")
    run.clusterd("reload")


def reloads(run: Cluster, chance: float) -> None:
    """Two at once: the later one wins."""
    assert run.process is not None
    run.process.send_signal(signal.SIGHUP)
    run.clusterd("reload")


def broken_code(run: Cluster, chance: float) -> None:
    generation = run.status().get("generation")
    run.deploy("broken", extra="\nraise RuntimeError('broken')\n")
    done = run.clusterd("reload")
    run.deploy("mended")
    assert done.returncode != 0, f"broken code was taken, after generation {generation}"


def broken_file(run: Cluster, chance: float) -> None:
    file = run.directory / "app.toml"
    good = file.read_text()
    file.write_text(good + '[reload]\nsoak = "never"\n')
    done = run.clusterd("reload")
    file.write_text(good)
    assert done.returncode != 0, "a broken file was taken"


def scale(run: Cluster, chance: float) -> None:
    scaled(run, str(3 + int(chance * 4)))


def scale_back(run: Cluster, chance: float) -> None:
    scaled(run, "file")


def scaled(run: Cluster, workers: str) -> None:
    """Refused only by a master that ends with the question, or while a change is under way."""
    done = run.clusterd_on("scale", workers)
    assert done.returncode != 2, done.stderr


def signals(run: Cluster, chance: float) -> None:
    assert run.process is not None
    for number in (signal.SIGTTIN, signal.SIGTTOU):
        run.process.send_signal(number)


def upgrade(run: Cluster, chance: float) -> None:
    run.clusterd("upgrade")


def junk(run: Cluster, chance: float) -> None:
    """To the control socket, from clients that do not read and do not leave."""
    client = socket.socket(socket.AF_UNIX)
    with contextlib.suppress(OSError):
        client.connect(run.control)
        client.sendall(JUNK[int(chance * len(JUNK))])
    run.clients.append(client)
    while len(run.clients) > 20:
        run.clients.pop(0).close()


def grow(run: Cluster, chance: float) -> None:
    """A worker takes more than [recycle] allows, and is followed by another before it goes."""
    for _ in range(2):
        with socket.create_connection(("127.0.0.1", run.port)) as client:
            client.sendall(b"GET /grow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            client.settimeout(60)
            with contextlib.suppress(ConnectionError):
                while client.recv(4096):
                    pass


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


FAULTS: dict[str, Fault] = {
    **{f"worker: {kind}": dies(kind) for kind in storm.KINDS},
    "worker: stopped": stopped,
    "worker: blocked": blocked,
    "worker: grows": grow,
    "zygote: KILL": zygote("zygote"),
    "twin: KILL": zygote("twin"),
    "master: KILL": master(signal.SIGKILL),
    "master: SEGV": master(signal.SIGSEGV),
    "master: ABRT": master(signal.SIGABRT),
    "master: USR1": master(signal.SIGUSR1),
    "master: stopped a while": master_stopped,
    "upgrade": upgrade,
    "reload": reload,
    "two reloads": reloads,
    "broken code": broken_code,
    "broken file": broken_file,
    "scale": scale,
    "scale back": scale_back,
    "TTIN and TTOU": signals,
    "junk": junk,
}

"""A `command` that does not take its sockets from systemd is told so in words, whichever way it fails to."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.run.foreground import CLUSTERD, Foreground, free_port

BINDS = """
import socket
with socket.create_server(("127.0.0.1", {port}), reuse_port=False) as listener:
    listener.accept()
"""
ELSEWHERE = """
import select, socket
listener = socket.create_server(("127.0.0.1", {other}))
epoll = select.epoll()
epoll.register(listener, select.EPOLLIN)
while True:
    epoll.poll()
"""
NEVER_READY = "import signal; signal.pause()"
LEAVES = "pass"


@pytest.fixture
def run() -> Iterator[Foreground]:
    with Foreground(workers=1) as made:
        yield made


@pytest.mark.parametrize(
    ("program", "ready", "timeout", "told"),
    [
        (
            BINDS,
            '"notify"',
            "60s",
            "exited with status 1: what it said is in the log; if it found the address in use, ",
        ),
        (
            ELSEWHERE,
            '"after 15s"',
            "60s",
            "it does not take sockets from systemd: it listens on 127.0.0.1:{other} by its",
        ),
        (
            ELSEWHERE,
            '"notify"',
            "15s",
            "not ready within 15 s: it does not take sockets from systemd: it listens on ",
        ),
        (NEVER_READY, '"notify"', "15s", "not ready within 15 s: it runs, and did not say READY=1 (ready = "),
        (
            LEAVES,
            '"notify"',
            "60s",
            "exited with status 0: a command stays in the foreground, and serves until SIGTERM",
        ),
    ],
    ids=["binds", "elsewhere-after", "elsewhere-notify", "never-ready", "leaves"],
)
def test_what_a_command_does_wrong(run: Foreground, program: str, ready: str, timeout: str, told: str) -> None:
    """The first start fails, and one line says what the program did instead and what is expected of it."""
    ports = {"port": run.port, "other": free_port()}
    (run.directory / "server.py").write_text(program.format(**ports))
    file = run.directory / "wrong.toml"
    file.write_text(
        f'command = ["{sys.executable}", "server.py"]\ndirectory = "{run.directory}"\nlisten = "127.0.0.1:{run.port}"\n'
        f'workers = 1\nready = {ready}\n[reload]\nready-timeout = "{timeout}"\n'
    )
    run.start([*CLUSTERD, "run", str(file)], wait=False)
    assert run.wait() == 1
    assert told.format(**ports) in run.said(), run.said()

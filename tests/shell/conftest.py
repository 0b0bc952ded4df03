"""What the tests at the kernel's edge share: programs that are gone afterwards, a control socket, an usher."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clusterd.shell.listeners import Slots, open_for_run
from tests.shell.control_peers import Caller, Server
from tests.shell.test_listeners import Address
from tests.shell.ushering import Usher, serve
from tests.shell.waiting import Spawn


@pytest.fixture
def python() -> Iterator[Spawn]:
    """Start `python -c TEXT ARGUMENTS` in a process group of its own; killed with its descendants at the end."""
    started: list[subprocess.Popen[bytes]] = []

    def spawn(text: str, *arguments: str, **options: object) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(
            [sys.executable, "-c", text, *arguments],
            stdout=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            **options,  # type: ignore[call-overload]
        )
        started.append(child)
        return child

    yield spawn
    for child in started:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        for stream in (child.stdin, child.stdout, child.stderr):
            if stream is not None:
                stream.close()


@pytest.fixture(autouse=True)
def _no_descriptor_left() -> Iterator[None]:
    """A test, and so the code it runs, leaves as many descriptors open as it found."""
    before = set(os.listdir("/proc/self/fd"))
    yield
    after = set(os.listdir("/proc/self/fd"))
    new = {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in after - before if os.path.lexists(f"/proc/self/fd/{fd}")}
    assert len(after) <= len(before), new


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A control socket with its master's loop."""
    made = Server(str(tmp_path / "control"))
    yield made
    made.close()


@pytest.fixture
def caller(server: Server) -> Iterator[Caller]:
    """One that is connected to it."""
    made = Caller(server)
    yield made
    made.wire.close()


@pytest.fixture
def usher(python: Spawn) -> Iterator[Usher]:
    made = Usher(python)
    yield made
    made.wire.close()


@pytest.fixture
def slots() -> Iterator[Slots]:
    """Three slots; no program yet."""
    made = open_for_run([Address()], 3)
    yield made
    for fd in made.groups[0].fds:
        os.close(fd)


@pytest.fixture
def worker(slots: Slots) -> Iterator[Callable[[Callable[[socket.socket], None]], None]]:
    """Serve slot 0 by a function."""
    with contextlib.ExitStack() as stack:
        yield lambda by: stack.enter_context(serve(socket.socket(fileno=os.dup(slots.groups[0].fds[0])), by))

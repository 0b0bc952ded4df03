"""`make run`, as a person meets it: on a terminal, ended by Ctrl-C."""

from __future__ import annotations

import os
import pty
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import network
from tests.patience import HANG

PROJECT = Path(__file__).resolve().parents[2]
CTRL_C = b"\x03"


@contextmanager
def on_terminal(*argv: str) -> Iterator[tuple[int, int]]:
    """(pid, the terminal's other end) of a program that has a terminal of its own; ended, however the block ends."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(PROJECT)
        os.execvp(argv[0], argv)
    try:
        yield pid, terminal
    finally:
        os.close(terminal)  # hangs up, so that whatever is left in the foreground ends
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass


def rest(terminal: int) -> str:
    """Everything said from now on until nobody has the terminal open any more."""
    said = b""
    try:
        while chunk := os.read(terminal, 65536):
            said += chunk
    except OSError:  # what Linux says instead of end of file
        pass
    return said.decode(errors="replace")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def wait_for_answer(port: int, pid: int, terminal: int, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if os.waitpid(pid, os.WNOHANG) != (0, 0):
            pytest.fail(f"make ended:\n{rest(terminal)}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=HANG) as answer:
                assert answer.status == 200
                return
        except OSError:
            time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    pytest.fail(f"nothing served in {seconds} s:\n{rest(terminal)}")


def test_run() -> None:
    """`make run` serves the example; Ctrl-C ends it with status 0, leaving nobody on the port."""
    subprocess.run(["make", "-s", "build/hello-venv/ready", "build/clusterd"], cwd=PROJECT, check=True)
    with network.own_if_can_be():
        port = free_port()
        with on_terminal("make", "run", f"LISTEN=127.0.0.1:{port}") as (pid, terminal):
            wait_for_answer(port, pid, terminal, HANG)
            os.write(terminal, CTRL_C)
            said = rest(terminal)
            _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0, said
        assert "Error" not in said and "Traceback" not in said
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=HANG)


PROGRAM = """
import signal, sys, time

for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: sys.exit(number))
print("up", flush=True)
while True:
    time.sleep(0.1)  # not for ever: one that comes just before is seen after it
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_foreground_passes_signals_on(number: int) -> None:
    """Without a terminal, a signal to what `make run` starts the program with reaches the program, once."""
    argv = [PROJECT / "packaging/foreground", sys.executable, "-c", PROGRAM]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, start_new_session=True) as process:
        assert process.stdout and process.stdout.readline() == b"up\n"
        process.send_signal(number)
        assert process.wait(HANG) == number


def test_foreground_gives_the_terminal_back() -> None:
    """On a terminal Ctrl-C is the program's alone: who started it goes on, and may read from the terminal again."""
    script = f"packaging/foreground {sys.executable} -c '{PROGRAM}'; echo left $?; read -r line; echo read $line"
    with on_terminal("/bin/bash", "-c", f"trap 'echo interrupted' INT; {script}") as (pid, terminal):
        said = b""
        while b"up" not in said:
            said += os.read(terminal, 4096)
        os.write(terminal, CTRL_C)
        os.write(terminal, b"on\n")
        text = rest(terminal)
        os.waitpid(pid, 0)
    assert "left 2" in text and "read on" in text and "interrupted" not in text

"""Clients of the control socket that mean no good, at a living master: everybody else is answered as ever."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lacking import lacking
from tests.patience import HANG
from tests.run.foreground import Foreground

CLIENT = """
import itertools, os, socket, sys, time

path, manner, user = sys.argv[1], sys.argv[2], int(sys.argv[3])
if user:
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
CALL = b'{"method": "io.clusterd.Status"}\\0'


def connected():
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    return sock


def reads_nothing():
    socks = [connected() for _ in range(8 if user else 20)]
    for sock in socks:
        sock.setblocking(False)
    while True:
        for sock in socks:
            try:
                sock.send(CALL * 10)
            except BlockingIOError:
                pass
            except OSError:  # cut off: it comes again
                socks[socks.index(sock)] = connected()
        yield
        time.sleep(0.001)


def drips():
    socks = [connected() for _ in range(8 if user else 20)]
    for byte in itertools.cycle(b'{"method": "'):
        for sock in socks:
            sock.send(bytes([byte]))
        yield
        time.sleep(0.05)


def floods():
    socks = [connected() for _ in range(8 if user else 20)]
    while True:
        for sock in socks:
            sock.sendall(CALL)
        for sock in socks:
            sock.recv(1 << 20)
        yield


def comes_and_goes():
    while True:
        with connected() as sock:
            try:
                sock.sendall(CALL)
            except OSError:  # one too many
                pass
        yield


for count, _ in enumerate(globals()[manner]()):
    if count == 5:
        print("under way", flush=True)
"""
SECONDS = 3.0


@pytest.fixture
def run() -> Iterator[Foreground]:
    with Foreground(workers=2) as made:
        made.start()
        for directory in (made.directory, made.runtime):
            directory.chmod(0o755)  # as the units' is
        yield made


@contextlib.contextmanager
def client(run: Foreground, manner: str, user: int) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-I", "-c", CLIENT, run.control, manner, str(user)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"under way\n"
            yield process
        finally:
            process.kill()


def asked(run: Foreground) -> list[float]:
    """How long each of as many calls as fit into a while took, one after the other, in seconds."""
    times = []
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        since = time.monotonic()
        assert run.status()["state"] in ("serving", "degraded")
        times.append(time.monotonic() - since)
    return times


def own(pid: int) -> int:
    """Bytes that no other process has."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Private_Dirty:"))


@pytest.mark.proof
@pytest.mark.parametrize("user", [0, 65534], ids=["root", "stranger"])
@pytest.mark.parametrize("manner", ["reads_nothing", "drips", "floods", "comes_and_goes"])
def test_bad_clients(run: Foreground, manner: str, user: int, record_property: pytest.RecordProperty) -> None:
    """One that leaves its answers, sends a byte now and then, calls without end, or comes and goes: the administrator
    is answered, a worker that dies is followed, and the master keeps nothing of it."""
    if user and os.geteuid():
        lacking("another user can only be tried by root")
    master = run.status()["master"]["pid"]
    alone = asked(run)
    before = own(master)
    with client(run, manner, user) as bad:
        beside = asked(run)
        old = run.pids()[0]
        os.kill(old, signal.SIGKILL)
        run.wait_for("its successor", lambda: run.at_rest(gone=old))
        assert bad.poll() is None
        assert own(master) - before < 12 << 20
    ratio = statistics.median(beside) / statistics.median(alone)
    told = {"median": round(ratio, 1), "worst": round(max(beside), 3), "calls": len(beside), "alone": len(alone)}
    record_property("beside", json.dumps(told))
    assert max(beside) < HANG / 10, told
    assert run.status()["master"]["pid"] == master

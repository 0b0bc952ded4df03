"""Bounded waiting, and looks at what a test waits for."""

from __future__ import annotations

import os
import select
import socket
import struct
import subprocess
import time
from collections.abc import Callable

from clusterd.shell.sockets import borrowed
from tests.patience import HANG

PATIENCE = HANG

Spawn = Callable[..., "subprocess.Popen[bytes]"]


def until(condition: Callable[[], object], what: str = "the condition") -> None:
    """Wait for a property nobody can be woken for: the last resort."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"{what} did not come true in {PATIENCE:g} s"
        time.sleep(0.005)


def readable(fd: int, timeout: float = PATIENCE) -> bool:
    """Wait until `fd` is readable."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(timeout * 1000))


def line(stream: object) -> str:
    """One line of a child's output, within PATIENCE; fails when there is none."""
    fd = stream.fileno()  # type: ignore[attr-defined]
    got = b""
    while not got.endswith(b"\n"):
        assert readable(fd), f"no whole line came, only {got!r}"
        data = os.read(fd, 1)
        assert data, f"the output ended after {got!r}"
        got += data
    return got.decode().rstrip("\n")


def queue_length(fd: int) -> int:
    """Connections that wait on the TCP listener to be accepted: the kernel tells in tcpi_unacked."""
    with borrowed(fd) as sock:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return int(struct.unpack_from("=I", info, 24)[0])

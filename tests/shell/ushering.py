"""An usher as a process, and who serves and asks on real slots."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Callable, Iterator

from clusterd.balance.program import program
from clusterd.shell import reuseport
from clusterd.shell.listeners import Slots
from clusterd.worker.wire import Wire
from tests.shell.waiting import PATIENCE, Spawn

START = """
import sys
from clusterd import usher
usher.IDLE = float(sys.argv[2])
usher.HEAD = usher.LINGER = usher.CONNECT = float(sys.argv[3])
usher.FINISH = float(sys.argv[4])
sys.exit(usher.main([sys.argv[1]]))
"""
FEW = """
import asyncio
import os
import resource
import sys
import time
from clusterd import usher

resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
"""
"""Before it: descriptors for few relays."""
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class Usher:
    """The process, and the master's end of its wire."""

    def __init__(
        self,
        python: Spawn,
        idle: float = 60.0,
        finish: float = PATIENCE,
        connect: float = PATIENCE,
        text: str = START,
        **options: object,
    ) -> None:
        ours, theirs = socket.socketpair()
        ours.settimeout(PATIENCE)
        arguments = map(str, (theirs.fileno(), idle, connect, finish))
        self.child = python(text, *arguments, pass_fds=[theirs.fileno()], **options)
        theirs.close()
        self.wire = Wire(ours)

    def task(self, mode: str, fds: list[int], **more: object) -> None:
        self.wire.send({"op": "usher", "mode": mode, "slots": [], **more}, fds)

    def status(self) -> int:
        return self.child.wait(PATIENCE)


@contextlib.contextmanager
def serve(listener: socket.socket, by: Callable[[socket.socket], None]) -> Iterator[None]:
    """Serve a slot by a function, a thread a connection; closes the listener."""
    threads: list[threading.Thread] = []
    waking, wake = socket.socketpair()

    def accepting() -> None:
        while True:
            ready, _, _ = select.select([listener, waking], [], [])
            if waking in ready:
                return
            with contextlib.suppress(BlockingIOError):
                sock, _ = listener.accept()
                sock.settimeout(PATIENCE)
                threads.append(threading.Thread(target=served, args=(sock,)))
                threads[-1].start()

    def served(sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            by(sock)

    threads.append(threading.Thread(target=accepting))
    threads[0].start()
    yield
    wake.close()
    for thread in threads:
        thread.join(PATIENCE)
    listener.close()
    waking.close()


def steer(slots: Slots, *live: int, group: int = 0) -> None:
    reuseport.attach(slots.groups[group].fds[0], program("random", live))


def client(slots: Slots) -> socket.socket:
    sock = socket.create_connection((slots.groups[0].host, slots.groups[0].port), PATIENCE)
    sock.settimeout(PATIENCE)
    return sock


def rest(sock: socket.socket) -> bytes:
    """Everything up to the end of file."""
    got = b""
    while data := sock.recv(65536):
        got += data
    return got


def echo(sock: socket.socket) -> None:
    """Answer only when the client has said that it has sent everything."""
    sock.sendall(b"echo:" + rest(sock))

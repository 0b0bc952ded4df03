"""Plays the master: a real zygote process at the other end of a real socketpair, real listeners, real descriptors."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clusterd.worker.wire import Closed, Wire
from tests.patience import HANG

DEADLINE = HANG

Message = dict[str, Any]

HELD = "/sleep?seconds=0&held=1"
"""What is answered when there is a file `go` in the application's directory; see `begun` in conftest.py."""
BEGUN = """
import os


def tell_begun():
    if os.path.exists("begun"):
        fd = os.open("begun", os.O_RDWR)  # so that nobody is waited for
        os.write(fd, b"1")
        os.close(fd)


"""
HELD_ASGI = f"""{BEGUN}
without = app


async def app(scope, receive, send):
    if b"held" in scope.get("query_string", b""):
        tell_begun()
        while not os.path.exists("go"):
            await asyncio.sleep(0.01)
    await without(scope, receive, send)
"""
HELD_WSGI = f"""{BEGUN}
without = app


def app(environ, start_response):
    if "held" in environ["QUERY_STRING"]:
        tell_begun()
        while not os.path.exists("go"):
            time.sleep(0.01)
    return without(environ, start_response)
"""


class Peer:
    """The master's end of a channel: messages are waited for, one at a time, in order."""

    def __init__(self, sock: socket.socket) -> None:
        self.wire = Wire(sock)
        self._queue: list[tuple[Message, list[int]]] = []
        self.closed = False

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        self.wire.send(message, fds)

    def next(self, timeout: float = DEADLINE) -> tuple[Message, list[int]]:
        end = time.monotonic() + timeout
        while not self._queue:
            poller = select.poll()
            poller.register(self.wire, select.POLLIN)
            if not poller.poll(max(0.0, end - time.monotonic()) * 1000):
                raise AssertionError(f"nothing came within {timeout} s")
            self._queue += self.wire.receive()
        return self._queue.pop(0)

    def expect(self, event: str, timeout: float = DEADLINE) -> Message:
        message, fds = self.next(timeout)
        while message.get("event") == "awaits" != event:  # what a start waits for is of interest to those who say so
            message, fds = self.next(timeout)
        for fd in fds:
            os.close(fd)
        assert message.get("event") == event, f"expected '{event}', got {message}"
        return message

    def at_end(self, timeout: float = DEADLINE) -> bool:
        """Whether the other end closes within `timeout`, with nothing said before."""
        try:
            message, _ = self.next(timeout)
        except Closed:
            return True
        raise AssertionError(f"expected the end, got {message}")

    def close(self) -> None:
        self.wire.close()


class Worker:
    """A worker as its master sees it: pidfd, channel, and what it writes."""

    def __init__(self, number: int, slot: int, peer: Peer | None, output: int) -> None:
        self.number = number
        self.slot = slot
        self._peer = peer
        self._output = output
        self.pid = 0
        self.pidfd = -1

    @property
    def peer(self) -> Peer:
        assert self._peer is not None
        return self._peer

    def gone(self, timeout: float = DEADLINE) -> bool:
        poller = select.poll()
        poller.register(self.pidfd, select.POLLIN)
        return bool(poller.poll(timeout * 1000))

    def output(self) -> str:
        """Everything it wrote until it was gone."""
        assert self.gone()
        os.set_blocking(self._output, False)
        parts = []
        while True:
            try:
                part = os.read(self._output, 1 << 16)
            except BlockingIOError:
                break
            if not part:
                break
            parts.append(part)
        return b"".join(parts).decode()

    def go(self) -> Message:
        self.peer.send({"op": "go"})
        return self.peer.expect("ready")

    def told(self) -> Message:
        """What a run of a task says at its end: between two NULs, lest a master that died has read the half of it."""
        said = b""
        while said.count(b"\0") < 2:
            said += self.peer.wire.sock.recv(1 << 16)
        message: Message = json.loads(said.strip(b"\0"))
        return message

    def serve(self) -> None:
        self.peer.send({"op": "serve"})
        self.peer.expect("serving")

    def drain(self, linger: float = 0.0, timeout: float = 60.0) -> None:
        """A later order hastens it: no test has to be done with kept connections before a linger ends by itself."""
        self.peer.send({"op": "drain", "linger": linger, "timeout": timeout})

    def drained(self) -> Message:
        self.peer.expect("draining")
        message = self.peer.expect("drained")
        assert self.gone()
        return message

    def close(self) -> None:
        if self._peer is not None:
            self._peer.close()
        if self.pidfd >= 0:
            os.close(self.pidfd)
        os.close(self._output)


class Master:
    """Starts one zygote; `close` leaves nothing behind."""

    def __init__(
        self, lib: Path, directory: Path, python: str = sys.executable, env: dict[str, str] | None = None
    ) -> None:
        self.directory = directory
        ours, theirs = socket.socketpair()
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "JOURNAL_STREAM")}
        environment.update(env or {})
        self.process = subprocess.Popen(
            [python, str(lib / "clusterd_zygote.py"), str(theirs.fileno())],
            cwd=directory,
            env=environment,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        self.peer = Peer(ours)
        self.zygote = self.peer
        self.workers: list[Worker] = []
        self._peers = [self.peer]
        self._pidfds: list[int] = []
        self._numbers = 0

    def boot(self, **changes: Any) -> Message:
        """Boot and wait: the "up" or "failed" message."""
        self.peer.send(boot_message(self.directory, **changes))
        message, _ = self.peer.next()
        return message

    def up(self, **changes: Any) -> Message:
        message = self.boot(**changes)
        assert message["event"] == "up", message
        return message

    def fork(
        self, listeners: Sequence[socket.socket], slot: int = 0, bus: socket.socket | None = None, **extra: Any
    ) -> Worker:
        """Fork a worker and wait for its pidfd; it has not been told to go. `bus` is its end of one."""
        self._numbers += 1
        ours, theirs = socket.socketpair()
        reader, writer = os.pipe()
        worker = Worker(self._numbers, slot, Peer(ours), reader)
        self.workers.append(worker)
        kinds = ["unix" if s.family == socket.AF_UNIX else "tcp" for s in listeners]
        message = {
            "op": "fork", "worker": worker.number, "slot": slot, "slots": 4, "cgroup": None, "oom-score-adj": 200,
            "listeners": kinds, "notify": None, **extra,
        }  # fmt: skip
        given = [*listeners, *([bus] if bus is not None else [])]
        self.zygote.send(message | {"bus": bus is not None}, [theirs.fileno(), writer, *(s.fileno() for s in given)])
        theirs.close()
        os.close(writer)
        answer, fds = self.zygote.next()
        assert answer["event"] == "forked" and answer["worker"] == worker.number, answer
        worker.pid, worker.pidfd = answer["pid"], fds[0]
        return worker

    def serving(self, listeners: Sequence[socket.socket], slot: int = 0, **extra: Any) -> Worker:
        worker = self.fork(listeners, slot, **extra)
        worker.go()
        worker.serve()
        return worker

    def twin(self) -> tuple[Peer, int, int]:
        """Channel, pid and pidfd of a new twin."""
        ours, theirs = socket.socketpair()
        self.zygote.send({"op": "twin", "cgroup": None}, [theirs.fileno()])
        theirs.close()
        message, fds = self.zygote.next()
        assert message["event"] == "twin", message
        peer = Peer(ours)
        self._peers.append(peer)
        self._pidfds += fds
        return peer, message["pid"], fds[0]

    def exited(self, worker: Worker) -> int:
        """The wait status its zygote reports."""
        message = self.zygote.expect("exited")
        assert (message["worker"], message["pid"]) == (worker.number, worker.pid), message
        status: int = message["status"]
        return status

    def close(self) -> None:
        for worker in self.workers:
            if worker.pidfd >= 0 and not worker.gone(0):
                signal_pidfd(worker.pidfd)
                worker.gone()
            worker.close()
        for peer in self._peers:
            peer.close()
        for pidfd in self._pidfds:
            signal_pidfd(pidfd)
            os.close(pidfd)
        if self.process.poll() is None:
            try:
                self.process.wait(HANG)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()


def boot_message(directory: Path, **changes: Any) -> Message:
    message: Message = {
        "op": "boot", "generation": 3, "kind": "app", "app": "hello:app", "command": [], "directory": str(directory),
        "engine": "auto", "preload": "auto", "cgroup": None, "name": "hello",
        "http": {"keep-alive": 60.0, "forwarded-allow-ips": ["127.0.0.1"], "root-path": "", "max-connections": None},
        "health": {"path": None}, "log": {"access": False, "level": "info"}, "oom-score-adj": 100, "ready": "notify",
    }  # fmt: skip
    message.update(changes)
    return message


def signal_pidfd(pidfd: int, number: int = 9) -> None:
    import signal

    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        pass


def listeners(count: int, port: int = 0) -> list[socket.socket]:
    """`count` SO_REUSEPORT listeners of one address, as systemd makes them: non-blocking, TCP_NODELAY."""
    made: list[socket.socket] = []
    for _ in range(count):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.bind(("127.0.0.1", port))
        sock.listen(4096)
        sock.setblocking(False)
        port = sock.getsockname()[1]
        made.append(sock)
    return made


class Client:
    """A kept HTTP/1.1 connection, byte by byte, so that a test can hold it where it wants."""

    def __init__(self, address: Any) -> None:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.sock = socket.socket(family)
        self.sock.settimeout(DEADLINE)
        self.sock.connect(address)
        self._data = b""

    def ask(self, path: str = "/", headers: str = "", method: str = "GET") -> None:
        self.sock.sendall(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n".encode())

    def read_head(self) -> tuple[int, dict[str, str]]:
        while b"\r\n\r\n" not in self._data:
            part = self.sock.recv(1 << 16)
            if not part:
                raise AssertionError(f"connection closed without a response ({self._data!r})")
            self._data += part
        head, _, self._data = self._data.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        pairs = [line.split(": ", 1) for line in lines]
        return int(status.split()[1]), {name.lower(): value for name, value in pairs}

    def read(self) -> tuple[int, dict[str, str], str]:
        status, headers = self.read_head()
        return status, headers, self.read_body(int(headers.get("content-length", 0))).decode()

    def read_body(self, length: int) -> bytes:
        parts = [self._data]
        while (lacking := length - sum(map(len, parts))) > 0:
            part = self.sock.recv(min(lacking, 1 << 20))
            assert part, "connection closed within a response"
            parts.append(part)
        whole = b"".join(parts)
        self._data = whole[length:]
        return whole[:length]

    def get(self, path: str = "/") -> tuple[int, dict[str, str], str]:
        self.ask(path)
        return self.read()

    def ended(self) -> bool:
        """Whether the server closes it, with nothing more said."""
        return self._data == b"" and self.sock.recv(1) == b""

    def close(self) -> None:
        self.sock.close()

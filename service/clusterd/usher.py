"""The usher: sees to connections in slots that no worker serves. The only proxy there is, and only while needed.

It accepts on the slots it is given. "relay": it connects to the same address, where the kernel steers to a slot that is
served, and passes the bytes on. "refuse": nothing is served, and it answers 503. One master at the other end of the
wire; end of file there means that nobody wants it any more.

    master: {"op": "usher", "mode": "relay" | "refuse", "kind": "http" | "close", "retry-after": seconds,
             "slots": [...], "target": [...], "near": bool} + fds, the listeners to accept on; the next such message
             replaces it all.
             "target" names for each listener where to connect ("127.0.0.1:8000", "[::1]:8001", a path); without it
             that is where the client connected to. "near": only loopback addresses may be reached ([sandbox] network).
             "slots" is for people.
            {"op": "end"}
    usher:  {"event": "idle"} each time nothing has happened for 5 seconds and no connection is open
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import socket
import struct
import sys
from collections.abc import Sequence
from typing import Any

from clusterd.worker.wire import Wire, WireError

MAX_OPEN = 512
"""Connections open at once; more wait in their queue."""
MAX_HEAD = 16 << 10
MAX_LINGER = 1 << 20
"""Bytes of a refused request that are read and thrown away, so that the client gets the answer and no reset."""
BUFFER = 64 << 10
CONNECT, HEAD, LINGER, IDLE, FINISH = 10.0, 5.0, 2.0, 5.0, 30.0
"""Seconds: to connect; for a request's head; for the rest of it; until idle is told; for open relays at the end."""

_RESET = struct.pack("ii", 1, 0)
Address = tuple[Any, ...] | str


class Usher:
    """Everything happens in one event loop; `run` returns when the master is gone or says end."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.mode = "refuse"
        self.kind = "http"
        self.retry_after = 5
        self.near = False
        self.listeners: dict[socket.socket, Address | None] = {}
        self.open: set[asyncio.Task[None]] = set()
        self.outgoing: set[tuple[str, int]] = set()
        self.ended = asyncio.Event()
        self.touched = 0.0

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        self.touched = loop.time()
        self.wire.sock.setblocking(False)
        loop.add_reader(self.wire.fileno(), self._receive)
        self._receive()
        while not self.ended.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.ended.wait(), IDLE)
            if not self.open and loop.time() - self.touched >= IDLE:
                self._tell_idle()
        loop.remove_reader(self.wire.fileno())
        self._watch([], [])
        if self.open:
            await asyncio.wait(self.open, timeout=FINISH)
        for task in self.open:
            task.cancel()
        await asyncio.gather(*self.open, return_exceptions=True)

    def _receive(self) -> None:
        try:
            for message, fds in self.wire.receive():
                if message.get("op") == "usher":
                    self._task(message, fds)
                    continue
                for fd in fds:
                    os.close(fd)
                if message.get("op") == "end":
                    self._end()
        except WireError:
            self._end()

    def _end(self) -> None:
        """At once, not when `run` wakes up: a slot that has a worker again is the worker's."""
        self._watch([], [])
        self.ended.set()

    def _task(self, message: dict[str, Any], fds: list[int]) -> None:
        self.mode = "relay" if message.get("mode") == "relay" else "refuse"
        self.kind = "close" if message.get("kind") == "close" else "http"
        self.retry_after = int(message.get("retry-after", 5))
        self.near = bool(message.get("near"))
        self.touched = asyncio.get_running_loop().time()
        self._watch(fds, message.get("target") or [])

    def _watch(self, fds: Sequence[int], target: Sequence[str]) -> None:
        """Accept on these, and on no others."""
        loop = asyncio.get_running_loop()
        for old in self.listeners:
            loop.remove_reader(old.fileno())
            old.close()
        self.listeners = {}
        for i, fd in enumerate(fds):
            listener = socket.socket(fileno=fd)
            listener.setblocking(False)
            self.listeners[listener] = parse(target[i]) if i < len(target) else None
            loop.add_reader(listener.fileno(), self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(64):
            if len(self.open) >= MAX_OPEN:
                # Level-triggered: without this the loop would spin until a relay ends.
                for other in self.listeners:
                    loop.remove_reader(other.fileno())
                return
            try:
                client, peer = listener.accept()
            except OSError:  # nothing left, or gone again
                return
            client.setblocking(False)
            self.touched = loop.time()
            task = loop.create_task(self._serve(client, peer, self.listeners[listener], _is_wild(listener)))
            self.open.add(task)
            task.add_done_callback(self._closed)

    def _closed(self, task: asyncio.Task[None]) -> None:
        loop = asyncio.get_running_loop()
        self.open.discard(task)
        self.touched = loop.time()
        if len(self.open) == MAX_OPEN - 1:
            for listener in self.listeners:
                loop.add_reader(listener.fileno(), self._accept, listener)

    async def _serve(self, client: socket.socket, peer: Address, target: Address | None, wild: bool) -> None:
        with client:
            # Our own connection, steered back to us: nothing is served after all. Relaying it would go round for ever.
            ours = isinstance(peer, tuple) and _plain(peer) in self.outgoing
            source: Address | None = None
            target = target or _reached(client)
            if self.near and isinstance(target, tuple) and wild:
                target, source = _loopback(target), (target[0], 0)
            if self.mode == "refuse" or ours or target is None:
                await self._refuse(client)
                return
            server = _socket_for(target)
            name: tuple[str, int] | None = None
            with server:
                try:
                    server.setblocking(False)
                    if source is not None:
                        server.bind(source)
                    number = server.connect_ex(target)
                    if number not in (0, errno.EINPROGRESS):
                        raise OSError(number, os.strerror(number))
                    if not isinstance(target, str):
                        # Known as soon as connect() returns, before the other end can be accepted.
                        name = _plain(server.getsockname())
                        self.outgoing.add(name)
                    async with asyncio.timeout(CONNECT):
                        await _writable(server)
                except OSError:  # TimeoutError is one
                    await self._refuse(client)
                else:
                    await _relay(client, server)
                finally:
                    if name is not None:
                        self.outgoing.discard(name)

    async def _refuse(self, client: socket.socket) -> None:
        """503 with Retry-After, in a way that the client can read it: a reset would overtake the answer."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            if self.kind == "http":
                head = b""
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(HEAD):
                        while b"\r\n\r\n" not in head and len(head) < MAX_HEAD and may_be_http(head):
                            data = await loop.sock_recv(client, 4096)
                            if not data:
                                break
                            head += data
                if not head or not may_be_http(head):
                    return  # whatever it speaks: hung up on is what it understands
                async with asyncio.timeout(HEAD):
                    await loop.sock_sendall(client, answer(head, self.retry_after))
            client.shutdown(socket.SHUT_WR)
            left = MAX_LINGER
            async with asyncio.timeout(LINGER):
                while left > 0 and (data := await loop.sock_recv(client, BUFFER)):
                    left -= len(data)

    def _tell_idle(self) -> None:
        try:
            self.wire.send({"event": "idle"})
        except WireError:
            self._end()


def may_be_http(head: bytes) -> bool:
    """Whether a request of HTTP/1 can begin so: a method, in capitals, and a space."""
    return re.match(rb"[A-Z]{0,20}$|[A-Z]{1,20} ", head) is not None


def answer(head: bytes, retry_after: int) -> bytes:
    """The response for a request that begins with `head`."""
    body = b"503 Service Unavailable: the application is not serving at the moment.\n"
    return (
        b"HTTP/1.1 503 Service Unavailable\r\n"
        b"Retry-After: %d\r\n"
        b"Cache-Control: no-store\r\n"
        b"Content-Type: text/plain; charset=utf-8\r\n"
        b"Content-Length: %d\r\n"
        b"Connection: close\r\n\r\n" % (retry_after, len(body))
    ) + (b"" if head.startswith(b"HEAD ") else body)


def parse(text: str) -> Address:
    """An address as clusterd writes it: "127.0.0.1:8000", "[::1]:8001", "/run/x.sock"."""
    if text.startswith(("/", "@")):
        return text.replace("@", "\0", 1) if text.startswith("@") else text
    host, _, port = text.rpartition(":")
    return _reachable((host.strip("[]"), int(port)))


def _reached(client: socket.socket) -> Address | None:
    """Where `client` connected to, which any slot of the group is; None for a UNIX socket, which has no other slot.

    Not the loopback address for a listener on all of them: the worker would take a stranger for a client of this very
    machine, whose X-Forwarded-For is believed. From an address of the machine to itself, that address is the sender.
    """
    return client.getsockname() if client.family in (socket.AF_INET, socket.AF_INET6) else None


def _is_wild(listener: socket.socket) -> bool:
    return listener.family != socket.AF_UNIX and listener.getsockname()[0] in ("0.0.0.0", "::")


def _loopback(name: tuple[Any, ...]) -> Address:
    """The loopback address of the kind of `name`: who listens on all addresses is there too."""
    if ":" not in name[0]:
        return ("127.0.0.1", name[1])
    return ("::ffff:127.0.0.1" if name[0].startswith("::ffff:") else "::1", name[1])


def _reachable(name: tuple[Any, ...]) -> Address:
    """A wildcard stands for the loopback address of its kind."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(name[0], name[0])
    return (host, *name[1:])


def _plain(name: tuple[Any, ...]) -> tuple[str, int]:
    """(host, port), the same whether IPv4 is seen through an IPv6 socket or not."""
    return name[0].removeprefix("::ffff:"), name[1]


def _socket_for(target: Address) -> socket.socket:
    if isinstance(target, str):
        return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    return socket.socket(socket.AF_INET6 if ":" in target[0] else socket.AF_INET, socket.SOCK_STREAM)


async def _writable(sock: socket.socket) -> None:
    """Wait until connect() has come to an end; raises its OSError."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    loop.add_writer(sock.fileno(), _finish, done)
    try:
        await done
    finally:
        loop.remove_writer(sock.fileno())
    error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:
        raise OSError(error, os.strerror(error))


def _finish(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)


async def _relay(client: socket.socket, server: socket.socket) -> None:
    """Both directions until both are at their end. A reset on one side is passed on as a reset, never as a clean end:
    without a length the client would take half an answer for the whole."""
    for sock in (client, server):
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_pass(client, server))
            group.create_task(_pass(server, client))
    except* OSError:
        for sock in (client, server):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


async def _pass(source: socket.socket, sink: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    while data := await loop.sock_recv(source, BUFFER):
        await loop.sock_sendall(sink, data)
    # Half-close: "I have sent everything" is passed on, and the answer still comes.
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def main(arguments: Sequence[str]) -> int:
    """`clusterd usher FD`, started by a master. Returns the exit status."""
    match list(arguments):
        case [number] if number.isdigit():
            os.set_inheritable(int(number), False)
            asyncio.run(_main(int(number)))
            return 0
    print("clusterd: 'clusterd usher FD' is what a master runs for slots without a worker", file=sys.stderr)
    return 2


async def _main(fd: int) -> None:
    await Usher(Wire(socket.socket(fileno=fd))).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

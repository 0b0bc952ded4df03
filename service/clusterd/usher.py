"""The usher: sees to connections in slots that no worker serves. The only proxy there is, and only while needed.

It accepts on the slots it is given. "relay": it connects to the same address, where the kernel steers to a slot that is
served, and passes the bytes on. A kernel that does not steer may choose a slot that nobody else serves. There the usher
accepts its own connection, takes back what it has sent, which nobody else has read, and connects again. "refuse":
nothing is served, and it answers 503. One master at the other end of the wire; end of file there means that nobody is
left who would stop it: it leaves within 30 seconds.

    master: {"op": "usher", "mode": "relay" | "refuse", "kind": "http" | "close", "retry-after": seconds,
             "slots": [...], "target": [...], "near": bool} + fds, the listeners to accept on; the next such message
             replaces it all.
             "target" names for each listener where to connect ("127.0.0.1:8000", "[::1]:8001", a path); without it
             that is where the client connected to. "near": only loopback addresses may be reached ([sandbox] network).
             "slots" is for people.
            {"op": "more", "target": [...]} + fds, further listeners for the same: one message carries no more than 253
            {"op": "end"}     accepts nothing more, and leaves when the last relay has ended
    usher:  {"event": "idle"} each time nothing has happened for 5 seconds and no connection is open
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import resource
import socket
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from clusterd.relay import BUFFER, CLEAN, Relay, connected
from clusterd.worker.wire import Wire, WireError

MAX_OPEN = 512
"""Relays at once, where the limit of descriptors allows so many; more wait in their queue."""
SPARE = 32
"""Descriptors beside those of listeners and connections."""
ATTEMPTS, EACH = 64, 16
"""Connections to find a slot that somebody else serves: at least so many, and so many for each slot that we have. Where
one more slot is served than we have, and the kernel chooses by chance, one search in ten million is in vain."""
AGAIN = 1.0
"""Seconds until accept() is tried again when there was no room for a connection, unless one ends before."""
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
MAX_HEAD = 16 << 10
MAX_LINGER = 1 << 20
"""Bytes of a refused request that are read and thrown away, so that the client gets the answer and no reset."""
CONNECT, HEAD, LINGER, IDLE, FINISH = 10.0, 5.0, 2.0, 5.0, 30.0
"""Seconds: to connect; for a request's head; for the rest of it; until idle is told; for open relays when
nobody is left at the other end of the wire."""

Address = tuple[Any, ...] | str
Link = tuple[tuple[str, int], tuple[str, int]]
"""From where to where a connection goes: there is one at a time."""


class Usher:
    """Everything happens in one event loop; `run` returns when the master is gone or says end, and relays are over."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.mode = "refuse"
        self.kind = "http"
        self.retry_after = 5
        self.near = False
        self.listeners: dict[socket.socket, Address | None] = {}
        self.open: set[asyncio.Task[None]] = set()
        self.limit = 1
        self.paused = False
        """Nothing is accepted: level-triggered readers would spin until a connection ends."""
        self.again: asyncio.TimerHandle | None = None
        self.relaying = 0
        self.waiting: deque[asyncio.Future[None]] = deque()
        """For a place among the relays."""
        self.outgoing: dict[Link, asyncio.Future[socket.socket]] = {}
        """Our connections that nobody has answered on, each with a future for its other end, should we accept it."""
        self.ended = asyncio.Event()
        self.alone = asyncio.Event()
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
        await self._finish()

    async def _finish(self) -> None:
        """No limit while there is a master, or will be one: it kills us at a stop, and until then workers go on too."""
        alone = asyncio.create_task(self.alone.wait())
        while self.open and not self.alone.is_set():
            await asyncio.wait({alone, *self.open}, return_when=asyncio.FIRST_COMPLETED)
        if self.open:
            await asyncio.wait(self.open, timeout=FINISH)
        rest = {alone, *self.open}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    def _receive(self) -> None:
        try:
            for message, fds in self.wire.receive():
                self._hear(message, fds)
        except WireError:
            asyncio.get_running_loop().remove_reader(self.wire.fileno())
            self.alone.set()
            self._end()

    def _hear(self, message: dict[str, Any], fds: list[int]) -> None:
        match message.get("op"):
            case "usher" if not self.ended.is_set():
                self._task(message, fds)
            case "more" if not self.ended.is_set():
                self._watch(fds, message.get("target") or [])
            case op:
                for fd in fds:
                    os.close(fd)
                if op == "end":
                    self._end()

    def _end(self) -> None:
        """At once, not when `run` wakes up: a slot that has a worker again is the worker's."""
        self._unwatch()
        self.ended.set()

    def _task(self, message: dict[str, Any], fds: list[int]) -> None:
        self.mode = "relay" if message.get("mode") == "relay" else "refuse"
        self.kind = "close" if message.get("kind") == "close" else "http"
        self.retry_after = int(message.get("retry-after", 5))
        self.near = bool(message.get("near"))
        self.touched = asyncio.get_running_loop().time()
        self._unwatch()
        self._watch(fds, message.get("target") or [])

    def _unwatch(self) -> None:
        loop = asyncio.get_running_loop()
        for old in self.listeners:
            loop.remove_reader(old.fileno())
            old.close()
        self.listeners = {}

    def _watch(self, fds: Sequence[int], target: Sequence[str]) -> None:
        """Accept on these too."""
        loop = asyncio.get_running_loop()
        for i, fd in enumerate(fds):
            listener = socket.socket(fileno=fd)
            listener.setblocking(False)
            self.listeners[listener] = parse(target[i]) if i < len(target) else None
            if not self.paused:
                loop.add_reader(listener.fileno(), self._accept, listener)
        # Two for a relay, and one for another client that waits for a place, or for the other end of our connection.
        self.limit = max(1, min(MAX_OPEN, (_descriptors() - len(self.listeners) - SPARE) // 3))

    def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(64):
            if self._full():
                self._pause()
                return
            try:
                client, peer = listener.accept()
            except OSError as e:  # nothing left, or gone again
                if e.errno in _NO_ROOM:
                    self._pause()
                    self.again = loop.call_later(AGAIN, self._try_again)
                return
            client.setblocking(False)
            self.touched = loop.time()
            if isinstance(peer, tuple) and (back := self.outgoing.pop(_link(peer, client.getsockname()), None)):
                back.set_result(client)
                continue
            task = loop.create_task(self._serve(client, self.listeners[listener], _is_wild(listener)))
            self.open.add(task)
            task.add_done_callback(self._closed)

    def _full(self) -> bool:
        """While nobody has answered a connection of ours it may wait to be accepted by us, behind others: they are
        accepted too, and wait here."""
        return len(self.open) >= (2 * self.limit if self.outgoing else self.limit)

    def _pause(self) -> None:
        self.paused = True
        for listener in self.listeners:
            asyncio.get_running_loop().remove_reader(listener.fileno())

    def _try_again(self) -> None:
        self.again = None
        self._resume()

    def _resume(self) -> None:
        if self.paused and not self._full():
            self.paused = False
            if self.again is not None:
                self.again.cancel()
                self.again = None
            for listener in self.listeners:
                asyncio.get_running_loop().add_reader(listener.fileno(), self._accept, listener)

    def _closed(self, task: asyncio.Task[None]) -> None:
        self.open.discard(task)
        self.touched = asyncio.get_running_loop().time()
        self._resume()

    async def _serve(self, client: socket.socket, target: Address | None, wild: bool) -> None:
        with client, contextlib.suppress(OSError):
            relay = Relay(client)
            if not await self._relayed(relay, target or _reached(client), wild):
                await self._refuse(client, bytes(relay.unsent))

    async def _relayed(self, relay: Relay, target: Address | None, wild: bool) -> bool:
        """Pass on to the end; False when nobody was found, and so nobody has read what it may have taken in."""
        source: Address | None = None
        if self.near and isinstance(target, tuple) and wild:
            target, source = _loopback(target), (target[0], 0)
        if self.mode == "refuse" or target is None or not await self._place():
            return False
        self.relaying += 1
        try:
            return await self._search(relay, target, source)
        finally:
            self.relaying -= 1
            if self.waiting:
                self.waiting.popleft().set_result(None)

    async def _place(self) -> bool:
        """Wait for one among the relays. False when it does not come: no more can be accepted, and nothing moves any
        more, since all may wait for connections of ours that wait to be accepted."""
        loop = asyncio.get_running_loop()
        while self.relaying >= self.limit:
            turn: asyncio.Future[None] = loop.create_future()
            self.waiting.append(turn)
            await asyncio.wait({turn}, timeout=CONNECT)
            if not turn.done():
                self.waiting.remove(turn)
                unanswered = len(self.outgoing) >= self.relaying
                if unanswered and self._full() and loop.time() - self.touched >= CONNECT:
                    return False
        return True

    async def _search(self, relay: Relay, target: Address, source: Address | None) -> bool:
        """Each attempt has another source port, and so another slot where the kernel spreads connections itself."""
        loop = asyncio.get_running_loop()
        until = loop.time() + CONNECT
        for _ in range(max(ATTEMPTS, EACH * len(self.listeners))):
            if self.mode == "refuse":
                break
            with contextlib.ExitStack() as stack:
                try:
                    server = stack.enter_context(_socket_for(target))
                    back = stack.enter_context(self._connecting(server, target, source))
                    async with asyncio.timeout_at(until):
                        await connected(server)
                except OSError:  # TimeoutError is one
                    break
                since = loop.time()
                if await relay.run(server, back):
                    return True
                await relay.take_back(server, back.result())
                until += loop.time() - since
        return False

    @contextlib.contextmanager
    def _connecting(
        self, server: socket.socket, target: Address, source: Address | None
    ) -> Iterator[asyncio.Future[socket.socket]]:
        """Begin to connect; is given the future of `outgoing`, which is cancelled once somebody has answered."""
        server.setblocking(False)
        # Or megabytes might have to be taken back. All is on this machine, where more makes nothing faster.
        server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        if source is not None:
            server.bind(source)
        number = server.connect_ex(target)
        if number not in (0, errno.EINPROGRESS):
            raise OSError(number, os.strerror(number))
        back: asyncio.Future[socket.socket] = asyncio.get_running_loop().create_future()
        if isinstance(target, str):
            yield back
            return
        # Known as soon as connect() returns, before the other end can be accepted.
        link = _link(server.getsockname(), target)
        self.outgoing[link] = back
        back.add_done_callback(lambda _: self._answered(link, back))
        if self.again is None:
            self._resume()
        try:
            yield back
        finally:
            self._answered(link, back)
            if back.done() and not back.cancelled():
                back.result().close()

    def _answered(self, link: Link, back: asyncio.Future[socket.socket]) -> None:
        if self.outgoing.get(link) is back:
            del self.outgoing[link]

    async def _refuse(self, client: socket.socket, head: bytes) -> None:
        """503 with Retry-After, in a way that the client can read it: a reset would overtake the answer. `head` is what
        has been read already."""
        loop = asyncio.get_running_loop()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, CLEAN)
        with contextlib.suppress(OSError):
            if self.kind == "http":
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
            self._end()  # the end of file is read in a moment


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
    """(host, port), the same whether IPv4 is seen through an IPv6 socket or not, and by whatever interface."""
    return name[0].removeprefix("::ffff:").partition("%")[0], name[1]


def _link(source: tuple[Any, ...], target: tuple[Any, ...]) -> Link:
    return _plain(source), _plain(target)


def _socket_for(target: Address) -> socket.socket:
    if isinstance(target, str):
        return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    return socket.socket(socket.AF_INET6 if ":" in target[0] else socket.AF_INET, socket.SOCK_STREAM)


def _descriptors() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft != resource.RLIM_INFINITY else 1 << 20


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

"""The workers' bus: what they say to each other, carried. Who hears what is decided in clusterd.bus.

Beside their channels, so that what an application says never holds up an order. Never waits: a turn reads one piece of
each worker, and writes what its socket takes, within a budget.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from clusterd.bus.queue import MAX_WAITING
from clusterd.bus.retained import HALF, Full, Table
from clusterd.bus.router import BRIDGE, Broken, Router
from clusterd.master.context import Context
from clusterd.shell import messages, poll
from clusterd.shell.control import Call
from clusterd.shell.values import Values
from clusterd.worker import topics
from clusterd.worker.frames import PASSED, Frames, compact, encode, text
from clusterd.worker.wire import WireError

VALUES = "values"
"""In the keeper's store: the memfd."""
PIECE = 1 << 16
"""Bytes read of one worker a turn; bytes written to one at once, where messages are small."""
BUDGET = 1 << 20
"""Bytes written to one worker a turn."""
WORKER = re.compile("[0-9]{1,16}")
"""The number of a worker, as text."""
ROOM = 3 << 20
"""Bytes that may wait for a client that listens: below what the control socket lets wait for anybody."""


@dataclass
class Link:
    """One worker's bus."""

    sock: socket.socket
    name: str
    """Of the descriptor in the keeper's store."""
    torn: bool
    """Its next message may be the rest of one whose beginning a master that died has read."""
    frames: Frames = field(default_factory=Frames)
    out: memoryview = field(default_factory=lambda: memoryview(b""))
    """What is being written."""


@dataclass
class Listener:
    """A client of the control socket."""

    call: Call
    topic: str
    lost: int = 0


class Bus:
    def __init__(self, context: Context) -> None:
        self.context = context
        self.router = Router(Table())
        self.links: dict[int, Link] = {}
        self.listeners: list[Listener] = []
        self.heard_state: Callable[[dict[str, Any]], None] = lambda state: None
        """Called with what the bridge says of itself."""
        self._memory: Values | None = None
        if VALUES in context.keeping.fds:
            self._memory = Values(context.keeping.fds[VALUES])
            self.router.table.restore(self._memory.read())

    # members

    def join(self, worker: int, fd: int, name: str, *, adopted: bool = False, first: bytes = b"") -> None:
        """`fd` is our end, and in the keeper's store as `name`, which owns it. Who spoke with another master says again
        what it wants. `first` is what it is told before all else."""
        sock = socket.socket(fileno=fd)
        sock.setblocking(False)
        link = self.links[worker] = Link(sock, name, torn=adopted)
        if worker == BRIDGE:
            link.frames = Frames(PASSED)
        self.router.join(worker)
        self.context.poll.register(fd, poll.READ, ("worker.bus", worker))
        if adopted:
            # The first NUL ends what the dead master may have half written.
            first = b"\0" + encode({"event": "again"})
        if first:
            link.out = memoryview(first)
            self._write(worker)

    def leave(self, worker: int) -> None:
        """It is gone; what it has said has been heard."""
        link = self.links.pop(worker, None)
        if link is not None:
            self.context.poll.unregister(link.sock.fileno())
            link.sock.detach()  # the store owns the descriptor
            self.context.keeping.drop(link.name)
            self.router.leave(worker)
            self._pass_on()

    def last_words(self, worker: int) -> None:
        """It is dead: hear what is still in its socket, which is bounded."""
        while worker in self.links and poll.readable(self.links[worker].sock.fileno()):
            self.on_ready(worker, reading=True)

    # the middle

    def on_ready(self, worker: int, *, reading: bool = False) -> None:
        if worker not in self.links:
            return
        self._write(worker)
        link = self.links[worker]
        if not (reading or self._hears(worker)):
            return
        try:
            data = link.sock.recv(PIECE)
            if not data:
                self.leave(worker)
                return
            for frame in link.frames.feed(data):
                self._take(worker, link, frame)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.leave(worker)
        except (Broken, WireError) as e:
            self._lose(worker, str(e))
        self._pass_on()

    def _take(self, worker: int, link: Link, frame: bytes) -> None:
        torn, link.torn = link.torn, False
        try:
            self.router.take(worker, frame)
        except Broken:
            if not torn:
                raise

    def _hears(self, worker: int) -> bool:
        """Who does not read what it is answered is not heard either: its answers would grow without bound."""
        return self.router.members[worker].queue.size <= MAX_WAITING

    def _pass_on(self) -> None:
        """Write down what is retained, then tell: who has heard a value hears it again of the next master."""
        router = self.router
        if router.writes:
            self._keep()
        for worker in router.slow:
            self.context.journal.record(
                messages.BUS_SLOW,
                f"{_who(worker)} does not read its messages: {MAX_WAITING >> 20} MiB wait, newer ones are dropped",
                worker=worker or None,
            )
        router.slow.clear()
        while router.touched:
            worker = router.touched.pop()
            if worker in self.links and not self.links[worker].out:
                self._write(worker)
        while router.states:
            self.heard_state(router.states.pop(0))
        for said in router.said:
            to = {} if said.to is None else {"to": said.to}
            host = {} if said.host is None else {"host": said.host}
            self._tell(said.topic, {"topic": said.topic, "data": text(said.data), "from": said.sender, **to, **host})
        router.said.clear()

    def _keep(self) -> None:
        try:
            if self._memory is None:
                self._memory = Values.create(2 * HALF)
                self.context.keeping.keep(VALUES, self._memory.fd)
            self._memory.write(self.router.writes)
        except OSError as e:
            text = f"retained values cannot be kept for a next master: {e.strerror}, ignoring"
            self.context.journal.record(messages.UNEXPECTED, text)
        self.router.writes.clear()

    def _write(self, worker: int) -> None:
        link, budget = self.links[worker], BUDGET
        try:
            while budget > 0 and (link.out or self._fill(worker, link)):
                sent = link.sock.send(link.out, socket.MSG_NOSIGNAL)
                link.out, budget = link.out[sent:], budget - sent
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            # It does not read any more. It may have said something before, and is gone when that has been read.
            link.out = memoryview(b"")
            self.router.members[worker].queue.close()
        reads = poll.READ if self._hears(worker) else 0
        self.context.poll.modify(link.sock.fileno(), reads | (poll.WRITE if link.out or budget <= 0 else 0))

    def _fill(self, worker: int, link: Link) -> bool:
        """The next messages, small ones together; False when nothing waits."""
        found: list[bytes] = []
        size = 0
        while size < PIECE and (frame := self.router.next(worker)) is not None:
            found.append(frame)
            size += len(frame)
        link.out = memoryview(found[0] if len(found) == 1 else b"".join(found))
        return bool(found)

    def _lose(self, worker: int, why: str) -> None:
        """Its bus, not its life: it serves on."""
        with contextlib.suppress(OSError):
            self.links[worker].sock.shutdown(socket.SHUT_RDWR)  # the keeper has a copy too: closing would tell nobody
        self.leave(worker)
        text = f"{_who(worker)} has lost its messages: {why}"
        self.context.journal.record(messages.BUS_BROKEN, text, worker=worker or None)

    # from the master

    def retain(self, key: str, raw: str) -> str:
        """Publish JSON in nobody's name; why that cannot be, "" when it is done."""
        try:
            self.router.retain(key, raw)
        except Full as e:
            return str(e)
        self._pass_on()
        return ""

    def tell_bridge(self, message: dict[str, Any]) -> None:
        """Nothing, where there is none."""
        if BRIDGE in self.links:
            self.router.tell(BRIDGE, encode(message))
            self._pass_on()

    # from outside

    def send(self, call: Call) -> None:
        """Send(topic, data, worker): docs/architecture.md."""
        topic, data, worker = (call.parameters.get(key) for key in ("topic", "data", "worker"))
        carried = compact(data) if isinstance(data, str) else None
        for key, right in (
            ("topic", topics.wrong(topic) is None),
            ("data", carried is not None),
            ("worker", worker is None or WORKER.fullmatch(worker)),
        ):
            if not right:
                call.error("org.varlink.service.InvalidParameter", parameter=key)
                return
        assert carried is not None and isinstance(topic, str)
        to = int(worker) if worker is not None else None
        heard = self.router.outside(topic, carried, to)
        self._pass_on()
        self._tell(topic, {"topic": topic, "data": carried, "from": None, **({} if to is None else {"to": to})})
        call.reply(heard=heard)

    def listen(self, call: Call) -> None:
        """Listen(topic)."""
        topic = call.parameters.get("topic")
        if topics.wrong(topic) is not None:
            call.error("org.varlink.service.InvalidParameter", parameter="topic")
        elif not call.more:
            call.error("org.varlink.service.ExpectedMore")
        else:
            self.listeners = [one for one in self.listeners if not one.call.client.closed]
            self.listeners.append(Listener(call, str(topic)))
            call.progress()  # what is said from here on is heard

    def _tell(self, topic: str, message: dict[str, object]) -> None:
        hear = [one for one in self.listeners if one.topic == topic and not one.call.client.closed]
        size = len(encode({"message": message})) if hear else 0
        for one in hear:
            if one.call.client.unread + size > ROOM:
                one.lost += 1
                continue
            lost, one.lost = {"lost": one.lost} if one.lost else {}, 0
            one.call.progress(message=message, **lost)

    def close(self) -> None:
        """The service is over: whoever listens is told so."""
        for one in self.listeners:
            one.call.error("Stopping")


def _who(member: int) -> str:
    return "the bridge" if member == BRIDGE else f"worker {member}"


def pair() -> tuple[int, socket.socket]:
    """(our end, the worker's)"""
    ours, theirs = socket.socketpair()
    os.set_blocking(ours.fileno(), False)
    return ours.detach(), theirs

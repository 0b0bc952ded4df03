"""The bus's end in this process: one thread that reads and writes, and whoever sends writing for himself."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable

from ..frames import PASSED, Frames, decode
from ..wire import WireError
from .errors import MessageError

MAX_WAITING = 32 << 20
"""Bytes that may wait for the master to read them; a sender waits then."""
PATIENCE = 10.0
"""Seconds a sender waits for the master to read: it does within milliseconds, a new one too."""

_CLOSED = "the channel to the master is closed: this worker is about to leave, or has broken the protocol"


class Link:
    """`take` is called in the thread, with each message and its size; `ended` when the other end is closed."""

    def __init__(self, fd: int, take: Callable[[dict[str, object], int], None], ended: Callable[[], None]) -> None:
        self._sock = socket.socket(fileno=os.dup(fd))
        self._sock.setblocking(False)
        self._take = take
        self._ended = ended
        self._out: deque[memoryview] = deque()
        self._size = 0
        self._closed = False
        self._room = threading.Condition()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread = threading.Thread(target=self._run, name="clusterd-messages", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def offer(self, data: bytes, *, force: bool = False) -> bool:
        """Send without waiting; False: too much waits already. Raises MessageError when the other end is closed."""
        with self._room:
            return self._offer(data, force)

    def post(self, data: bytes) -> None:
        """Send, waiting for room if need be. Raises MessageError."""
        deadline = time.monotonic() + PATIENCE
        with self._room:
            while not self._offer(data, False):
                if not self._room.wait(deadline - time.monotonic()):
                    raise MessageError(f"the master has not read {self._size} bytes within {PATIENCE:g} s")

    def flush(self, timeout: float) -> None:
        """Wait until everything is sent, or nobody takes it: the last words of a process."""
        with self._room:
            self._room.wait_for(lambda: not self._out or self._closed, timeout)

    def _offer(self, data: bytes, force: bool) -> bool:
        if self._closed:
            raise MessageError(_CLOSED)
        if self._out and self._size + len(data) > MAX_WAITING and not force:
            return False
        self._out.append(memoryview(data))
        self._size += len(data)
        if len(self._out) == 1:
            self._flush()
            if self._closed:
                raise MessageError(_CLOSED)
        if self._out:
            os.eventfd_write(self._wake, 1)
        return True

    def _flush(self) -> None:
        while self._out:
            try:
                sent = self._sock.send(self._out[0], socket.MSG_NOSIGNAL)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self._closed = True  # reading finds the same, and is where those who wait are told
                self._out.clear()
                self._size = 0
                return
            self._size -= sent
            if sent == len(self._out[0]):
                self._out.popleft()
            else:
                self._out[0] = self._out[0][sent:]

    def _run(self) -> None:
        frames = Frames(PASSED)
        poller = select.poll()
        poller.register(self._wake, select.POLLIN)
        with contextlib.suppress(OSError, WireError):
            while True:
                with self._room:
                    self._flush()
                    self._room.notify_all()
                    poller.register(self._sock, select.POLLIN | (select.POLLOUT if self._out else 0))
                ready = [fd for fd, events in poller.poll() if not (fd != self._wake and events == select.POLLOUT)]
                if self._wake in ready:
                    os.eventfd_read(self._wake)
                if self._sock.fileno() not in ready:
                    continue
                data = self._sock.recv(1 << 18)
                if not data:
                    break
                for frame in frames.feed(data):
                    message = decode(frame)
                    if message is not None:  # else half a message of a master that died
                        self._take(message, len(frame))
        with self._room:
            self._closed = True
            self._out.clear()
            self._room.notify_all()
        self._ended()


class Alone:
    """A cluster of one: a program outside any, a test. Same messages, no master."""

    def __init__(self, take: Callable[[dict[str, object], int], None]) -> None:
        self._take = take
        self._version = 0

    def offer(self, data: bytes, *, force: bool = False) -> bool:
        self.post(data)
        return True

    def flush(self, timeout: float) -> None:
        pass

    def post(self, data: bytes) -> None:
        message = decode(data[:-1])
        assert message is not None
        op, number = message.get("op"), message.get("number")
        if op in ("send", "request", "answer") and message["to"] is None:
            self._take({**message, "from": None}, len(data))
        elif op == "request":
            text = f"there is no worker {message['to']}: this program is not in a cluster"
            self._take({"event": "failed", "number": number, "error": "gone", "text": text}, 0)
        elif op == "publish":
            self._version += 1
            change = {"event": "value", "key": message["key"], "value": message["value"], "version": self._version}
            self._take(change, len(data))
            self._take({"event": "done", "number": number, "version": self._version}, 0)
        elif op == "values":
            self._take({"event": "current", "version": self._version}, 0)

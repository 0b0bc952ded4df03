"""What happened, told to the journal with fields, or to a person on stderr.

Who tells must not wait for who is told. libsystemd waits for a journald that stands still (stopped, hung, a disk that
does not answer), so records go there by a socket of our own, and are kept for it here meanwhile.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Hashable
from typing import Any

from clusterd.shell import messages
from clusterd.shell.messages import Message, Priority
from clusterd.shell.poll import WRITE, Poll
from clusterd.worker import native

IDENTIFIER = "clusterd"
MOST = 1000
"""Records that are kept for a journald that does not take them; more are counted."""

_PATIENCE = 0.1
"""Seconds for journald to take what fills its queue, once: in a container it is ten records deep, and a burst fills it
for a moment. What is told is there then before what follows from it."""
_LAST_PATIENCE = 1.0
"""The same at the end, when there is nobody to keep them."""
_STDERR = 2


class Journal:
    """`record` for events, `stream` for a worker's output.

    `native`: speak to the journal; else to stderr in plain lines (`clusterd run`). None: find out, by whether our own
    stderr is a journal stream, as systemd tells in JOURNAL_STREAM.
    """

    def __init__(self, app: str, *, native: bool | None = None, path: str = native.SOCKET) -> None:
        self.app = app
        self.native = _stderr_is_journal() if native is None else native
        self.path = path
        self.lost = 0
        """Lines on stderr that nobody took; told with the next that is."""
        self.missing = 0
        """Records beyond those that are kept; told in their place."""
        self._kept: deque[tuple[bytes, str]] = deque()
        """Each with its text."""
        self._socket: socket.socket | None = None
        self._poll: Poll[Any] | None = None
        self._key: Hashable = None

    @property
    def kept(self) -> int:
        """How many records wait for journald."""
        return len(self._kept)

    @property
    def unread(self) -> bool:
        """Whether journald has not read yet all that was told."""
        return bool(self._kept) or self._socket is not None and native.unread(self._socket.fileno()) > 0

    def watch(self, poll: Poll[Any], key: Hashable) -> None:
        """From now on `poll` says by `key` when journald takes what has been kept for it: `flush` then."""
        self._poll, self._key = poll, key

    def record(self, message: Message, text: str, priority: Priority | None = None, **fields: object) -> None:
        """Tell `text` under `message`; tracebacks in it stay whole. A field worker=17 becomes CLUSTERD_WORKER=17.

        Fields that are None are left out. Never raises, and waits for a tenth of a second at most, and not again while
        journald takes nothing: telling must not stop what is told.
        """
        if not self.native:
            self._plain(text)
            return
        code = sys._getframe(1)
        where = {"CODE_FILE": code.f_code.co_filename, "CODE_LINE": code.f_lineno, "CODE_FUNC": code.f_code.co_name}
        known = {f"CLUSTERD_{name.upper()}": value for name, value in fields.items() if value is not None}
        self._keep(message, text, message.priority if priority is None else priority, where | known)
        self._flush(_PATIENCE if len(self._kept) == 1 else 0.0)

    def flush(self) -> None:
        """Journald takes records again: send it those that were kept."""
        self._flush(0.0)

    def close(self) -> None:
        """Nothing is told any more. What has been told is given a second to be read: see `await_reader`."""
        end = time.monotonic() + _LAST_PATIENCE
        self._flush(_LAST_PATIENCE)
        self._poll = None
        if self._socket is not None:
            native.await_reader(self._socket.fileno(), end - time.monotonic())
        self._disconnect()

    def _keep(self, message: Message, text: str, priority: Priority, fields: dict[str, object]) -> None:
        if len(self._kept) >= MOST:
            self.missing += 1
            return
        all_fields = {
            "MESSAGE": text, "MESSAGE_ID": message.id, "PRIORITY": int(priority), "SYSLOG_IDENTIFIER": IDENTIFIER,
            "CLUSTERD_APP": self.app, **fields,
        }  # fmt: skip
        try:
            data = native.encode({name: str(value) for name, value in all_fields.items()})
        except ValueError:  # half a surrogate pair, of whatever an application raised
            self._plain(text)
        else:
            self._kept.append((data, text))

    def _flush(self, patience: float) -> None:
        end = time.monotonic() + patience
        while self._kept and self._send(*self._kept[0], end):
            self._kept.popleft()
            if self.missing:
                text = (
                    f"{self.missing} records could not be told here: journald took none, and {MOST} were kept already"
                )
                self.missing = 0
                self._keep(messages.JOURNAL_FULL, text, messages.JOURNAL_FULL.priority, {})
        self._await_room(bool(self._kept))

    def _send(self, data: bytes, text: str, end: float) -> bool:
        """False when journald takes nothing until `end`. What cannot be sent to it goes to stderr."""
        anew = self._socket is None
        while True:
            try:
                native.send(self._connected(), data)
            except BlockingIOError:
                if not self._room(end):
                    return False
            except OSError:
                self._disconnect()
                if anew:
                    self._plain(text)
                    return True
                anew = True  # journald's socket may be another one by now
            else:
                return True

    def _room(self, end: float) -> bool:
        poll = select.poll()
        poll.register(self._connected(), select.POLLOUT)
        return bool(poll.poll(max(0.0, end - time.monotonic()) * 1000))

    def _connected(self) -> socket.socket:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
            self._socket.connect(self.path)
        return self._socket

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._await_room(False)
            self._socket.close()
            self._socket = None

    def _await_room(self, kept: bool) -> None:
        if self._poll is None or self._socket is None:
            return
        if not kept:
            self._poll.unregister(self._socket.fileno())
        elif self._socket.fileno() not in self._poll:
            self._poll.register(self._socket.fileno(), WRITE, self._key)

    def stream(self, identifier: str, priority: Priority = Priority.INFO) -> int:
        """A journal stream (CLOEXEC), for a worker's stdout and stderr. A line may begin with its level ("<4>").

        Falls back to a copy of our stderr while journald cannot be reached, and to nothing if that was a stream of its
        own which has ended: who prints into it would fail.
        """
        from systemd import journal

        try:
            fd = int(journal.stream_fd(identifier, int(priority), True))
        except OSError:
            if _has_ended(_STDERR):
                return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            return os.dup(_STDERR)
        os.set_inheritable(fd, False)
        return fd

    def _plain(self, text: str) -> None:
        """One write a line, and none at all when nobody reads a full pipe: a master must not wait for a pager."""
        poll = select.poll()
        poll.register(_STDERR, select.POLLOUT)
        for line in text.rstrip("\n").split("\n"):
            try:
                if not any(events & select.POLLOUT for _, events in poll.poll(0)):
                    self.lost += 1
                    continue
                lost = f"{IDENTIFIER}: ({self.lost} lines could not be written)\n" if self.lost else ""
                os.write(_STDERR, f"{lost}{IDENTIFIER}: {line}\n".encode(errors="replace")[:4096])
                self.lost = 0
            except OSError:
                self.lost += 1


def await_reader() -> None:
    """After a last line on stderr: give journald a second to read it. Of a user's service that is gone by then it would
    not know the unit; that of the system's is told to it by systemd."""
    native.await_reader(_STDERR, _LAST_PATIENCE)


def _has_ended(fd: int) -> bool:
    """Whether nobody will ever read what is written there."""
    poll = select.poll()
    poll.register(fd, 0)
    return bool(poll.poll(0))


def _stderr_is_journal() -> bool:
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        mine = os.fstat(_STDERR)
    except OSError:
        return False
    return (device, inode) == (str(mine.st_dev), str(mine.st_ino))

"""What happened, told to the journal with fields, or to a person on stderr."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
from typing import ClassVar

from clusterd.shell.messages import JOURNAL_FULL, Message, Priority

IDENTIFIER = "clusterd"
SOCKET = "/run/systemd/journal/socket"
_STDERR = 2


class Journal:
    """`record` for events, `stream` for a worker's output.

    `native`: speak to the journal; else to stderr in plain lines (`clusterd run`). None: find out, by whether our own
    stderr is a journal stream, as systemd tells in JOURNAL_STREAM.
    """

    _waitless: ClassVar[bool] = False
    """Whether the socket that libsystemd sends by, one a process and opened at the first record, does not block."""

    def __init__(self, app: str, *, native: bool | None = None) -> None:
        self.app = app
        self.native = _stderr_is_journal() if native is None else native
        self.lost = 0
        """Records, or lines on stderr, that nobody took; told with the next that is."""

    def record(self, message: Message, text: str, priority: Priority | None = None, **fields: object) -> None:
        """Tell `text` under `message`; tracebacks in it stay whole. A field worker=17 becomes CLUSTERD_WORKER=17.

        Fields that are None are left out. Never raises and never waits: telling must not stop what is told.
        """
        level = message.priority if priority is None else priority
        if not self.native:
            self._plain(text)
            return
        caller = sys._getframe(1)  # given, because send() would read the source file to find it
        code = caller.f_code
        where = {"CODE_FILE": code.co_filename, "CODE_LINE": str(caller.f_lineno), "CODE_FUNC": code.co_name}
        known = {f"CLUSTERD_{name.upper()}": str(value) for name, value in fields.items() if value is not None}
        missing = f"{self.lost} records could not be told: journald took none"
        if self.lost and self._send(JOURNAL_FULL, missing, JOURNAL_FULL.priority, where):
            self.lost = 0
        if not self._send(message, text, level, where | known):
            self.lost += 1

    def _send(self, message: Message, text: str, priority: Priority, fields: dict[str, str]) -> bool:
        """False when a journald that stands still has its queue full, or ours in it: libsystemd would wait for it."""
        from systemd import journal

        first = not Journal._waitless
        if first and not has_room(SOCKET):
            return False
        before = _sockets() if first else set()
        try:
            journal.send(
                text,
                MESSAGE_ID=message.id,
                PRIORITY=str(int(priority)),
                SYSLOG_IDENTIFIER=IDENTIFIER,
                CLUSTERD_APP=self.app,
                **fields,
            )
        except BlockingIOError:
            return False
        except (OSError, ValueError):
            self._plain(text)
        if first:
            for fd in _sockets() - before:
                os.set_blocking(fd, False)
                Journal._waitless = True
        return True

    def stream(self, identifier: str, priority: Priority = Priority.INFO) -> int:
        """A descriptor (CLOEXEC) for a worker's stdout and stderr: a journal stream, or a copy of our stderr.

        In the stream a line may begin with its level ("<4>"). Falls back to stderr while journald cannot be reached.
        """
        if self.native:
            from systemd import journal

            try:
                fd = int(journal.stream_fd(identifier, int(priority), True))
            except OSError:
                pass
            else:
                os.set_inheritable(fd, False)
                return fd
        return os.dup(_STDERR)

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


def has_room(path: str) -> bool:
    """Whether a datagram to the socket at `path` would not have to wait; so too when nobody is there to send it to."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect(path)
        except OSError:
            return True
        poll = select.poll()
        poll.register(asking, select.POLLOUT)
        return any(events & select.POLLOUT for _, events in poll.poll(0))


def _sockets() -> set[int]:
    """The descriptors of this process that are sockets."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that listed them
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                found.add(int(name))
    return found


def _stderr_is_journal() -> bool:
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        mine = os.fstat(_STDERR)
    except OSError:
        return False
    return (device, inode) == (str(mine.st_dev), str(mine.st_ino))

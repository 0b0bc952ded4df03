"""The receiving side of sd_notify, for workers that are any program: one datagram socket for each.

One each, because the sender may be `systemd-notify` with a pid of its own: the socket tells the worker, not the pid.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct
from dataclasses import dataclass

_LIMIT = 4096
"""Bytes a message may have, as systemd's own NOTIFY_BUFFER_MAX."""
_MAX_FDS = 253


@dataclass(frozen=True)
class Notice:
    """One message: its NAME=VALUE lines, and the process that sent it."""

    fields: dict[str, str]
    pid: int | None


class Notified:
    """Receives at least once across a master's death: `receive(peek=True)`, act, then `consume`.

    The socket itself is in the keeper's store, so what came while no master lived is still there for the next.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)

    @classmethod
    def bind(cls, path: str) -> Notified:
        """A new socket at `path` (one left over there is replaced). Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            # Before bind: a message queued without credentials has none, ever.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            sock.bind(path)
        except OSError as e:
            sock.close()
            raise OSError(e.errno, e.strerror, path) from e
        return cls(sock)

    @classmethod
    def adopt(cls, fd: int) -> Notified:
        """From the keeper's store."""
        return cls(socket.socket(fileno=fd))

    def fileno(self) -> int:
        return self.sock.fileno()

    def receive(self, peek: bool = False) -> Notice | None:
        """The next message, None when there is none; with `peek` it stays until `consume`.

        Descriptors that came with it are closed at once. For BARRIER=1 that is the answer: the sender waits until every
        copy of its pipe is closed, and the copy in the queue goes when the message is consumed.
        """
        while True:
            try:
                data, ancillary, flags, _ = self.sock.recvmsg(
                    _LIMIT,
                    socket.CMSG_SPACE(_MAX_FDS * 4) + socket.CMSG_SPACE(12),
                    socket.MSG_CMSG_CLOEXEC | (socket.MSG_PEEK if peek else 0),
                )
            except (BlockingIOError, InterruptedError):
                return None
            pid = None
            for level, kind, payload in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    fds = array.array("i")
                    fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
                    for fd in fds:
                        os.close(fd)
                elif level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                    pid = struct.unpack("3i", payload)[0] or None
            if flags & socket.MSG_TRUNC:
                if peek:
                    self.consume()
                continue  # too long to be a message; the next one may be
            return Notice(_fields(data), pid)

    def consume(self) -> None:
        """Take away the message that was last peeked at."""
        with contextlib.suppress(BlockingIOError, InterruptedError):
            self.sock.recv(1)

    def close(self, *, unlink: bool = True) -> None:
        path = self.sock.getsockname()
        self.sock.close()
        if unlink and path:
            with contextlib.suppress(OSError):
                os.unlink(path)


def _fields(data: bytes) -> dict[str, str]:
    lines = (line.partition("=") for line in data.decode(errors="replace").splitlines())
    return {name: value for name, equals, value in lines if name and equals}

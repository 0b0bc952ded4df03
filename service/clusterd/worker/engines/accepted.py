"""What this process has accepted, asked of the kernel: for an engine that keeps its connections to itself."""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Iterable

from ..process import borrowed

_TCP_INFO = struct.Struct("=44xI4xI72xQ20xI")
"""tcpi_last_data_sent and _recv, milliseconds ago, tcpi_bytes_received, tcpi_data_segs_out (linux/tcp.h)."""

_EPOLL = "anon_inode:[eventpoll]"


class Accepted:
    """The connections of `listeners` that are open in this process."""

    def __init__(self, listeners: Iterable[socket.socket]) -> None:
        self._names = {_name(sock) for sock in listeners}

    def fds(self) -> list[int]:
        """Looks at every descriptor there is, some microseconds each: for a drain, not for serving."""
        return [fd for fd, link in _links() if link.startswith("socket:") and self._is_ours(fd)]

    def _is_ours(self, fd: int) -> bool:
        try:
            with borrowed(fd) as sock:
                listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                return not listens and _name(sock) in self._names
        except OSError:
            return False  # closed meanwhile


def idle(fds: Iterable[int]) -> dict[int, int]:
    """Those TCP connections on which the last that went was from here to there, or nothing yet, so that no request
    waits; and how many segments of data have been sent on each."""
    found = {}
    for fd in fds:
        try:
            with borrowed(fd) as sock:
                info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        except OSError:
            continue  # closed meanwhile, or of a UNIX socket, which does not tell
        sent_ago, received_ago, received, sent = _TCP_INFO.unpack(info)
        if received == 0 or (sent and sent_ago <= received_ago):
            found[fd] = sent
    return found


def ignore(fd: int) -> None:
    """No epoll of this process tells of `fd` any more: an engine asleep on it sleeps on."""
    for number, link in _links():
        if link != _EPOLL:
            continue
        try:
            with open(f"/proc/self/fdinfo/{number}") as f:
                watched = any(line.startswith("tfd:") and int(line.split()[1]) == fd for line in f)
            if watched:
                with select.epoll.fromfd(os.dup(number)) as epoll:
                    epoll.unregister(fd)
        except OSError:
            pass  # another thread has closed either


def _links() -> list[tuple[int, str]]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append((int(name), os.readlink(f"/proc/self/fd/{name}")))
        except OSError:
            pass  # the one listdir itself used, or closed meanwhile
    return found


def _name(sock: socket.socket) -> tuple[int, object]:
    """Family and address; of TCP the port alone, since a listener's address may be a wildcard."""
    name = sock.getsockname()
    return sock.family, name[1] if isinstance(name, tuple) else name

"""The end of a TLS connection: both sides say close_notify, and an event loop waits half a minute for the client's.

A client that keeps the connection in a pool reads nothing until it wants it again, so it never says it.
"""

from __future__ import annotations

import asyncio
import fcntl
import struct
import termios
from collections.abc import Iterable

_PATIENCE = 0.5
"""Seconds for the client's close_notify, once it has all that was sent: more than a round trip takes."""


class Goodbyes:
    """Who has been told the end, and since when nothing but the answer to that is missing."""

    def __init__(self) -> None:
        self._since: dict[asyncio.Transport, float] = {}

    def hang_up(self, transports: Iterable[asyncio.Transport], now: float) -> None:
        """Cut those that had their time; to be called again and again, with all there are."""
        told = {each: self._since.get(each, now) for each in transports if each.is_closing() and _has_arrived(each)}
        for each, since in told.items():
            if now - since >= _PATIENCE:
                each.abort()
        self._since = told


def _has_arrived(transport: asyncio.Transport) -> bool:
    """Whether the client's kernel has everything; whatever the loop still had would be on its way by the next look."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        return False
    waiting: int = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0" * 4))[0]
    return waiting == 0 and transport.get_write_buffer_size() == 0

"""Signals as events: a descriptor that is readable when one of the wanted signals has come."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterable
from types import FrameType

ORDERS = frozenset(
    {
        signal.SIGTERM,
        signal.SIGINT,
        signal.SIGHUP,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGTTIN,
        signal.SIGTTOU,
    }
)
"""What an instance may be told by a signal. The keeper passes them on to the master, which is started with them blocked
and unblocks them when it can take them."""


class Signals:
    """Turns `wanted` signals into bytes on a socket pair. Only in the main thread, one at a time in a process.

    The keeper starts masters with these signals blocked: a SIGTERM that arrives before the handlers stand would kill
    the master, the keeper would start another, and the stop would be forgotten. So they are unblocked here.
    """

    def __init__(self, wanted: Iterable[int]) -> None:
        self.wanted = frozenset(wanted)
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        # A full buffer (thousands of unread signals) loses repetitions only, which is what signals do anyway.
        self._wakeup = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._handlers = {number: signal.signal(number, _nothing) for number in sorted(self.wanted)}
        self._mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, self.wanted)

    def fileno(self) -> int:
        return self._reader.fileno()

    def read(self) -> list[int]:
        """The wanted signals that have come since, in order; empty when none has."""
        got = bytearray()
        with contextlib.suppress(BlockingIOError):
            while data := self._reader.recv(4096):
                got += data
        return [number for number in got if number in self.wanted]

    def close(self) -> None:
        """Put back the handlers, the mask and the wake-up descriptor that were there before."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        signal.set_wakeup_fd(self._wakeup)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        self._reader.close()
        self._writer.close()


def _nothing(number: int, frame: FrameType | None) -> None:
    """A Python handler must exist for the byte to be written; the byte is what counts."""

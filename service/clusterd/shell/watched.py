"""A wire that is polled: for reading always, for writing as long as something waits to be written."""

from __future__ import annotations

import socket
from typing import Any

from clusterd.shell.poll import READ, WRITE, Poll
from clusterd.worker.wire import Wire


class Watched(Wire):
    """Registering and unregistering is the caller's; on any event he calls `exchange`."""

    def __init__(self, sock: socket.socket, poll: Poll[Any]) -> None:
        super().__init__(sock)
        self.poll = poll

    def flush(self) -> None:
        try:
            super().flush()
        finally:
            if self.fileno() in self.poll:
                self.poll.modify(self.fileno(), READ | WRITE if self.wants_write else READ)

"""What workers, zygotes and tasks print into: the master has each of these streams too, until journald has read it.

journald knows the unit of a process from its first line on, as long as anybody has the stream (see worker/native.py).
So it knows whose the last words are, printed or logged, of one that is gone when it comes to read them.
"""

from __future__ import annotations

import os
import time
from collections import deque

from clusterd.shell.journal import Journal

LATE = 5.0
"""Seconds after the end of a process that a stream is kept at least: what it said may be in journald's queue."""
MOST = 64
"""Streams of those that are gone: of more, as when all are killed at once again and again, the oldest go."""
_STDERR = 2


class Streams:
    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self._open: dict[str, int] = {}
        self._ended: deque[tuple[float, int]] = deque()

    def open(self, key: str, identifier: str) -> int:
        """A descriptor for the stdout and stderr of `key`, which stays ours; `identifier` is what journald shows.

        Without a journal it is our own stderr, of which everybody has a copy anyway.
        """
        if not self.journal.native:
            return _STDERR
        self.end(key)
        self._open[key] = self.journal.stream(identifier)
        return self._open[key]

    def end(self, key: str) -> None:
        """Its process is gone, or was never there."""
        fd = self._open.pop(key, None)
        if fd is not None:  # or it is one that another master has begun
            self._ended.append((time.monotonic(), fd))
            self._close(len(self._ended) - MOST)

    def sweep(self) -> None:
        """Close those that have ended long enough ago. Called with each sign of life.

        Not while journald has something of ours to read: a death is told after all that the dead said, in one queue.
        """
        if not self.journal.unread:
            past = time.monotonic() - LATE
            self._close(sum(ended <= past for ended, _ in self._ended))

    def _close(self, number: int) -> None:
        for _ in range(number):
            os.close(self._ended.popleft()[1])

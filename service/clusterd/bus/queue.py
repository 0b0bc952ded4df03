"""What waits for a reader: bounded in bytes, the newest dropped, and the reader told how many it missed."""

from __future__ import annotations

from collections import deque

MAX_WAITING = 32 << 20
"""Bytes that may wait for one reader: two messages of the largest size."""


class Queue:
    def __init__(self, limit: int = MAX_WAITING) -> None:
        self._limit = limit
        self._waiting: deque[bytes | int] = deque()  # a message, or how many were lost at this place
        self.size = 0
        self.lost = 0
        """Since the queue began."""

    def offer(self, message: bytes) -> bool:
        """Whether this drop begins an episode: the moment to journal it, once."""
        if self.size + len(message) <= self._limit:
            self._waiting.append(message)
            self.size += len(message)
            return False
        self.lost += 1
        last = self._waiting[-1] if self._waiting else None
        if isinstance(last, int):
            self._waiting[-1] = last + 1
            return False
        self._waiting.append(1)
        return True

    def take(self) -> bytes | int | None:
        """The next message; or a number: so many were lost here; None: nothing waits."""
        if not self._waiting:
            return None
        found = self._waiting.popleft()
        if isinstance(found, bytes):
            self.size -= len(found)
        return found

"""What waits for a reader: bounded in bytes, the newest dropped, and the reader told how many it missed."""

from __future__ import annotations

from collections import deque

MAX_WAITING = 32 << 20
"""Bytes that may wait for one reader: two messages of the largest size."""


class Queue:
    def __init__(self, limit: int = MAX_WAITING) -> None:
        self._limit = limit
        self._waiting: deque[bytes | int] = deque()  # a message, or how many were lost at this place
        self._episode = False
        self.size = 0
        self.lost = 0
        """Since the queue began."""
        self.closed = False

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def room(self, size: int) -> bool:
        """Whether a message of `size` bytes would be taken. An empty queue takes any."""
        return not self._waiting or self.size + size <= self._limit

    def offer(self, message: bytes) -> bool:
        """Whether this drop begins an episode, which ends when the reader has read everything: to be told once."""
        if self.room(len(message)):
            self.put(message)
            return False
        self.lost += 1
        last = self._waiting[-1]
        if isinstance(last, int):
            self._waiting[-1] = last + 1
        else:
            self._waiting.append(1)
        began, self._episode = not self._episode, True
        return began

    def put(self, message: bytes) -> None:
        """Take it whatever waits already: for what is bounded elsewhere."""
        if self.closed:
            return
        self._waiting.append(message)
        self.size += len(message)

    def take(self) -> bytes | int | None:
        """The next message; or a number: so many were lost here; None: nothing waits."""
        if not self._waiting:
            self._episode = False
            return None
        found = self._waiting.popleft()
        if isinstance(found, bytes):
            self.size -= len(found)
        return found

    def close(self) -> None:
        """Its reader does not read any more: nothing waits for it, now or later."""
        self.closed, self.size = True, 0
        self._waiting.clear()

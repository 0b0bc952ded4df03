"""What has come and is not handled yet: bounded, the newest dropped, told once an episode."""

from __future__ import annotations

import logging
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

MAX_MESSAGES = 10_000
MAX_BYTES = 32 << 20

T = TypeVar("T")

log = logging.getLogger("clusterd.worker")


@dataclass(frozen=True)
class Message:
    """What was said: `sender` is the worker's id, None for `clusterd send` and for other hosts. `host` is that of
    another one, which has carried it here by the bus."""

    topic: str
    data: Any
    sender: int | None
    host: str | None = None
    size: int = field(default=0, repr=False, compare=False)


class Inbox(Generic[T]):
    """Thread-safe. `name` is for the log."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lost = 0
        self._items: deque[tuple[T, int]] = deque()
        self._size = 0
        self._dropping = False
        self._lock = threading.Lock()

    def put(self, item: T, size: int) -> bool:
        """False: dropped."""
        with self._lock:
            fits = len(self._items) < MAX_MESSAGES and (not self._items or self._size + size <= MAX_BYTES)
            if fits:
                self._items.append((item, size))
                self._size += size
                return True
            self.lost += 1
            began, self._dropping = not self._dropping, True
        if began:
            log.warning("%s: messages come faster than they are handled, newer ones are dropped", self.name)
        return False

    def take(self) -> T | None:
        with self._lock:
            if not self._items:
                self._dropping = False
                return None
            item, size = self._items.popleft()
            self._size -= size
            return item

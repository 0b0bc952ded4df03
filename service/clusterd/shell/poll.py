"""The one place that blocks: epoll, with a key of the caller's for each descriptor."""

from __future__ import annotations

import select
from collections.abc import Hashable
from typing import Generic, TypeVar

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
HANGUP = select.EPOLLHUP | select.EPOLLERR | select.EPOLLRDHUP
"""EPOLLHUP and EPOLLERR come unasked."""

Key = TypeVar("Key", bound=Hashable)


def readable(fd: int) -> bool:
    """Whether reading would give something now, an end of file included."""
    now = select.poll()
    now.register(fd, select.POLLIN)
    return bool(now.poll(0))


class Poll(Generic[Key]):
    """Level-triggered readiness.

    `unregister` before closing a descriptor, always: the keeper holds a copy of nearly every one, so closing ours does
    not close the open file, and epoll would report a number that may by then be another file's.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._keys: dict[int, Key] = {}

    def register(self, fd: int, events: int, key: Key) -> None:
        """Watch `fd`. Raises ValueError when it is watched already."""
        if fd in self._keys:
            raise ValueError(f"descriptor {fd} is watched already, as {self._keys[fd]!r}; now wanted as {key!r}")
        self._epoll.register(fd, events)
        self._keys[fd] = key

    def modify(self, fd: int, events: int) -> None:
        """Watch `fd` for other events. Raises KeyError when it is not watched."""
        self._keys[fd]
        self._epoll.modify(fd, events)

    def unregister(self, fd: int) -> None:
        """Stop watching `fd`; one that is not watched is ignored, so that closing twice is harmless."""
        if self._keys.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def wait(self, timeout: float | None) -> list[tuple[Key, int]]:
        """What is ready within `timeout` seconds (None: whenever; 0 or less: at once), in no particular order.

        An event may be stale by the time it is handled: handling an earlier one of the same batch may have closed it.
        """
        ready = self._epoll.poll(None if timeout is None else max(0.0, timeout))
        return [(self._keys[fd], events) for fd, events in ready if fd in self._keys]

    def close(self) -> None:
        self._epoll.close()
        self._keys.clear()

    def __contains__(self, fd: int) -> bool:
        return fd in self._keys

    def __len__(self) -> int:
        return len(self._keys)

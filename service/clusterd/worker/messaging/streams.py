"""`async for` over messages, and over the changes of a retained value."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from .inbox import Inbox, Message

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")


class Alarm:
    """Wakes the one task that waits, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: tuple[asyncio.AbstractEventLoop, asyncio.Future[None]] | None = None

    def ring(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, None
        if waiting is not None:
            loop, future = waiting
            try:
                loop.call_soon_threadsafe(lambda: None if future.done() else future.set_result(None))
            except RuntimeError:  # the loop is closed, and who waited is gone
                pass

    def set(self) -> asyncio.Future[None]:
        """Wait for the next ring; look again at what it is about before awaiting it."""
        import asyncio

        loop = asyncio.get_running_loop()
        future = loop.create_future()
        with self._lock:
            self._waiting = loop, future
        return future


class _Stream(Generic[T]):
    def __init__(self, close: Callable[[Any], None]) -> None:
        self._alarm = Alarm()
        self._close = close
        self._closed = False

    def __aiter__(self) -> _Stream[T]:
        return self

    async def __anext__(self) -> T:
        while not self._closed:
            found, item = self._next()
            if found:
                return item
            future = self._alarm.set()
            found, item = self._next()  # it may have come in between
            if found:
                return item
            await future
        raise StopAsyncIteration

    def close(self) -> None:
        """End the iteration; nothing more is kept for it."""
        if not self._closed:
            self._closed = True
            self._close(self)
            self._alarm.ring()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _next(self) -> tuple[bool, T]:
        raise NotImplementedError


class Messages(_Stream[Message]):
    """What is said under a topic from the call of `worker.messages` on. Close it, or use `with`, when it is over.

    For one task; at most 10,000 messages or 32 MiB wait for it, newer ones are dropped and counted in `lost`.
    """

    def __init__(self, topic: str, close: Callable[[Any], None]) -> None:
        super().__init__(close)
        self.topic = topic
        self._inbox: Inbox[Message] = Inbox(f"messages('{topic}')")

    @property
    def lost(self) -> int:
        return self._inbox.lost

    def hear(self, message: Message) -> None:
        self._inbox.put(message, message.size)
        self._alarm.ring()

    def _next(self) -> tuple[bool, Message]:
        found = self._inbox.take()
        return (False, _NONE) if found is None else (True, found)


class Watch(_Stream[Any]):
    """The values of a key: the present one, if there is one, and each that follows. One who is slow gets the last."""

    def __init__(self, key: str, close: Callable[[Any], None]) -> None:
        super().__init__(close)
        self.key = key
        self._lock = threading.Lock()
        self._fresh: list[Any] = []

    def hear(self, value: Any) -> None:
        with self._lock:
            self._fresh[:] = [value]
        self._alarm.ring()

    def _next(self) -> tuple[bool, Any]:
        with self._lock:
            return (True, self._fresh.pop()) if self._fresh else (False, None)


_NONE = Message("", None, None)

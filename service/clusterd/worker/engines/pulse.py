"""The sign of life of a worker: given by what serves, never by a thread of its own, which would outlive that."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ... import worker
from .. import given
from ..board import Figures

if TYPE_CHECKING:
    from ..boot import Boot
    from ..channel import Channel

INTERVAL = 1.0
"""Seconds between two signs of life; a hundred times what the look at the figures takes of the processor, where that is
longer. Not of the clock: who was kept from running meanwhile would give none for long, and be taken to hang."""


class Pulse:
    """What is to be done at each sign of life; `look` gives the figures, or None where nothing is done any more."""

    def __init__(self, boot: Boot, channel: Channel, look: Callable[[], Figures | None]) -> None:
        self._channel = channel
        self._look = look
        self._limit = boot.request_limit()

    def beat(self) -> float:
        """Give one, if there is reason to; the seconds until the next."""
        began = time.thread_time()
        board, figures = given.board, self._look()
        if board is not None and figures is not None:
            board.show(figures)
            board.beat()
        if self._limit is not None and figures is not None and (figures.requests or 0) >= self._limit:
            # Again each time: a master that dies may have taken it with it, and who knows it already is not troubled.
            self._channel.mention("spent", reason=f"has served {figures.requests} requests")
        return max(INTERVAL, 100 * (time.thread_time() - began))


class LoopPulse(Pulse):
    """In the event loop, from now on: a loop that is blocked gives none."""

    def __init__(self, boot: Boot, channel: Channel, look: Callable[[], Figures | None]) -> None:
        super().__init__(boot, channel, look)
        self._turn()

    def _turn(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self.beat(), self._turn)

    def stop(self) -> None:
        self._timer.cancel()


class Count:
    """How often `next` was called, by whatever thread: counting is one call in C."""

    def __init__(self) -> None:
        self._count: Iterator[int] = itertools.count()
        self.next = self._count.__next__

    @property
    def value(self) -> int:
        return int(repr(self._count)[len("count(") : -1])


class Threads:
    """Requests in threads, as a WSGI application that counts them sees them: each ends when the application returns.

    Its body is not counted. That would take a wrapper for each, and a stream that is silent is not one that hangs.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._begun, self._ended = Count(), Count()
        self._last_ended = -1

    def counted(self, app: Any) -> Any:
        """`app`, of which each call is counted, and told of its worker: all that is ours on the way of a request."""
        begun, ended = self._begun.next, self._ended.next

        def counted(environ: Any, start_response: Any) -> Any:
            begun()
            environ["clusterd.worker"] = worker
            try:
                return app(environ, start_response)
            finally:
                ended()

        return counted

    @property
    def requests(self) -> int:
        """Begun so far."""
        return self._begun.value

    @property
    def busy(self) -> bool:
        """Whether a call is under way; asking changes nothing, and is for when no more are begun."""
        return self._begun.value > self._ended.value

    def figures(self, connections: int | None) -> Figures | None:
        """None when all threads have been busy with the same requests since the last look."""
        ended = self._ended.value
        begun = max(ended, self._begun.value)
        stuck = begun - ended >= self._threads and ended == self._last_ended
        self._last_ended = ended
        return None if stuck else Figures(begun, begun - ended, connections)

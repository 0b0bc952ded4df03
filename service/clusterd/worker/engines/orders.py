"""The master's orders inside an asyncio loop: events to wait for, and how far a drain has come."""

from __future__ import annotations

import asyncio
import signal
import time

from .. import leaving
from ..channel import Channel, Drain, Draining, Order, Serve

SIGTERM_TIMEOUT = 30.0
"""Seconds for the clients when the order to leave is a signal."""


class Orders:
    """Made inside the loop, which then listens to the channel."""

    def __init__(self, channel: Channel, keep_alive: float) -> None:
        self._channel = channel
        self._keep_alive = keep_alive
        self._serve = asyncio.Event()
        self._drain = asyncio.Event()
        self._draining: Draining | None = None
        channel.set_nonblocking()
        loop = asyncio.get_running_loop()
        loop.add_reader(channel.fileno(), self._on_channel)
        loop.add_signal_handler(signal.SIGTERM, self._on_sigterm)
        self._take(channel.pending())

    async def serve(self) -> bool:
        """Wait until this worker is to accept; False when it is to leave instead."""
        tasks = [asyncio.ensure_future(event.wait()) for event in (self._serve, self._drain)]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        return self._draining is None

    async def drain(self) -> Draining:
        """Wait for the order. What is returned may be hastened later."""
        await self._drain.wait()
        assert self._draining is not None
        return self._draining

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._channel.fileno())

    def _on_channel(self) -> None:
        self._take(self._channel.orders())
        if self._channel.lost:
            self.close()

    def _on_sigterm(self) -> None:
        """From somebody who is not the master; he gets the drain the master would ask for."""
        self._take([Drain(self._keep_alive, SIGTERM_TIMEOUT)])

    def _take(self, orders: list[Order]) -> None:
        for order in orders:
            if isinstance(order, Serve):
                self._serve.set()
            elif self._draining is None:
                self._draining = Draining(order, time.monotonic())
                self._drain.set()
                leaving.begin()
            else:
                self._draining.hasten(order, time.monotonic())

"""A relay: a client's bytes to a server and back, for the usher, which may find that the server is the usher itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Callable
from typing import Any

BUFFER = 64 << 10
"""Bytes that are read at once."""
TAKEN_BACK = 10.0
"""Seconds for what has been sent to arrive at the other end, which is ours as well."""
AFTERWARDS = 30.0
"""Seconds that a client has for what it still sends when the server has ended: many a pool leaves its end as it is."""
RESET, CLEAN = struct.pack("ii", 1, 0), struct.pack("ii", 0, 0)
"""For SO_LINGER: what close() does, or the end of the process."""


async def connected(sock: socket.socket) -> None:
    """Wait until connect() has come to an end; raises its OSError."""
    await _writable(sock)
    error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if error:
        raise OSError(error, os.strerror(error))


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    await _once(sock.fileno(), loop.add_reader, loop.remove_reader)


async def _writable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    await _once(sock.fileno(), loop.add_writer, loop.remove_writer)


async def _once(fd: int, watch: Callable[..., object], unwatch: Callable[[int], object]) -> None:
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    watch(fd, _finish, done)
    try:
        await done
    finally:
        unwatch(fd)


def _finish(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)


async def _receive(sock: socket.socket) -> bytes:
    """As the loop's sock_recv(); who is cancelled has received nothing."""
    while True:
        try:
            return sock.recv(BUFFER)
        except BlockingIOError:
            await _readable(sock)


async def _send(sock: socket.socket, data: memoryview) -> int:
    """How much of it was sent; who is cancelled has sent nothing."""
    while True:
        try:
            return sock.send(data)
        except BlockingIOError:
            await _writable(sock)


class Relay:
    """A client's bytes to a server and back. Of what it has sent nothing is lost or sent twice when the server turns
    out to be ourselves."""

    def __init__(self, client: socket.socket) -> None:
        self.client = client
        self.unsent = memoryview(b"")
        """Of what the client has sent."""
        self.finished = False
        """The client has sent everything."""

    async def run(self, server: socket.socket, back: asyncio.Future[socket.socket]) -> bool:
        """Both directions until both are at their end; False when `back` has the other end of `server`: `take_back` is
        to follow.

        Any other end than a clean one is passed on as a reset: without a length the client would take half an answer
        for the whole. That holds for the end of this very process too.
        """
        for sock in (self.client, server):
            if sock.family != socket.AF_UNIX:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        if back.done():
            return False
        both = asyncio.create_task(self._both(server, back))
        either: set[asyncio.Future[Any]] = {both, back}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if back.cancelled():
                await asyncio.wait({both})
        finally:
            both.cancel()
            await asyncio.wait({both})
        if both.cancelled():
            return False
        both.result()
        return True

    async def take_back(self, server: socket.socket, other: socket.socket) -> None:
        """What `server` was sent is to be sent again: it waits in `other`, its other end, and nobody has read of it.
        That is no more than what the kernel keeps for two sockets. Raises OSError."""
        taken = bytearray()
        server.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(TAKEN_BACK):
            while data := await _receive(other):
                taken += data
        self.unsent = memoryview(bytes(taken) + self.unsent)
        server.close()  # before `other`: by a reset, or each attempt would hold its port for a minute

    async def _both(self, server: socket.socket, back: asyncio.Future[socket.socket]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                up = group.create_task(self._up(server))
                await self._down(server, back)
                await asyncio.wait({up}, timeout=AFTERWARDS)
                up.cancel()
        except* OSError:
            pass
        else:
            for sock in (self.client, server):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, CLEAN)

    async def _up(self, server: socket.socket) -> None:
        while self.unsent or not self.finished:
            if not self.unsent:
                self.unsent = memoryview(await _receive(self.client))
                self.finished = not self.unsent
            while self.unsent:
                sent = await _send(server, self.unsent)
                self.unsent = self.unsent[sent:]
        _half_close(server)

    async def _down(self, server: socket.socket, back: asyncio.Future[socket.socket]) -> None:
        loop = asyncio.get_running_loop()
        while data := await _receive(server):
            back.cancel()
            await loop.sock_sendall(self.client, data)
        _half_close(self.client)


def _half_close(sock: socket.socket) -> None:
    """ "I have sent everything" is passed on, and the answer still comes."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)

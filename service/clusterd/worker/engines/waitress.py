"""WSGI by waitress, 2.1.2 (Debian 12) and newer.

Its servers, channels, threads and loop are used, on a map of our own with the master's channel in it: an order ends the
loop. Requests run in waitress's threads, everything else in the main one. Nothing of ours is called for a request, and
while it serves the loop does not look at the channel either: it asks the kernel anew, turn by turn, of all it looks at.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import math
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

from .. import leaving
from ..board import Figures
from ..channel import Channel, Drain, Draining, Order, Serve
from ..trust import believing, everybody
from . import require, wsgi
from .orders import SIGTERM_TIMEOUT
from .pulse import Pulse, Threads

if TYPE_CHECKING:
    from ..boot import Boot, Http

LEAST = (2, 1, 2)

_BACKLOG = 4096
_CONNECTIONS = 4096
"""Connections without `max-connections`: waitress's own 100 is less than one browser farm keeps open."""

_STALLED = 120
"""Seconds without a byte, in the middle of an upload or a download, after which a client is gone: waitress's own."""

_TICK = 0.02
"""Seconds between two looks at the connections, during a drain only."""


def prepare(app: Any, boot: Boot) -> Waitress:
    """In the zygote. Raises Refusal."""
    http = boot.http
    version = require("waitress", LEAST)
    importlib.import_module("waitress.server")
    queue = logging.getLogger("waitress.queue")
    if queue.level == logging.NOTSET:
        queue.setLevel(logging.ERROR)  # a warning for each request that waits for a thread
    keep_alive = max(1, math.ceil(http.keep_alive))
    settings: dict[str, Any] = {
        "backlog": _BACKLOG,
        "channel_timeout": max(_STALLED, keep_alive),
        "cleanup_interval": 1,
        "url_prefix": http.root_path,
        "clear_untrusted_proxy_headers": True,
        "asyncore_use_poll": True,
        "threads": http.threads or 4,
    }
    if http.max_header_size is not None:
        settings["max_request_header_size"] = http.max_header_size
    if http.max_body_size is not None:
        settings["max_request_body_size"] = http.max_body_size
    if not http.server_header:
        settings["ident"] = ""
    return Waitress(f"waitress {version}", app, settings, boot, float(keep_alive))


class Waitress:
    def __init__(self, name: str, app: Any, settings: dict[str, Any], boot: Boot, keep_alive: float) -> None:
        self.name = name
        self._app = app
        self._settings = settings
        self._boot = boot
        self._keep_alive = keep_alive

    def run(self, listeners: list[socket.socket], channel: Channel) -> int:
        began = time.monotonic()
        if (path := self._boot.health_path) is not None:
            channel.awaits(f"GET {path}")
            wsgi.check_health(self._app, path)
        worker = _Worker(self._app, self._settings, self._boot, listeners, channel, self._keep_alive)
        channel.say("ready", seconds=round(time.monotonic() - began, 6))
        return worker.main()


class _Worker:
    """One worker's life, in the order of its methods."""

    def __init__(
        self,
        app: Any,
        settings: dict[str, Any],
        boot: Boot,
        listeners: list[socket.socket],
        channel: Channel,
        keep_alive: float,
    ) -> None:
        self._asyncore: Any = importlib.import_module("waitress.wasyncore")
        self._channel = channel
        self._keep_alive = keep_alive
        self._limit = boot.http.max_connections or _CONNECTIONS
        self._serve = False
        self._draining: Draining | None = None
        self._map: dict[int, Any] = {}
        self._closed = 0
        self._listeners = listeners
        self._servers: list[Any] = []
        self._threads = Threads(settings["threads"])
        self._open = _opener(self._threads.counted(app), settings, boot.http, self._map, keep_alive)
        self._pulse = Pulse(boot, channel, self._figures)
        self._pause = 0.0
        self._watch = select.epoll()
        """The master's channel, and the signals."""
        self._reader = _Reader(self._on_watched)
        self._wakeup, self._wakeup_end = socket.socketpair()
        self._wakeup_end.setblocking(False)

    def main(self) -> int:
        channel = self._channel
        channel.set_nonblocking()
        self._watch.register(channel.fileno(), select.EPOLLIN)
        self._watch.register(self._wakeup.fileno(), select.EPOLLIN)
        self._map[self._watch.fileno()] = self._reader
        signal.signal(signal.SIGTERM, self._on_sigterm)
        self._take(channel.pending())
        while not self._serve and self._draining is None:
            self._turn(30.0, None)
        if self._draining is None:
            self._servers = [self._open(sock) for sock in self._listeners]
            for server in self._servers:
                server.adj.connection_limit = self._limit + len(self._map)  # waitress counts all that is in the map
                server.accept_connections()
            channel.say("serving")
        self._beat()
        while self._draining is None:
            self._reader.look(False)
            threading.Thread(target=self._wait_for_orders, daemon=True).start()
            self._turn(1.0, None)  # waitress looks for idle connections when the loop turns
        self._finish(self._draining)
        return 0

    def _finish(self, until: Draining) -> None:
        self._stop_accepting()
        self._channel.say("draining")
        _answer_with_close()
        while self._connections() and (now := time.monotonic()) < until.deadline:
            if until.idle_may_close(now):
                self._close_idle(until.fresh_may_close(now))
            self._turn(min(_TICK, until.deadline - now), 1)
        cut = sum(_in_flight(c) or c.request is not None for c in self._connections())  # an upload is one's `request`
        self._channel.say("drained", requests=self._threads.requests, closed=self._closed, websockets=0, cut=cut)

    def _turn(self, timeout: float, count: int | None) -> None:
        """`count` turns of waitress's own loop, or as many as it takes; an order ends it."""
        with contextlib.suppress(self._asyncore.ExitNow):
            self._asyncore.loop(timeout=timeout, use_poll=True, map=self._map, count=count)

    def _connections(self) -> list[Any]:
        return [channel for server in self._servers for channel in list(server.active_channels.values())]

    def _beat(self) -> None:
        self._pause = self._pulse.beat()

    def _figures(self) -> Figures | None:
        return self._threads.figures(len(self._connections()))

    # drain

    def _stop_accepting(self) -> None:
        """Accepting and making a channel of it is one step of this thread, so there is nothing in between to lose.

        The server objects stay: its channels wake this thread through them.
        """
        for server in self._servers:
            server.accepting = False
            server.del_channel(self._map)
            server.socket.close()

    def _close_idle(self, fresh_too: bool) -> None:
        for channel in self._connections():
            fresh = channel.last_activity == channel.creation_time
            if channel.will_close or _in_flight(channel) or (fresh and not fresh_too) or _has_input(channel):
                continue
            with channel.requests_lock:
                if not channel.requests and channel.request is None:  # a request that has begun to arrive counts
                    channel.will_close = True
                    self._closed += 1

    # orders

    def _wait_for_orders(self) -> None:
        """In a thread, asleep until there is one: then the loop is to look, and is woken as its own threads do it.

        In the same way it is asked for a sign of life: one that does not turn gives none.
        """
        while not self._watch.poll(self._pause):
            self._servers[0].trigger.pull_trigger(self._beat)
        self._reader.look(True)
        self._servers[0].pull_trigger()

    def _on_watched(self) -> None:
        """Leaves the loop, which does not look at what came of it. In between two turns nothing is half done."""
        for fd, _ in self._watch.poll(0):
            if fd == self._wakeup.fileno():
                self._wakeup.recv(64)
                self._take([Drain(self._keep_alive, SIGTERM_TIMEOUT)])  # what the master would ask for
                continue
            self._take(self._channel.orders())
            if self._channel.lost:
                self._watch.unregister(fd)
        raise self._asyncore.ExitNow

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        """From somebody who is not the master. No more than a wake-up: what it interrupts may hold a lock that the
        threads of `leaving.begin` would wait for."""
        try:
            self._wakeup_end.send(b"x")
        except OSError:
            pass

    def _take(self, orders: list[Order]) -> None:
        for order in orders:
            if isinstance(order, Serve):
                self._serve = True
            elif self._draining is None:
                self._draining = Draining(order, time.monotonic())
                leaving.begin()
            else:
                self._draining.hasten(order, time.monotonic())


class _Reader:
    """As much of an asyncore dispatcher as the loop asks for."""

    accepting = False

    def __init__(self, on_read: Any) -> None:
        self.handle_read_event = self.handle_close = on_read
        self.writable = False.__bool__
        self.look(True)

    def look(self, now: bool) -> None:
        self.readable = now.__bool__  # asked in every turn of the loop: without a function of ours

    def handle_expt_event(self) -> None:
        pass

    def handle_error(self) -> None:
        raise  # called by the loop while it handles what went wrong


def _opener(
    app: Any, settings: dict[str, Any], http: Http, channels: dict[int, Any], keep_alive: float
) -> Callable[[socket.socket], Any]:
    """Makes a server object of a listener, all on one map and one set of threads; create_server() refuses a mix."""
    server_module: Any = importlib.import_module("waitress.server")
    adj = {unix: _adjustments(settings, http, unix) for unix in (False, True)}
    dispatcher = importlib.import_module("waitress.task").ThreadedTaskDispatcher()
    dispatcher.set_thread_count(adj[False].threads)

    def open(sock: socket.socket) -> Any:
        unix = sock.family == socket.AF_UNIX
        kind = server_module.UnixWSGIServer if unix else server_module.TcpWSGIServer
        info = (sock.family, sock.type, sock.proto, sock.getsockname())
        given = {"dispatcher": dispatcher, "adj": adj[unix], "bind_socket": False, "sockinfo": info}
        server = kind(app, channels, False, sock, **given)
        server.maintenance = functools.partial(_close_late, server, server.maintenance, keep_alive)
        return server

    return open


def _close_late(server: Any, close_stalled: Callable[[float], None], keep_alive: float, now: float) -> None:
    """Called by waitress every second. Its own time-out does not ask whether a connection is idle or just slow."""
    close_stalled(now)
    for channel in server.active_channels.values():
        idle = channel.request is None and not _in_flight(channel)
        # Where we have stood still, what came meanwhile waits in its socket.
        if idle and channel.last_activity < now - keep_alive and not _has_input(channel):
            channel.will_close = True


def _adjustments(settings: dict[str, Any], http: Http, unix: bool) -> Any:
    """The settings for listeners of that kind, and whom to believe there."""
    make: Any = importlib.import_module("waitress.adjustments").Adjustments
    if not http.forwarded_allow_ips or (unix and not everybody(http.forwarded_allow_ips, unix)):
        return make(**settings)
    headers = {"x-forwarded-for", "x-forwarded-proto"}
    made = make(**settings, trusted_proxy="*", trusted_proxy_count=1, trusted_proxy_headers=headers)
    if not everybody(http.forwarded_allow_ips, unix):
        made.trusted_proxy = _peers(http.forwarded_allow_ips)
    return made


def _peers(trusted: tuple[str, ...]) -> Any:
    """Equal to each address that is trusted: waitress has one trusted proxy, and compares the peer to it."""
    # No hash, as any class with its own idea of being equal.
    return type("Peers", (), {"__eq__": staticmethod(believing(trusted)), "__hash__": None})()


def _answer_with_close() -> None:
    """From now on every response whose header has not been written says `Connection: close`, in flight ones too.

    Both versions close when the *request* asked for it; patched only now, so it costs nothing while serving.
    """
    task: Any = importlib.import_module("waitress.task")
    build = task.Task.build_response_header

    def build_closing(self: Any) -> bytes:
        self.request.headers["CONNECTION"] = "close"
        self.close_on_finish = True
        header: bytes = build(self)
        return header

    task.Task.build_response_header = build_closing


def _in_flight(channel: Any) -> bool:
    return bool(channel.requests) or channel.total_outbufs_len > 0 or channel.close_when_flushed


def _has_input(channel: Any) -> bool:
    """Whether a request waits in the socket: closing it now would answer that with a reset."""
    poller = select.poll()
    poller.register(channel.socket.fileno(), select.POLLIN)
    return any(event & select.POLLIN for _, event in poller.poll(0))

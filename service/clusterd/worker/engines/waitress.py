"""WSGI by waitress, 2.1.2 (Debian 12) and newer.

Its servers, channels and threads are used; the loop is turned here, one poll at a time, so that the master's channel is
in it. Requests run in waitress's threads, everything else in the main one.
"""

from __future__ import annotations

import importlib
import itertools
import logging
import math
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

from ..channel import Channel, Drain, Draining, Order, Serve
from ..trust import Trusted, everybody
from . import require, wsgi

if TYPE_CHECKING:
    from ..boot import Boot, Http

LEAST = (2, 1, 2)

_BACKLOG = 4096
_CONNECTIONS = 4096
"""Connections without `max-connections`: waitress's own 100 is less than one browser farm keeps open."""

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
        "channel_timeout": keep_alive,
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
    return Waitress(f"waitress {version}", app, settings, http, boot.health_path, float(keep_alive))


class Waitress:
    def __init__(
        self, name: str, app: Any, settings: dict[str, Any], http: Http, health_path: str | None, keep_alive: float
    ) -> None:
        self.name = name
        self._app = app
        self._settings = settings
        self._http = http
        self._health_path = health_path
        self._keep_alive = keep_alive

    def run(self, listeners: list[socket.socket], channel: Channel) -> int:
        began = time.monotonic()
        if self._health_path is not None:
            wsgi.check_health(self._app, self._health_path)
        worker = _Worker(self._app, self._settings, self._http, listeners, channel, self._keep_alive)
        channel.say("ready", seconds=round(time.monotonic() - began, 6))
        return worker.main()


class _Worker:
    """One worker's life, in the order of its methods."""

    def __init__(
        self,
        app: Any,
        settings: dict[str, Any],
        http: Http,
        listeners: list[socket.socket],
        channel: Channel,
        keep_alive: float,
    ) -> None:
        self._asyncore: Any = importlib.import_module("waitress.wasyncore")
        self._channel = channel
        self._keep_alive = keep_alive
        self._limit = http.max_connections or _CONNECTIONS
        self._serve = False
        self._draining: Draining | None = None
        self._map: dict[int, Any] = {}
        self._requests = itertools.count()
        self._closed = 0
        self._listeners = listeners
        self._servers: list[Any] = []
        self._open = _opener(app, settings, http, self._map, self._requests)
        self._wakeup, self._wakeup_end = socket.socketpair()
        self._wakeup_end.setblocking(False)

    def main(self) -> int:
        channel = self._channel
        channel.set_nonblocking()
        self._map[channel.fileno()] = _Reader(self._on_channel)
        self._map[self._wakeup.fileno()] = _Reader(lambda: self._wakeup.recv(64))
        signal.signal(signal.SIGTERM, self._on_sigterm)
        self._take(channel.pending())
        while not self._serve and self._draining is None:
            self._turn(30.0)
        if self._draining is None:
            self._servers = [self._open(sock) for sock in self._listeners]
            for server in self._servers:
                server.adj.connection_limit = self._limit + len(self._map)  # waitress counts all that is in the map
                server.accept_connections()
            channel.say("serving")
        while self._draining is None:
            self._turn(1.0)  # waitress looks for idle connections when the loop turns
        self._finish(self._draining)
        return 0

    def _finish(self, draining: Draining) -> None:
        self._stop_accepting()
        self._channel.say("draining")
        _answer_with_close()
        while self._connections() and (now := time.monotonic()) < draining.deadline:
            if draining.idle_may_close(now):
                self._close_idle(draining.fresh_may_close(now))
            self._turn(min(_TICK, draining.deadline - now))
        cut = sum(_in_flight(c) for c in self._connections())
        self._channel.say("drained", requests=next(self._requests), closed=self._closed, websockets=0, cut=cut)

    def _turn(self, timeout: float) -> None:
        self._asyncore.loop(timeout=timeout, use_poll=True, map=self._map, count=1)

    def _connections(self) -> list[Any]:
        return [channel for server in self._servers for channel in list(server.active_channels.values())]

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

    def _on_channel(self) -> None:
        self._take(self._channel.orders())
        if self._channel.lost:
            self._map.pop(self._channel.fileno(), None)

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        """From somebody who is not the master; he gets the drain the master would ask for."""
        self._take([Drain(self._keep_alive, 30.0)])
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
            else:
                self._draining.hasten(order, time.monotonic())


class _Reader:
    """As much of an asyncore dispatcher as the loop asks for."""

    accepting = False

    def __init__(self, on_read: Any) -> None:
        self.handle_read_event = self.handle_close = on_read

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def handle_expt_event(self) -> None:
        pass

    def handle_error(self) -> None:
        raise  # called by the loop while it handles what went wrong


def _opener(
    app: Any, settings: dict[str, Any], http: Http, channels: dict[int, Any], requests: Iterator[int]
) -> Callable[[socket.socket], Any]:
    """Makes a server object of a listener, all on one map and one set of threads; create_server() refuses a mix."""
    server_module: Any = importlib.import_module("waitress.server")
    base: Any = importlib.import_module("waitress.channel").HTTPChannel

    class Counted(base):  # type: ignore[misc]  # of whatever version is installed
        def service(self) -> None:
            next(requests)
            super().service()

    adj = {unix: _adjustments(settings, http, unix) for unix in (False, True)}
    dispatcher = importlib.import_module("waitress.task").ThreadedTaskDispatcher()
    dispatcher.set_thread_count(adj[False].threads)

    def open(sock: socket.socket) -> Any:
        unix = sock.family == socket.AF_UNIX
        kind = server_module.UnixWSGIServer if unix else server_module.TcpWSGIServer
        info = (sock.family, sock.type, sock.proto, sock.getsockname())
        given = {"dispatcher": dispatcher, "adj": adj[unix], "bind_socket": False, "sockinfo": info}
        server = kind(app, channels, False, sock, **given)
        server.channel_class = Counted
        return server

    return open


def _adjustments(settings: dict[str, Any], http: Http, unix: bool) -> Any:
    """The settings for listeners of that kind, and whom to believe there."""
    make: Any = importlib.import_module("waitress.adjustments").Adjustments
    if not http.forwarded_allow_ips or (unix and not everybody(http.forwarded_allow_ips, unix)):
        return make(**settings)
    headers = {"x-forwarded-for", "x-forwarded-proto"}
    made = make(**settings, trusted_proxy="*", trusted_proxy_count=1, trusted_proxy_headers=headers)
    if not everybody(http.forwarded_allow_ips, unix):
        made.trusted_proxy = _Peers(http.forwarded_allow_ips)
    return made


class _Peers:
    """Equal to each address that is trusted: waitress has one trusted proxy, and compares the peer to it."""

    def __init__(self, trusted: tuple[str, ...]) -> None:
        self._trusted = Trusted(trusted)

    def __eq__(self, other: object) -> bool:
        return other in self._trusted

    __hash__ = None  # type: ignore[assignment]  # as of any class with its own idea of being equal


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

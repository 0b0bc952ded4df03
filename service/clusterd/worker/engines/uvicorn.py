"""ASGI by uvicorn, 0.17.6 (Debian 12) and newer.

Uvicorn's parsers, protocols and event loop are used; its start, signals and shutdown are not. Nothing of ours is on the
path of a request before the drain: then each live connection is told once to answer with `Connection: close`.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import importlib
import inspect
import logging
import select
import socket
import time
import weakref
from typing import TYPE_CHECKING, Any

from .. import exiting, tls
from ..board import Figures
from ..channel import Channel, Draining
from ..refusal import Refusal
from ..trust import believing, literals
from . import asgi, require, require_module
from .goodbyes import Goodbyes
from .orders import Orders
from .pulse import LoopPulse

if TYPE_CHECKING:
    from ..boot import Boot

LEAST = (0, 17, 6)

_CLOSE = (b"connection", b"close")
_BACKLOG = 4096
_TICK = 0.02
"""Seconds between two looks at the connections, during a drain only."""


def prepare(app: Any, boot: Boot) -> Uvicorn:
    """In the zygote: everything that needs no event loop, so that workers share it. Raises Refusal."""
    http = boot.http
    version = require("uvicorn", LEAST)
    for part in (http.parser, http.loop, http.ws):
        if part not in ("auto", "none", "asyncio"):
            require_module(part)
    uvicorn = importlib.import_module("uvicorn")
    server_module = importlib.import_module("uvicorn.server")
    logger = logging.getLogger("uvicorn.error")
    if not boot.access_log and logger.level == logging.NOTSET and boot.log_level != "debug":
        logger.setLevel(logging.WARNING)  # it tells of every WebSocket at level info, which is an access log
    settings: dict[str, Any] = {}
    if http.max_header_size is not None:
        settings["h11_max_incomplete_event_size"] = http.max_header_size  # 0.17.6 knows it not; abilities.py
    trusted = http.forwarded_allow_ips
    config = uvicorn.Config(
        lambda: app,
        factory=True,  # without it load() tries whether the application is one, by calling it
        log_config=None,
        access_log=boot.access_log,
        lifespan="off",
        interface="asgi3",
        http=http.parser,
        loop=http.loop,
        ws=http.ws,
        ws_max_size=http.ws_max_size,
        ws_ping_interval=http.ws_ping_interval or None,
        ws_ping_timeout=http.ws_ping_timeout or None,
        server_header=http.server_header,
        date_header=http.date_header,
        proxy_headers=bool(trusted),
        forwarded_allow_ips="*" if "*" in trusted else ",".join(literals(trusted)),
        root_path=http.root_path,
        limit_concurrency=http.max_connections,
        timeout_keep_alive=http.keep_alive,
        backlog=_BACKLOG,
        workers=1,
        **settings,
    )
    config.load()
    if boot.tls is not None:
        config.ssl = tls.context(boot.tls)
    with contextlib.suppress(ImportError):
        importlib.import_module("uvloop")  # what each worker would import, and does if it is there
    state = server_module.ServerState()
    if not (hasattr(config, "encoded_headers") and hasattr(state, "default_headers") and hasattr(state, "connections")):
        raise Refusal(f"uvicorn {version} is not known to this version of clusterd: install an earlier one")
    return Uvicorn(f"uvicorn {version}", config, boot)


class Uvicorn:
    def __init__(self, name: str, config: Any, boot: Boot) -> None:
        self.name = name
        self._config = config
        self._boot = boot

    def run(self, listeners: list[socket.socket], channel: Channel) -> int:
        loop = self._new_loop()
        asyncio.set_event_loop(loop)
        worker = _Worker(self._config, self._boot, listeners, channel)
        return exiting.run(loop, worker.main(), worker.cuts)

    def _new_loop(self) -> asyncio.AbstractEventLoop:
        get_factory = getattr(self._config, "get_loop_factory", None)  # since 0.36
        if get_factory is None:
            self._config.setup_event_loop()
            return asyncio.new_event_loop()
        factory = get_factory()
        loop: asyncio.AbstractEventLoop = (factory or asyncio.new_event_loop)()
        return loop


class _Worker:
    """One worker's life, in the order of its methods."""

    def __init__(self, config: Any, boot: Boot, listeners: list[socket.socket], channel: Channel) -> None:
        uvicorn = importlib.import_module("uvicorn")
        self._config = config
        self._boot = boot
        self._trusted = boot.http.forwarded_allow_ips
        self._health_path = boot.health_path
        self._listeners = listeners
        self._channel = channel
        self._server: Any = uvicorn.Server(config)
        self._state: Any = self._server.server_state
        self._tick: asyncio.Task[None] | None = None
        self._noted: weakref.WeakSet[Any] = weakref.WeakSet()
        if config.ssl is not None:
            config.http_protocol_class = _noting(config.http_protocol_class, self._noted)
        self._goodbyes = Goodbyes()
        self._closed = 0
        self._cut = 0
        self._websockets = 0

    def cuts(self) -> bool:
        """Whether requests are under way that will not be answered any more."""
        return self._cut > 0 or bool(self._state.tasks)

    async def main(self) -> int:
        orders = Orders(self._channel, self._config.timeout_keep_alive)
        await self._start()
        if await orders.serve():
            await self._accept()
        await self._finish(await orders.drain())
        orders.close()
        return 0

    async def _start(self) -> None:
        began = time.monotonic()
        # Requests have a state of the lifespan's since the version that hands one to each protocol.
        with_state = "app_state" in inspect.signature(self._config.http_protocol_class.__init__).parameters
        self._lifespan = asgi.Lifespan(self._config.loaded_app, with_state)
        self._server.lifespan = self._lifespan
        self._channel.awaits("lifespan startup")
        await self._lifespan.startup()
        if self._health_path is not None:
            self._channel.awaits(f"GET {self._health_path}")
            state = self._lifespan.state if with_state else None
            try:
                await asgi.check_health(self._config.loaded_app, self._health_path, state)
            except Refusal:
                await self._lifespan.shut_down_by(0.0)
                raise
        self._pulse = LoopPulse(self._boot, self._channel, self._figures)
        self._channel.say("ready", seconds=round(time.monotonic() - began, 6))

    def _figures(self) -> Figures:
        return Figures(self._state.total_requests, len(self._state.tasks), len(self._state.connections))

    async def _accept(self) -> None:
        if any(sock.family == socket.AF_UNIX for sock in self._listeners):
            _trust_unix(self._config, self._trusted)
        # The first tick makes the default headers, which 0.17.6 gives to a connection once and for all.
        await self._server.on_tick(0)
        await self._server.startup(sockets=self._listeners)
        self._tick = asyncio.create_task(self._server.main_loop())
        self._channel.say("serving")

    async def _finish(self, draining: Draining) -> None:
        await self._stop_accepting()
        self._channel.say("draining")
        self._answer_with_close()
        await self._wait_for_clients(draining)
        self._cut = sum(_in_flight(p) or p.transport.get_write_buffer_size() > 0 for p in self._http())
        if self._tick is not None:
            self._tick.cancel()
        await self._lifespan.shut_down_by(draining.deadline)
        self._pulse.stop()
        self._channel.say(
            "drained",
            requests=self._state.total_requests,
            closed=self._closed,
            websockets=self._websockets,
            cut=self._cut,
        )

    # drain

    async def _stop_accepting(self) -> None:
        """Leave the queue to the successor, and keep what has been taken from it.

        asyncio drops a connection whose listener is closed between accept() and the set-up of its transport, which runs
        in a task: first stop reading, then wait for those tasks, then close. uvloop does both in one step.
        """
        loop = asyncio.get_running_loop()
        servers = getattr(self._server, "servers", [])
        for server in servers:
            if isinstance(server, asyncio.base_events.Server):
                for sock in server.sockets or ():
                    loop.remove_reader(sock.fileno())
        while being_set_up := [t for t in asyncio.all_tasks() if _is_accept(t)]:
            if self._config.ssl is not None:
                # These end with the handshake, when the client likes; after their first step they are safe.
                await asyncio.sleep(0)
                break
            await asyncio.wait(being_set_up)
        for server in servers:
            server.close()
        for sock in self._listeners:
            sock.close()
        # The callbacks that announce the last connections have been queued before this one.
        for _ in range(3):
            await asyncio.sleep(0)

    def _answer_with_close(self) -> None:
        """Every response that has not begun yet gets `Connection: close`, on every connection there is."""
        self._config.encoded_headers = [*self._config.encoded_headers, _CLOSE]  # on_tick makes the headers from these
        self._state.default_headers = [*self._state.default_headers, _CLOSE]
        for protocol in [*self._http(), *self._handshakes()]:
            self._tell(protocol)

    def _tell(self, protocol: Any) -> None:
        if hasattr(protocol, "default_headers"):
            protocol.default_headers = self._state.default_headers
        if protocol.cycle is not None:
            protocol.cycle.default_headers = [*protocol.cycle.default_headers, _CLOSE]
        if getattr(protocol, "ws_protocol_class", None) is not None:
            protocol.ws_protocol_class = functools.partial(_websocket, protocol.ws_protocol_class)

    async def _wait_for_clients(self, draining: Draining) -> None:
        told = False
        while self._state.connections or self._state.tasks or self._handshakes():
            now = time.monotonic()
            if draining.idle_may_close(now):
                self._close_idle(draining.fresh_may_close(now))
                self._close_websockets()
                if draining.fresh_may_close(now):
                    self._noted.clear()  # who has not shaken hands by now may be nobody
                if not told:
                    told = True
                    for protocol in self._http():
                        if _in_flight(protocol):
                            protocol.shutdown()  # responses that had begun before the drain: close after them too
            if self._config.ssl is not None:
                self._goodbyes.hang_up([p.transport for p in self._state.connections], now)
            if now >= draining.deadline:  # whoever has stood still until then has told the idle now
                return
            await asyncio.sleep(min(_TICK, max(0.0, draining.deadline - now)))

    def _close_idle(self, fresh_too: bool) -> None:
        for protocol in self._http():
            if _is_idle(protocol, fresh_too) and not protocol.transport.is_closing():
                protocol.shutdown()
                self._closed += 1

    def _close_websockets(self) -> None:
        for protocol in list(self._state.connections):
            if hasattr(protocol, "cycle") or protocol.transport.is_closing() or not _is_open(protocol):
                continue
            if hasattr(protocol, "fail_connection"):
                # 0.17.6 just drops the connection; newer ones do the same as this, and find it done.
                protocol.ws_server.closing = True
                protocol.fail_connection(1012)
            protocol.shutdown()
            self._websockets += 1

    def _handshakes(self) -> list[Any]:
        """Connections whose TLS handshake is under way: uvicorn is not told of them yet."""
        return [p for p in list(self._noted) if p.transport is None]

    def _http(self) -> list[Any]:
        return [p for p in list(self._state.connections) if hasattr(p, "cycle")]


def _trust_unix(config: Any, trusted: tuple[str, ...]) -> None:
    """Let the proxy at the other end of a UNIX socket be believed, which has no address to be named by."""
    if "unix" not in trusted:
        return
    middleware = config.loaded_app
    hosts = middleware.trusted_hosts
    if isinstance(hosts, set):  # before 0.31
        hosts.add(None)
        return
    base: Any = type(hosts)

    class WithUnix(base):  # type: ignore[misc]  # of whatever version is installed
        __contains__ = staticmethod(believing(trusted))

    middleware.trusted_hosts = WithUnix(literals(trusted))


def _noting(base: Any, noted: weakref.WeakSet[Any]) -> Any:
    """The protocol's class, which notes each connection that is made: none of a request's doing."""

    class Noting(base):  # type: ignore[misc]  # of whatever version is installed
        def __new__(cls, *arguments: Any, **named: Any) -> Any:  # the signature of __init__ is looked at
            made = super().__new__(cls)
            noted.add(made)
            return made

    return Noting


def _is_accept(task: asyncio.Task[Any]) -> bool:
    return getattr(task.get_coro(), "__name__", "") == "_accept_connection2"


def _in_flight(protocol: Any) -> bool:
    return protocol.cycle is not None and not protocol.cycle.response_complete


def _is_idle(protocol: Any, fresh_too: bool) -> bool:
    if _in_flight(protocol):
        return False
    if protocol.cycle is None and not fresh_too:
        return False
    if protocol.cycle is not None and protocol.timeout_keep_alive_task is None:
        return False  # the first bytes of another request have stopped the timer
    return not _has_input(protocol.transport)


def _has_input(transport: Any) -> bool:
    """Whether a request waits in the socket: closing it now would answer that with a reset."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        return False
    poller = select.poll()
    poller.register(sock.fileno(), select.POLLIN)
    return any(event & select.POLLIN and not event & select.POLLHUP for _, event in poller.poll(0))


def _is_open(protocol: Any) -> bool:
    """Whether a WebSocket's handshake is over; before, a close frame would be a protocol error."""
    event = getattr(protocol, "handshake_completed_event", None)
    return event.is_set() if event is not None else getattr(protocol, "handshake_complete", True)


def _websocket(protocol_class: Any, **arguments: Any) -> Any:
    """A WebSocket opened on a kept connection during the drain: its handshake must not say `Connection: close`."""
    state = copy.copy(arguments["server_state"])
    state.default_headers = [h for h in state.default_headers if h != _CLOSE]
    return protocol_class(**{**arguments, "server_state": state})

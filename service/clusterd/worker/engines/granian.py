"""WSGI and ASGI by granian 2.8: hyper and tokio in threads of Rust, Python for the application alone.

Its worker classes are used, one for each listener; its processes, signals and command line are not. They are not a
public interface, which is why the range has an upper end. Nothing of ours is on the path of a request before the drain.

A drain has three means. A listener of nobody's is put over the descriptor that granian accepts from (dup2): it goes on
accepting, in vain, and keeps its connections. The object that makes responses is exchanged for one that adds
`Connection: close`. After `linger`, granian's own signal lets idle connections go, and HTTP/2 by GOAWAY.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from ..channel import Channel, Draining
from ..refusal import Refusal
from ..trust import Trusted
from . import asgi, require, require_module, wsgi
from .accepted import Accepted, ignore, is_idle
from .orders import Orders

if TYPE_CHECKING:
    from ..boot import Boot, Tls

LEAST = (2, 8, 0)
"""Before 2.7.9 a slow WSGI request could hold up others (its #874), before 2.8 ASGI is for one listener."""

BEFORE = (2, 9)

_BACKLOG = 4096
_CONNECTIONS = 4096
"""Connections without `max-connections`; granian's own default is a quarter of that, shared by its workers."""

_THREADS = 16
"""Threads that run WSGI requests. They are started when all others are busy."""

_TICK = 0.02
"""Seconds between two looks at the connections, during a drain only."""

_LAST = 0.1
"""Seconds before the end of a drain by which idle connections are let go, so that what is left was in flight."""

_ARGUMENTS = frozenset({"sock", "threads", "py_threads", "backpressure", "http_mode", "http1_opts", "static_files"})


def prepare(app: Any, interface: Literal["asgi", "wsgi"], boot: Boot) -> Granian:
    """In the zygote: granian's runtime and threads are started by the workers. Raises Refusal."""
    version = require("granian", LEAST, BEFORE)
    _refuse_other_interface(interface, boot)
    if boot.http.loop == "uvloop":
        require_module("uvloop")
    rust = importlib.import_module("granian._granian")
    wrapper = importlib.import_module(f"granian.{interface}")
    known = hasattr(wrapper, "_callback_wrapper") and _parameters(rust.WSGIWorker) >= _ARGUMENTS
    if not known or _parameters(rust.SocketHolder) != {"fd", "uds", "backlog"}:
        raise Refusal(f"granian {version} is not known to this version of clusterd: install an earlier one")
    logger = logging.getLogger("_granian")
    if logger.level == logging.NOTSET and boot.log_level != "debug":
        logger.setLevel(logging.WARNING)  # it tells of its own start and end at level info
    for module in ("_loops", "_futures", "http", "log", "utils.proxies"):  # what each worker would import
        importlib.import_module(f"granian.{module}")
    return Granian(f"granian {version}", app, interface, boot)


def _refuse_other_interface(interface: str, boot: Boot) -> None:
    """A key that granian knows for the other interface alone. Raises Refusal."""
    http = boot.http
    if interface == "asgi" and http.threads is not None:
        raise Refusal("http.threads: an ASGI application has no request threads, it makes its own: leave it out")
    if interface == "wsgi" and (http.loop != "auto" or http.ws not in ("auto", "none")):
        key = "loop" if http.loop != "auto" else "ws"
        raise Refusal(f"http.{key}: WSGI has no event loop and no WebSockets; instead: leave it out")


def _parameters(rust_class: Any) -> set[str]:
    return set(inspect.signature(rust_class).parameters)


class Granian:
    def __init__(self, name: str, app: Any, interface: str, boot: Boot) -> None:
        self.name = name
        self.app = app
        self.interface = interface
        self.boot = boot

    def run(self, listeners: list[socket.socket], channel: Channel) -> int:
        loops: Any = importlib.import_module("granian._loops").loops
        # The main thread of a WSGI worker only waits for orders: a faster loop would be for nothing.
        loop: asyncio.AbstractEventLoop = loops.get(self.boot.http.loop if self.interface == "asgi" else "asyncio")
        asyncio.set_event_loop(loop)
        application: _Application = (_Asgi if self.interface == "asgi" else _Wsgi)(self)
        return loop.run_until_complete(_Worker(self, application, listeners, channel).main())


class _Worker:
    """One worker's life, in the order of its methods."""

    def __init__(
        self, engine: Granian, application: _Application, listeners: list[socket.socket], channel: Channel
    ) -> None:
        self._engine = engine
        self._application = application
        self._accepted = Accepted(())
        self._listeners = listeners
        self._channel = channel
        self._servers: _Servers | None = None
        self._closed = 0

    async def main(self) -> int:
        orders = Orders(self._channel, self._engine.boot.http.keep_alive)
        began = time.monotonic()
        await self._application.start()
        self._channel.say("ready", seconds=round(time.monotonic() - began, 6))
        if await orders.serve():
            self._accepted = Accepted(self._listeners)  # a spare has none before
            self._servers = _Servers(self._engine, self._application, self._listeners)
            self._channel.say("serving")
        draining = await orders.drain()
        if self._servers is not None:
            self._servers.stop_accepting()
            self._application.answer_with_close()
        self._channel.say("draining")
        cut = 0
        if self._servers is not None:
            await self._wait_for_clients(self._servers, draining)
            cut = len(self._accepted.fds())
        await self._application.stop(draining.deadline)
        # Nobody counts requests: that would be something of ours in each.
        self._channel.say(
            "drained", requests=None, closed=self._closed, websockets=self._application.websockets, cut=cut
        )
        orders.close()
        return 0

    async def _wait_for_clients(self, servers: _Servers, draining: Draining) -> None:
        let_go = False
        while (now := time.monotonic()) < draining.deadline:
            fds = self._accepted.fds()
            if let_go:
                if not fds and servers.stopped and not self._application.busy():
                    return
            elif not fds or draining.fresh_may_close(now) or now >= draining.deadline - _LAST:
                let_go = True
                if self._application.close_websockets():
                    await asyncio.sleep(_TICK)  # let_go ends the applications' receive(), which must not come first
                self._closed = max(0, sum(map(is_idle, fds)) - self._application.websockets)
                servers.let_go()
            # A look at many connections takes its time: never more than a tenth of it.
            pause = max(_TICK, 10 * (time.monotonic() - now))
            await asyncio.sleep(min(pause, max(0.0, draining.deadline - now)))


class _Servers:
    """granian's worker objects, one for each listener, all of one application."""

    def __init__(self, engine: Granian, application: _Application, listeners: list[socket.socket]) -> None:
        self._rust: Any = importlib.import_module("granian._granian")
        self._fds: list[tuple[int, bool]] = []
        self._signals: list[Any] = []
        self._running = 0
        self._loop = asyncio.get_running_loop()
        for sock in listeners:
            self._start(sock, engine, application)
            sock.close()

    @property
    def stopped(self) -> bool:
        """Whether every connection that is not a WebSocket has ended, after `let_go`."""
        return self._running == 0

    def _start(self, listener: socket.socket, engine: Granian, application: _Application) -> None:
        rust, unix = self._rust, listener.family == socket.AF_UNIX
        fd = os.dup(listener.fileno())  # granian's for good
        kind = getattr(rust, f"{engine.interface.upper()}Worker")
        holder = rust.SocketHolder(fd, unix, _BACKLOG)
        signal = rust.WorkerSignal()
        signal.add_cb(self._on_stopped)
        with _certificate(engine.boot.tls) as tls:
            worker = kind(worker_id=1, sock=(None, holder), **_settings(engine, kind), **tls)
            serve = worker.serve_mtr_uds if unix else worker.serve_mtr
            serve(application.scheduler, self._loop, signal)
        self._fds.append((fd, unix))
        self._signals.append(signal)
        self._running += 1

    def stop_accepting(self) -> None:
        """Leave the queue to the successor. What is being accepted in another thread this very moment is kept."""
        for fd, unix in self._fds:
            ignore(fd)
            with _nobodys_listener(unix) as other:
                os.dup2(other.fileno(), fd, inheritable=False)

    def let_go(self) -> None:
        """Close idle connections, after their answer those in flight; HTTP/2 ends by GOAWAY."""
        for signal in self._signals:
            signal.set()

    def _on_stopped(self) -> None:
        """In a thread of granian's, which ends the runtime when this returns: WebSockets are still being closed."""
        self._loop.call_soon_threadsafe(self._one_stopped)
        threading.Event().wait()

    def _one_stopped(self) -> None:
        self._running -= 1


def _nobodys_listener(unix: bool) -> socket.socket:
    """A listener nobody can be accepted from: it is of the other family, whose addresses granian drops."""
    sock = socket.socket(socket.AF_INET if unix else socket.AF_UNIX)
    sock.bind(("127.0.0.1", 0) if unix else b"\0clusterd-" + secrets.token_hex(16).encode())
    sock.listen(1)
    sock.setblocking(False)
    return sock


def _settings(engine: Granian, kind: Any) -> dict[str, Any]:
    """Everything but the socket and TLS, for any version."""
    http, tls, http_module = engine.boot.http, engine.boot.tls, importlib.import_module("granian.http")
    # hyper waits as long for the next request of a kept connection as for the rest of a header.
    one = http_module.HTTP1Settings(header_read_timeout=max(1, round(http.keep_alive * 1000)))
    one.keep_alive = http.keep_alive > 0
    two = http_module.HTTP2Settings()
    if http.max_header_size is not None:
        one.max_buffer_size = two.max_headers_size = http.max_header_size
    settings: dict[str, Any] = {
        "threads": 1,
        "blocking_threads": 512,  # tokio's own, for files; they are started when needed
        "py_threads": (http.threads or _THREADS) if engine.interface == "wsgi" else 1,
        "py_threads_idle_timeout": 30,
        "backpressure": http.max_connections or _CONNECTIONS,
        "http_mode": http.version,
        "http1_opts": one,
        "http2_opts": two,
        "ssl_crl": [],
        "websockets_enabled": http.ws != "none",
        "ssl_protocol_min": f"tls{tls.minimum_version if tls else '1.2'}",
        "ipc": None,
        "metrics": (None, None),
    }
    return {key: value for key, value in settings.items() if key in _parameters(kind)}


@contextlib.contextmanager
def _certificate(tls: Tls | None) -> Iterator[dict[str, Any]]:
    """The arguments for TLS. granian reads files, while it starts: they are in memory, and gone afterwards."""
    if tls is None:
        yield {}
        return
    with _memory(tls.certificate) as certificate, _memory(tls.key) as key:
        yield {"ssl_enabled": True, "ssl_cert": certificate, "ssl_key": key}


@contextlib.contextmanager
def _memory(text: str) -> Iterator[str]:
    fd = os.memfd_create("clusterd-pem", os.MFD_CLOEXEC)
    with open(fd, "w") as file:
        file.write(text)
        file.flush()
        yield f"/proc/self/fd/{fd}"


class _Application:
    """What granian calls, and what becomes of it at a drain."""

    scheduler: Any
    websockets = 0

    def __init__(self, engine: Granian) -> None:
        self._engine = engine
        self._http = engine.boot.http
        log: Any = importlib.import_module("granian.log")
        self._log_format = log.DEFAULT_ACCESSLOG_FMT if engine.boot.access_log else None

    async def start(self) -> None:
        """Raises Refusal."""

    async def stop(self, deadline: float) -> None: ...

    def answer_with_close(self) -> None: ...

    def close_websockets(self) -> bool:
        """Begin to; whether there are any."""
        return False

    def busy(self) -> bool:
        return False

    def _behind_proxies(self, app: Any) -> Any:
        trusted = self._http.forwarded_allow_ips
        if not trusted:
            return app
        proxies: Any = importlib.import_module("granian.utils.proxies")
        wrapped = getattr(proxies, f"wrap_{self._engine.interface}_with_proxy_headers")(app)
        _cell(wrapped, "forwarders").cell_contents = _believed(proxies._Forwarders, trusted)
        return wrapped

    def _schedule(self, callback: Any) -> None:
        futures: Any = importlib.import_module("granian._futures")
        self.scheduler = futures._new_cbscheduler(asyncio.get_running_loop(), callback, impl_asyncio=True)


def _believed(base: Any, trusted: tuple[str, ...]) -> Any:
    """granian's object of whom to believe, asked our way: it knows no UNIX sockets, and parses each peer anew."""

    class Believed(base):  # type: ignore[misc]  # of whatever version is installed
        def __init__(self) -> None:
            self.always_trust = "*" in trusted
            self._trusted = Trusted(trusted)

        def __contains__(self, peer: str | None) -> bool:
            return (peer or None) in self._trusted

    return Believed()


class _Wsgi(_Application):
    async def start(self) -> None:
        if self._engine.boot.health_path is not None:
            wsgi.check_health(self._engine.app, self._engine.boot.health_path)
        module: Any = importlib.import_module("granian.wsgi")
        app = _below(self._http.root_path, self._behind_proxies(self._engine.app))
        self._schedule(module._callback_wrapper(app, {}, self._log_format))

    def answer_with_close(self) -> None:
        """Every response whose start has not been told says `Connection: close`, in flight ones too."""
        response: Any = importlib.import_module("granian.wsgi").Response
        start = response.__call__

        def start_closing(self: Any, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            kept = [header for header in headers if header[0].lower() != "connection"]
            return start(self, status, [*kept, ("Connection", "close")], exc_info)

        response.__call__ = start_closing


def _below(root_path: str, app: Any) -> Any:
    """granian's own cuts as many characters off any path, also where a proxy has done it."""
    if not root_path:
        return app

    def mounted(environ: dict[str, Any], start_response: Any) -> Any:
        environ["SCRIPT_NAME"] = root_path
        path = environ["PATH_INFO"]
        if path == root_path or path.startswith(f"{root_path}/"):
            environ["PATH_INFO"] = path[len(root_path) :]
        return app(environ, start_response)

    return mounted


class _Asgi(_Application):
    async def start(self) -> None:
        app = self._engine.app
        self._lifespan = asgi.Lifespan(app, True)
        await self._lifespan.startup()
        if self._engine.boot.health_path is not None:
            try:
                await asgi.check_health(app, self._engine.boot.health_path, self._lifespan.state)
            except Refusal:
                await self._lifespan.shut_down_by(0.0)
                raise
        module: Any = importlib.import_module("granian.asgi")
        futures: Any = importlib.import_module("granian._futures")
        self._callback = module._callback_wrapper(
            self._behind_proxies(app),
            {"url_path_prefix": self._http.root_path},
            self._lifespan.state,
            self._log_format,
        )
        watcher = futures._future_watcher_wrapper(self._callback)
        self._code = watcher.__code__
        self._closing: set[asyncio.Task[None]] = set()
        self._schedule(watcher)

    async def stop(self, deadline: float) -> None:
        await self._lifespan.shut_down_by(deadline)

    def answer_with_close(self) -> None:
        """Every request that begins now. One in flight is told when granian lets go of its connection."""
        cell = _cell(self._callback, "callback")
        app = cell.cell_contents

        def closing(scope: Any, receive: Any, send: Any) -> Any:
            if scope["type"] != "http" or scope["http_version"].startswith("2"):
                return app(scope, receive, send)

            def send_closing(message: dict[str, Any]) -> Any:
                if message["type"] == "http.response.start":
                    kept = [
                        header for header in message.get("headers", ()) if bytes(header[0]).lower() != b"connection"
                    ]
                    message = {**message, "headers": [*kept, (b"connection", b"close")]}
                return send(message)

            return app(scope, receive, send_closing)

        cell.cell_contents = closing

    def close_websockets(self) -> bool:
        for watcher in self._calls():
            if watcher.scope["type"] == "websocket":
                self.websockets += 1
                task = asyncio.ensure_future(_restart(watcher.proto))
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)
        return self.websockets > 0

    def busy(self) -> bool:
        return bool(self._closing) or any(self._calls())

    def _calls(self) -> Iterator[Any]:
        """granian's own object of each request in flight, found in the frame of its task: nobody keeps a list."""
        for task in asyncio.all_tasks():
            frame = getattr(task.get_coro(), "cr_frame", None)
            if frame is not None and frame.f_code is self._code:
                yield frame.f_locals["watcher"]


async def _restart(proto: Any) -> None:
    with contextlib.suppress(Exception):  # the client was faster
        await proto.send({"type": "websocket.close", "code": 1012, "reason": ""})


def _cell(function: Any, name: str) -> Any:
    """The cell of `name` in a closure, or in one that it holds."""
    for free, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if free == name:
            return cell
        inner = cell.cell_contents
        if inspect.isfunction(inner) and (found := _cell(inner, name)) is not None:
            return found
    return None

"""The application as granian calls it, and what becomes of its requests and WebSockets at a drain."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import inspect
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ...board import Figures
from ...refusal import Refusal
from ...trust import believing
from .. import asgi, wsgi
from ..pulse import Count, Threads
from .servers import THREADS

if TYPE_CHECKING:
    from ...boot import Boot


class Application:
    """What granian calls, and what becomes of it at a drain."""

    interface: str
    scheduler: Any
    """For granian's workers, once started."""
    websockets = 0
    """Those that were told 1012, or are to be."""

    def __init__(self, app: Any, boot: Boot) -> None:
        self._app = app
        self._health_path = boot.health_path
        self._http = boot.http
        log: Any = importlib.import_module("granian.log")
        self._log_format = log.DEFAULT_ACCESSLOG_FMT if boot.access_log else None

    async def start(self, awaits: Callable[[str], None]) -> None:
        """Raises Refusal. `awaits` is told what it waits for."""

    async def stop(self, deadline: float) -> None: ...

    def answer_with_close(self) -> None: ...

    def close_websockets(self) -> bool:
        """Begin to; whether there are any."""
        return False

    async def told(self, seconds: float) -> None:
        """Until each WebSocket has been told, `seconds` at most."""

    @property
    def untold(self) -> int:
        """WebSockets that are yet to be told."""
        return 0

    def busy(self) -> bool:
        """Whether it is at work, be it for a client that has gone."""
        return False

    def figures(self) -> Figures | None:
        """What it does now; None when it does not get on with it."""
        raise NotImplementedError

    @property
    def requests(self) -> int:
        """Begun so far."""
        raise NotImplementedError

    def _behind_proxies(self, app: Any) -> Any:
        trusted = self._http.forwarded_allow_ips
        if not trusted:
            return app
        proxies: Any = importlib.import_module("granian.utils.proxies")
        wrapped = getattr(proxies, f"wrap_{self.interface}_with_proxy_headers")(app)
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

        __contains__ = staticmethod(believing(trusted))

    return Believed()


class Wsgi(Application):
    interface = "wsgi"

    def __init__(self, app: Any, boot: Boot) -> None:
        super().__init__(app, boot)
        self._threads = Threads(boot.http.threads or THREADS)

    def figures(self) -> Figures | None:
        # Its connections are granian's own: to find them takes a look at every descriptor.
        return self._threads.figures(None)

    @property
    def requests(self) -> int:
        return self._threads.requests

    def busy(self) -> bool:
        return self._threads.busy

    async def start(self, awaits: Callable[[str], None]) -> None:
        if self._health_path is not None:
            awaits(f"GET {self._health_path}")
            wsgi.check_health(self._app, self._health_path)
        module: Any = importlib.import_module("granian.wsgi")
        app = _below(self._http.root_path, self._behind_proxies(self._threads.counted(self._app)))
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


class Asgi(Application):
    interface = "asgi"

    def __init__(self, app: Any, boot: Boot) -> None:
        super().__init__(app, boot)
        self._begun = Count()

    def figures(self) -> Figures:
        return Figures(self._begun.value, sum(1 for _ in self._calls()), None)

    @property
    def requests(self) -> int:
        return self._begun.value

    async def start(self, awaits: Callable[[str], None]) -> None:
        app = self._app
        self._lifespan = asgi.Lifespan(app, True)
        awaits("lifespan startup")
        await self._lifespan.startup()
        if self._health_path is not None:
            awaits(f"GET {self._health_path}")
            try:
                await asgi.check_health(app, self._health_path, self._lifespan.state)
            except Refusal:
                await self._lifespan.shut_down_by(0.0)
                raise
        module: Any = importlib.import_module("granian.asgi")
        futures: Any = importlib.import_module("granian._futures")
        self._callback = module._callback_wrapper(
            self._behind_proxies(_counted(app, self._begun)),
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

    async def told(self, seconds: float) -> None:
        if self._closing:
            await asyncio.wait(self._closing, timeout=seconds)

    @property
    def untold(self) -> int:
        return len(self._closing)

    def busy(self) -> bool:
        return bool(self._closing) or any(self._calls())

    def _calls(self) -> Iterator[Any]:
        """granian's own object of each request in flight, found in the frame of its task: nobody keeps a list."""
        for task in asyncio.all_tasks():
            frame = getattr(task.get_coro(), "cr_frame", None)
            if frame is not None and frame.f_code is self._code:
                yield frame.f_locals["watcher"]


def _counted(app: Any, begun: Count) -> Any:
    """`app`, of which each call is counted: all that is ours on the way of a request."""
    count = begun.next

    def counted(scope: Any, receive: Any, send: Any) -> Any:
        count()
        return app(scope, receive, send)

    return counted


async def _restart(proto: Any) -> None:
    with contextlib.suppress(Exception):  # the client was faster
        await proto.send({"type": "websocket.close", "code": 1012, "reason": ""})


def _cell(function: Any, name: str) -> Any:
    """The cell of `name` in a closure of granian's, or in a function of the same module that the closure holds."""
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    if name in cells:
        return cells[name]
    for cell in cells.values():
        inner = cell.cell_contents
        if inspect.isfunction(inner) and inner.__globals__ is function.__globals__:
            found = _cell(inner, name)
            if found is not None:
                return found
    return None

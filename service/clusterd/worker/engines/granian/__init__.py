"""WSGI and ASGI by granian 2.8: hyper and tokio in threads of Rust, Python for the application alone.

Its worker classes are used, one for each listener; its processes, signals and command line are not. They are not a
public interface, which is why the range has an upper end. Nothing of ours is on the path of a request before the drain.

A drain has three means. A listener of nobody's is put over the descriptor that granian accepts from (dup2): it goes on
accepting, in vain, and keeps its connections. The object that makes responses is exchanged for one that adds
`Connection: close`. After `linger`, granian's own signal lets idle connections go, and HTTP/2 by GOAWAY.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import logging
import socket
import time
from typing import TYPE_CHECKING, Any, Literal

from ... import exiting
from ...channel import Channel, Draining
from ...refusal import Refusal
from .. import require, require_module
from ..accepted import idle
from ..orders import Orders
from ..pulse import LoopPulse
from .application import Application, Asgi, Wsgi
from .servers import Servers

if TYPE_CHECKING:
    from ...boot import Boot

LEAST = (2, 8, 0)
"""Before 2.7.9 a slow WSGI request could hold up others (its #874), before 2.8 ASGI is for one listener."""

BEFORE = (2, 9)

_TICK = 0.02
"""Seconds between two looks at the connections, during a drain only."""

_LAST = 0.1
"""Seconds before the end of a drain by which idle connections are let go, so that what is left was in flight."""

_TOLD = 0.2
"""Seconds at most until granian says that the WebSockets have been sent their end: 2.8.0 does when it lets go."""

_ARGUMENTS = frozenset({"sock", "ipc", "threads", "py_threads", "backpressure", "http_mode", "http1_opts", "metrics"})


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
        application: Application = (Asgi if self.interface == "asgi" else Wsgi)(self.app, self.boot)
        worker = _Worker(self.boot, application, listeners, channel)
        return exiting.run(loop, worker.main(), lambda: worker.cuts)


class _Worker:
    """One worker's life, in the order of its methods."""

    def __init__(self, boot: Boot, application: Application, listeners: list[socket.socket], channel: Channel) -> None:
        self._boot = boot
        self._application = application
        self._listeners = listeners
        self._channel = channel
        self._servers: Servers | None = None
        self._closed = 0
        self.cuts = False
        """Requests are under way that will not be answered any more."""

    async def main(self) -> int:
        orders = Orders(self._channel, self._boot.http.keep_alive)
        began = time.monotonic()
        await self._application.start(self._channel.awaits)
        pulse = LoopPulse(self._boot, self._channel, self._application.figures)
        self._channel.say("ready", seconds=round(time.monotonic() - began, 6))
        if await orders.serve():
            self._servers = Servers(
                self._application.interface, self._boot, self._application.scheduler, self._listeners
            )
            self._channel.say("serving")
        draining = await orders.drain()
        if self._servers is not None:
            self._servers.stop_accepting()
            self._application.answer_with_close()
        self._channel.say("draining")
        cut = 0
        if self._servers is not None:
            await self._wait_for_clients(self._servers, draining)
            cut = len(self._servers.accepted.fds())
        self.cuts = cut > 0 or self._application.busy()
        await self._application.stop(draining.deadline)
        pulse.stop()
        requests, websockets = self._application.requests, self._application.websockets
        self._channel.say("drained", requests=requests, closed=self._closed, websockets=websockets, cut=cut)
        orders.close()
        return 0

    async def _wait_for_clients(self, servers: Servers, draining: Draining) -> None:
        let_go: float | None = None
        while True:
            now, began = time.monotonic(), time.thread_time()
            fds = servers.accepted.fds()
            if let_go is not None:
                if not fds and servers.stopped and not self._application.busy():
                    return
                if now >= max(draining.deadline, let_go + _LAST):  # later where it has stood still until then
                    return
            elif not fds or draining.fresh_may_close(now) or now >= draining.deadline - _LAST:
                before = idle(fds)
                if self._application.close_websockets():
                    # let_go ends the applications' receive(), which must not come first
                    await self._application.told(max(0.0, min(_TOLD, draining.deadline - _LAST / 2 - now)))
                    await asyncio.sleep(_TICK)
                # A WebSocket has been sent its 1012 in between, whether its client has answered that already or not;
                # by granian 2.8.0 only when it lets go.
                untouched = len(before.items() & idle(fds).items())
                self._closed = max(0, untouched - self._application.untold)
                servers.let_go()
                let_go = time.monotonic()
            # A look at many connections takes its time: never more than a tenth of a processor's.
            pause = max(_TICK, 10 * (time.thread_time() - began))
            left = draining.deadline - (_LAST if let_go is None else 0.0) - now
            await asyncio.sleep(min(pause, max(_TICK, left)))

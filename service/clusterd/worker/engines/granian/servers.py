"""granian's worker objects: how they are made, how they stop accepting, how they let their connections go."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import secrets
import socket
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ... import tls
from ..accepted import Accepted, ignore

if TYPE_CHECKING:
    from ...boot import Boot

_BACKLOG = 4096
_CONNECTIONS = 4096
"""Connections without `max-connections`; granian's own default is a quarter of that, shared by its workers."""

THREADS = 4
"""Threads that run WSGI requests, as waitress has. Each that is busy costs the others: a small answer took half as much
CPU again with 16, as they hand the interpreter's lock around; granian's own default is hundreds."""


class Servers:
    """granian's worker objects, one for each listener, all of one application."""

    def __init__(self, interface: str, boot: Boot, scheduler: Any, listeners: list[socket.socket]) -> None:
        self._rust: Any = importlib.import_module("granian._granian")
        self._fds: list[tuple[int, bool]] = []
        self._signals: list[Any] = []
        self._running = 0
        self._loop = asyncio.get_running_loop()
        self.accepted = Accepted(listeners)
        for sock in listeners:
            self._start(sock, interface, boot, scheduler)
            sock.close()

    @property
    def stopped(self) -> bool:
        """Whether every connection that is not a WebSocket has ended, after `let_go`."""
        return self._running == 0

    def _start(self, listener: socket.socket, interface: str, boot: Boot, scheduler: Any) -> None:
        rust, unix = self._rust, listener.family == socket.AF_UNIX
        fd = os.dup(listener.fileno())  # granian's for good
        kind = getattr(rust, f"{interface.upper()}Worker")
        holder = rust.SocketHolder(fd, unix, _BACKLOG)
        signal = rust.WorkerSignal()
        signal.add_cb(self._on_stopped)
        with _certificate(boot) as certificate:
            worker = kind(worker_id=1, sock=(None, holder), **_settings(interface, boot), **certificate)
            serve = worker.serve_mtr_uds if unix else worker.serve_mtr
            serve(scheduler, self._loop, signal)
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


def _settings(interface: str, boot: Boot) -> dict[str, Any]:
    """Everything but the socket and the certificate."""
    http, http_module = boot.http, importlib.import_module("granian.http")
    # hyper waits as long for the next request of a kept connection as for the rest of a header.
    one = http_module.HTTP1Settings(header_read_timeout=max(1, round(http.keep_alive * 1000)))
    one.keep_alive = http.keep_alive > 0
    two = http_module.HTTP2Settings()
    if http.max_header_size is not None:
        one.max_buffer_size = two.max_headers_size = http.max_header_size
    threads = http.threads or THREADS
    return {
        "threads": 1,
        "blocking_threads": 512,  # tokio's own, for files; they are started when needed
        "py_threads": threads if interface == "wsgi" else 1,
        "py_threads_idle_timeout": 30,
        "backpressure": http.max_connections or _CONNECTIONS,
        "http_mode": http.version,
        "http1_opts": one,
        "http2_opts": two,
        "ssl_crl": [],
        **({"websockets_enabled": http.ws != "none"} if interface == "asgi" else {}),
        "ssl_protocol_min": f"tls{boot.tls.minimum_version if boot.tls else '1.2'}",
        "ipc": None,
        "metrics": (None, None),
    }


@contextlib.contextmanager
def _certificate(boot: Boot) -> Iterator[dict[str, Any]]:
    """The arguments for TLS; granian reads the files while it starts."""
    if boot.tls is None:
        yield {}
        return
    with tls.files(boot.tls) as (certificate, key):
        yield {"ssl_enabled": True, "ssl_cert": certificate, "ssl_key": key}

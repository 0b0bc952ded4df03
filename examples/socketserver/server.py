"""A plain Python HTTP server under clusterd: takes its socket from systemd, says when it is ready, drains on SIGTERM.

Needs sdnotify (Debian: python3-sdnotify), or any other ten lines that send READY=1 to $NOTIFY_SOCKET.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import sdnotify

GREETING = "hello"
LINGER = float(os.environ.get("LINGER", "5"))  # as long as clients may believe that a connection is kept


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    timeout = LINGER
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        body = self.answer().encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        if self.server.draining:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def answer(self) -> str:
        url = urlsplit(self.path)
        if url.path == "/pid":
            return f"{os.getpid()}\n"
        if url.path == "/sleep":
            seconds = min(float(parse_qs(url.query).get("seconds", ["1"])[0]), 60.0)
            time.sleep(seconds)
            return f"slept {seconds:g} s\n"
        return f"{GREETING} from worker {os.environ.get('CLUSTERD_WORKER')}, slot {os.environ.get('CLUSTERD_SLOT')}\n"

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = False

    def __init__(self, listener: socket.socket) -> None:
        super().__init__(listener.getsockname()[:2], Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.timeout = 0.05  # of handle_request()
        self.leaving = False
        self.draining = False
        self.connections: set[socket.socket] = set()
        self.changed = threading.Condition()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self.changed:
            self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        with self.changed:
            self.connections.discard(request)
            self.changed.notify_all()

    def leave(self, number: int, frame: Any) -> None:
        """On SIGTERM. Noted, no more: what it interrupts may hold a lock that a new thread would wait for."""
        self.leaving = True

    def drain(self) -> None:
        """The successor has the same socket, so what is queued there is not lost."""
        self.draining = True
        self.socket.close()
        with self.changed:
            self.changed.wait_for(lambda: not self.connections, LINGER)
            for connection in self.connections:
                # What has arrived is still read and answered; after it comes an end of file.
                with contextlib.suppress(OSError):  # its thread has just closed it
                    connection.shutdown(socket.SHUT_RD)
        self.server_close()  # waits for the threads


def main() -> None:
    if os.environ.get("LISTEN_FDS"):
        listener = socket.socket(fileno=3)
    else:
        listener = socket.create_server(("127.0.0.1", 8000))
    server = Server(listener)
    signal.signal(signal.SIGTERM, server.leave)
    sdnotify.SystemdNotifier().notify("READY=1")
    while not server.leaving:
        server.handle_request()
    server.drain()


if __name__ == "__main__":
    main()

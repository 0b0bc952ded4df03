"""An engine without clusterd, on a socket as clusterd's slots are, with the settings it has there.

Usage: bare.py uvicorn|waitress MODULE:OBJECT PORT      (port 0: a free one, which is printed)
"""

from __future__ import annotations

import importlib
import logging
import socket
import sys


def listener(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.bind(("127.0.0.1", port))
    sock.listen(4096)
    sock.setblocking(False)
    return sock


def main(engine: str, reference: str, port: int) -> None:
    module, _, name = reference.partition(":")
    sock = listener(port)
    if not port:
        print(sock.getsockname()[1], flush=True)
    if engine == "uvicorn":
        import uvicorn

        config = uvicorn.Config(
            reference, access_log=False, log_level="warning", backlog=4096, interface="asgi3", lifespan="off"
        )
        uvicorn.Server(config).run(sockets=[sock])
    elif engine == "waitress":
        import waitress

        logging.getLogger("waitress.queue").setLevel(logging.ERROR)
        app = getattr(importlib.import_module(module), name)
        waitress.serve(
            app, sockets=[sock], connection_limit=4096, channel_timeout=5, cleanup_interval=1,
            clear_untrusted_proxy_headers=True, asyncore_use_poll=True, trusted_proxy="127.0.0.1",
            trusted_proxy_count=1, trusted_proxy_headers={"x-forwarded-for", "x-forwarded-proto"}, _quiet=True,
        )  # fmt: skip


main(sys.argv[1], sys.argv[2], int(sys.argv[3]))

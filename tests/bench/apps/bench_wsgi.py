"""The application every WSGI server of the benchmark serves: the same answers as bench_app.py."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from typing import Any

from bench_common import DIE, body_of, moment

armed: set[int] = set()


def arm() -> None:
    armed.add(os.getpid())
    timer = threading.Timer(moment(), os._exit, (1,))
    timer.daemon = True
    timer.start()


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    if DIE and os.getpid() not in armed:
        arm()
    path = environ["PATH_INFO"]
    body = b"hello" if path == "/" else body_of(path)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]

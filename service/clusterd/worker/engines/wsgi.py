"""WSGI without a server: a request made in the process itself."""

from __future__ import annotations

import sys
from typing import Any
from wsgiref.util import setup_testing_defaults

from ... import worker
from ..refusal import Refusal, describe, text_of


def get(app: Any, path: str) -> int:
    """The status of GET `path`. Whatever the application raises comes out."""
    path, _, query = path.partition("?")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": path, "QUERY_STRING": query, "HTTP_HOST": "localhost",
        "HTTP_USER_AGENT": "clusterd", "REMOTE_ADDR": "127.0.0.1", "SERVER_NAME": "localhost", "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.errors": sys.stderr, "wsgi.multithread": True, "wsgi.multiprocess": True,
        "clusterd.worker": worker,
    }  # fmt: skip
    setup_testing_defaults(environ)
    status = ""

    def start_response(line: str, headers: Any, exc_info: Any = None) -> Any:
        nonlocal status
        status = line
        return lambda data: None

    body = app(environ, start_response)
    try:
        for _ in body:
            pass
    finally:
        close = getattr(body, "close", None)
        if close is not None:
            close()
    number = status.partition(" ")[0]
    if not number.isdigit():
        raise RuntimeError("the application returned without a response")
    return int(number)


def check_health(app: Any, path: str) -> None:
    """Raises Refusal unless `path` answers 200 to 399."""
    try:
        status = get(app, path)
    except BaseException as e:
        raise Refusal(f"GET {path} failed: {describe(e)}", text_of(e)) from e
    if not 200 <= status <= 399:
        raise Refusal(f"GET {path} answered {status}, [health] path expects 200 to 399")

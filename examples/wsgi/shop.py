"""A WSGI application without a framework, to see a cluster at work.

/                    who answered
/pid                 the worker's process
/sleep?seconds=1     an answer that takes its time: it survives a reload
/healthz             what the health check asks
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qs

from clusterd import worker

GREETING = "hello"


def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    status, text = answer(environ)
    body = text.encode()
    start_response(status, [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))])
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


def answer(environ: dict[str, Any]) -> tuple[str, str]:
    path = environ["PATH_INFO"]
    if path == "/":
        return "200 OK", f"{GREETING} from worker {worker.id}, slot {worker.slot}, generation {worker.generation}\n"
    if path == "/pid":
        return "200 OK", f"{os.getpid()}\n"
    if path == "/sleep":
        seconds = min(float(parse_qs(environ["QUERY_STRING"]).get("seconds", ["1"])[0]), 60.0)
        time.sleep(seconds)
        return "200 OK", f"slept {seconds:g} s\n"
    if path == "/healthz":
        return "200 OK", "ok\n"
    return "404 Not Found", "not found\n"

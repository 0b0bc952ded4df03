"""An application learns that its worker's drain has begun."""

from __future__ import annotations

import json
import socket
import time

import pytest
from environments import environment

APPLICATION = """\
import asyncio, json, os, threading, time
from clusterd import worker

told = []

@worker.on_drain
def plain():
    told.append(["plain", worker.draining, threading.current_thread() is threading.main_thread()])

@worker.on_drain
async def later():
    await asyncio.sleep(0)
    told.append(["async", worker.draining])

@worker.on_drain
def bad():
    raise KeyError("in the hook")

def report(given):
    return json.dumps({"before": worker.draining, "given": None if given is None else given is worker}).encode()

def wsgi(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    yield report(environ.get("clusterd.worker")) + b"\\n"
    while not (worker.draining and len(told) == 2):
        time.sleep(0.01)
    yield json.dumps(sorted(told)).encode()

async def asgi(scope, receive, send):
    if scope["type"] == "lifespan":
        raise RuntimeError("no lifespan")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    begin = report(scope.get("state", {}).get("clusterd")) + b"\\n"
    await send({"type": "http.response.body", "body": begin, "more_body": True})
    while not (worker.draining and len(told) == 2):
        await asyncio.sleep(0.01)
    await send({"type": "http.response.body", "body": json.dumps(sorted(told)).encode()})
"""


@pytest.mark.parametrize(
    ("venv", "app"),
    [
        ("uvicorn-newest", "asgi"),
        ("granian-newest", "asgi"),
        ("granian-newest", "wsgi"),
        ("waitress-newest", "wsgi"),
        pytest.param("uvicorn-0.17.6", "asgi", marks=pytest.mark.proof),
        pytest.param("waitress-2.1.2", "wsgi", marks=pytest.mark.proof),
    ],
)
def test_it_is_told(start, application, slots, venv: str, app: str) -> None:
    """The flag and each function, plain and async, once; a stream that looks at it ends in good order.

    A request has the worker with it, where the server passes the state of the lifespan: uvicorn does since 0.21.
    """
    (application / "looking.py").write_text(APPLICATION)
    (slot,) = slots(1)
    master = start(python=environment(venv))
    master.up(app=f"looking:{app}", engine=venv.split("-")[0])
    worker = master.serving([slot])
    with socket.create_connection(slot.getsockname(), 30) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        got = b""
        while b"before" not in got:
            got += sock.recv(4096)
        given = "null" if venv == "uvicorn-0.17.6" else "true"
        assert b'{"before": false, "given": %s}' % given.encode() in got
        worker.drain(0.1, 20.0)
        end = time.monotonic() + 20
        while b"plain" not in got and time.monotonic() < end:
            got += sock.recv(4096)
    assert json.dumps([["async", True], ["plain", True, False]]).encode() in got

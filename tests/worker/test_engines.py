"""Each supported version of each engine: the drain in its stages, byte by byte."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
from typing import Any

import pytest
from environments import CASES, Case, environment
from harness import HELD, Client, signal_pidfd
from websocket import WebSocket


def cases(*apps: str) -> list[Any]:
    """Those that serve one of `apps`."""
    lower_end = "granian-2.8.0"  # its drain is that of the newest: for the proof
    return [
        pytest.param(case, marks=pytest.mark.proof if case.environment == lower_end else [], id=case.name)
        for case in CASES
        if case.app in apps
    ]


@pytest.fixture(params=cases("hello:app", "shop:app"))
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


@pytest.fixture
def booted(start, application, case):
    """A master whose zygote has loaded the example that suits the engine."""
    master = start(python=environment(case.environment))
    up = master.up(**case.boot, health={"path": "/healthz"})
    assert up["engine"].startswith(case.environment.split("-")[0] + " ")
    assert up["mode"] == "fork", up["why"]
    return master


def test_staged_drain(booted, case, application, begun, slots):
    """In flight: answered with Connection: close. Kept: each further request as well. Idle: closed after linger.

    What outlasts the linger granian closes as well, but with ASGI need not say so: it tells each connection by itself.
    """
    (slot,) = slots(1)
    address = slot.getsockname()
    worker = booted.serving([slot])
    busy, kept, idle = (Client(address) for _ in range(3))
    assert kept.get()[1].get("connection") is None
    idle.get()
    begun(busy.ask, HELD)
    assert kept.get("/pid")[2] == f"{worker.pid}\n"  # the worker has busy's request: it came first
    worker.drain(linger=30)
    worker.peer.expect("draining")
    queued = Client(address)  # nobody accepts: it waits for the successor
    queued.ask("/pid")
    successor = booted.serving([slot])
    assert queued.read()[2] == f"{successor.pid}\n"
    status, headers, body = kept.get("/pid")
    assert (status, headers["connection"].lower(), body) == (200, "close", f"{worker.pid}\n")
    assert kept.ended()
    worker.drain(linger=0.2)
    assert idle.ended()
    (application / "go").touch()
    status, headers, body = busy.read()
    said = headers.get("connection", "close" if case.engine == "granian" else "")
    assert (status, said.lower(), body) == (200, "close", "slept 0 s\n")
    assert busy.ended()
    report = worker.peer.expect("drained")
    assert (report["requests"], report["closed"], report["cut"]) in ((5, 1, 0), (None, 1, 0))  # granian counts none
    assert worker.gone()
    assert booted.exited(worker) == 0
    for client in (busy, kept, idle, queued):
        client.close()


@pytest.mark.parametrize("constants", ["channel.FRESH = 120.0"], ids=["fresh"])
def test_linger_zero_keeps_a_request_under_way(booted, slots):
    """A connection that has been made and not used yet is given the moment its request takes."""
    (slot,) = slots(1)
    worker = booted.serving([slot])
    probe = Client(slot.getsockname())
    fresh = Client(slot.getsockname())
    probe.get()  # fresh was accepted before this was answered, or with it
    worker.drain(linger=0)
    worker.peer.expect("draining")
    status, headers, _ = fresh.get()
    assert (status, headers["connection"].lower()) == (200, "close")
    probe.close()  # granian lets go of all at once
    fresh.close()
    worker.peer.expect("drained")


def test_deadline_cuts_and_says_so(booted, begun, slots):
    """At the drain's timeout the worker leaves, and tells how many it left unanswered."""
    (slot,) = slots(1)
    worker = booted.serving([slot])
    slow, probe = Client(slot.getsockname()), Client(slot.getsockname())
    begun(slow.ask, HELD)
    probe.get()
    worker.drain(linger=0)
    assert probe.ended()
    worker.drain(linger=0, timeout=0.3)
    assert worker.drained()["cut"] == 1
    slow.close()
    probe.close()


def test_a_stop_hastens_a_drain(booted, begun, slots):
    """A second order ends linger and deadline sooner, never later."""
    (slot,) = slots(1)
    worker = booted.serving([slot])
    idle, slow = Client(slot.getsockname()), Client(slot.getsockname())
    idle.get()
    begun(slow.ask, HELD)
    idle.get()
    worker.drain(linger=60, timeout=60)
    worker.peer.expect("draining")
    worker.drain(linger=0, timeout=60)
    worker.drain(linger=60, timeout=60)
    assert idle.ended()
    worker.drain(linger=0, timeout=0.4)
    worker.drain(linger=60, timeout=60)
    report = worker.peer.expect("drained")
    assert (report["closed"], report["cut"]) == (1, 1)
    idle.close()
    slow.close()


def test_two_listeners_and_a_unix_socket(booted, slots, tmp_path):
    """Addresses of every family at once; TCP_NODELAY is set on what is accepted."""
    (first,) = slots(1)
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(path)
        unix.listen(16)
        unix.setblocking(False)
        worker = booted.serving([first, unix])
        for address in (first.getsockname(), path):
            client = Client(address)
            assert client.get("/pid")[2] == f"{worker.pid}\n"
            client.close()
        worker.drain()
        worker.drained()


def test_every_kept_connection_is_told(booted, slots):
    """Many kept connections at once, each asks once more after the drain began, none is lost."""
    (slot,) = slots(1)
    worker = booted.serving([slot])
    clients = [Client(slot.getsockname()) for _ in range(40)]
    for client in clients:
        client.get()
    worker.drain(linger=60)
    worker.peer.expect("draining")
    for client in clients:
        assert client.get()[1]["connection"].lower() == "close"
        client.close()
    assert worker.peer.expect("drained")["cut"] == 0


def test_head_and_http_1_0_during_the_drain(booted, slots):
    """Answers without a body, and to clients of HTTP/1.0 that asked to be kept, end the connection as well."""
    (slot,) = slots(1)
    worker = booted.serving([slot])
    head, old = Client(slot.getsockname()), Client(slot.getsockname())
    head.get()
    old.get()
    worker.drain(linger=10)  # after which granian 2.8.0 ends the second
    worker.peer.expect("draining")
    head.ask(method="HEAD")
    assert head.read_head()[1]["connection"].lower() == "close"
    assert head.ended()
    old.sock.sendall(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert old.read()[0] == 200
    assert old.ended()
    worker.peer.expect("drained")
    head.close()
    old.close()


@pytest.mark.parametrize("case", cases("hello:app"))
def test_websocket_gets_1012(start, slots, case):
    """An open WebSocket works through the drain until linger is over, and is then told 1012, 'service restart'."""
    master = start(python=environment(case.environment))
    master.up(**case.boot)
    (slot,) = slots(1)
    worker = master.serving([slot])
    early = WebSocket(slot.getsockname())
    early.send("one")
    assert early.text() == "one"
    kept = Client(slot.getsockname())
    kept.get()
    worker.drain(linger=30)
    worker.peer.expect("draining")
    early.send("two")
    assert early.text() == "two"
    late = WebSocket(None, client=kept)  # opened on a kept connection during the drain
    assert "close" not in late.headers["connection"].lower()
    worker.drain(linger=0.2)
    assert early.close_code() == 1012
    assert late.close_code() == 1012
    early.close()
    late.close()
    report = worker.peer.expect("drained")
    assert (report["websockets"], report["cut"]) == (2, 0)
    assert worker.gone()


def test_a_drain_amid_accepting(booted, slots):
    """Connections that are being accepted when the order comes are answered, by this worker or from the queue."""
    (slot,) = slots(1)
    worker = booted.serving([slot])
    warm = Client(slot.getsockname())
    warm.get()
    # Stopped, so that it finds the connections and the order in one turn of its loop.
    signal_pidfd(worker.pidfd, signal.SIGSTOP)
    clients = [Client(slot.getsockname()) for _ in range(50)]
    for client in clients:
        client.ask("/pid")
    worker.drain(linger=60)
    signal_pidfd(worker.pidfd, signal.SIGCONT)
    worker.peer.expect("draining")
    successor = booted.serving([slot])
    answers = {client.read()[2] for client in clients}
    assert answers <= {f"{worker.pid}\n", f"{successor.pid}\n"}
    for client in (warm, *clients):
        client.close()
    assert worker.peer.expect("drained")["cut"] == 0


GONE = """\
import asyncio, time
from clusterd import worker

def finish():
    open("began", "w").close()
    while not worker.draining:
        time.sleep(0.01)
    time.sleep(0.5)
    open("finished", "w").close()

def wsgi(environ, start_response):
    finish()
    start_response("200 OK", [("Content-Length", "0")])
    return []

async def asgi(scope, receive, send):
    assert scope["type"] == "http"
    await asyncio.to_thread(finish)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})
"""


def test_a_request_whose_client_has_gone_is_finished(start, application, slots, case):
    """What it was to do is done before the worker leaves, though nobody waits for the answer."""
    (application / "gone.py").write_text(GONE)
    os.mkfifo(application / "began")
    master = start(python=environment(case.environment))
    master.up(**{**case.boot, "app": "gone:asgi" if case.app == "hello:app" else "gone:wsgi"})
    (slot,) = slots(1)
    worker = master.serving([slot])
    client = Client(slot.getsockname())
    client.ask()
    (application / "began").open().close()
    client.close()
    worker.drain(linger=0)
    worker.drained()
    assert (application / "finished").exists()


FRAMES = """\
import inspect, json

def frames():
    return json.dumps([frame.filename for frame in inspect.stack()[1:]]).encode()

def wsgi(environ, start_response):
    start_response("200 OK", [])
    return [frames()]

async def asgi(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": frames()})
"""


@pytest.mark.parametrize("app", ["wsgi", "asgi"])
def test_nothing_of_ours_calls_the_application(start, application, lib, slots, app: str):
    """granian: above an application that is being called there is the engine alone, but for what runs the loop, and for
    WSGI what counts requests."""
    (application / "frames.py").write_text(FRAMES)
    (slot,) = slots(1)
    master = start(python=environment("granian-newest"))
    master.up(app=f"frames:{app}", engine="granian")
    master.serving([slot])
    client = Client(slot.getsockname())
    frames = json.loads(client.get()[2])
    client.close()
    counts = [name for name in frames if name.endswith("/engines/pulse.py")]
    assert len(counts) == (app == "wsgi")
    frames = [name for name in frames if name not in counts]
    inner = list(itertools.takewhile(lambda name: not name.startswith(str(lib)), frames))
    outer = frames[len(inner) :]
    assert all(name.startswith(str(lib)) for name in outer), frames  # zygote and child, which have run the engine
    assert app == "asgi" or not outer, frames
    assert [name for name in inner if "/granian/" in name]
